"""Any OpenMM System as a reduced potential."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import openmm
from openmm import app, unit

from ..checks import check_choice, check_float, check_int
from ..errors import UsageError
from ..geometry import cubic_lattice
from ..units import Units, in_angstrom, in_kelvin
from .foreign import ForeignEnergy, Recipe, default_trap
from .topology import COVALENT, Topology, reach

__all__ = ["OpenMM", "fastest_platform"]


# In dalton; atomic masses are quoted to two digits at least.
MASS_TOLERANCE = 0.02
# The platform of double precision, and how many times as fast another has to be.
PRECISE, CLEARLY = "Reference", 1.5
# Springs that are no longer than so many times what two bonded atoms may be apart are bonds.
LONGEST = 1.1


@dataclass(frozen=True)
class OpenMMRecipe(Recipe):
    """A serialised System and where it is to run."""

    xml: str
    platform: str
    units: Units
    n_dims: int

    def build(self):
        """See `Recipe.build`."""
        system = openmm.XmlSerializer.deserialize(self.xml)
        platform = openmm.Platform.getPlatformByName(self.platform)
        # Single precision is not enough for acceptance ratios at large energies; and each core has a process.
        wanted = {"Precision": "mixed", "Threads": "1"}
        properties = {name: value for name, value in wanted.items() if name in platform.getPropertyNames()}
        # The context holds the integrator; the closure holds the context.
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
        nanometre, kT = self.units.length_angstrom / 10, self.units.kT_kJ_per_mol
        positions = np.zeros((system.getNumParticles(), 3))

        def evaluate(x: np.ndarray):
            positions[:, : self.n_dims] = x * nanometre
            context.setPositions(positions)
            state = context.getState(getEnergy=True, getForces=True)
            # In kJ/mol and nm always; asking for the units takes longer than the forces of a small molecule.
            u, f = state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value
            return u / kT, f[:, : self.n_dims] * (nanometre / kT)

        return evaluate


def fastest_platform(xml: str, units: Units, evaluations: int = 30) -> str:
    """Name of the OpenMM platform that evaluates this System soonest, by a trial of a fraction of a second each.

    For a dozen of atoms that is Reference: what CPU and CUDA gain, their overhead takes. Another one has to be clearly
    faster than Reference, which computes in double precision, and a trial would tell them apart by chance.

    Raises
    ------
    UsageError
        No platform can run it; says why.
    """
    n = openmm.XmlSerializer.deserialize(xml).getNumParticles()
    x = 3.0 * cubic_lattice(n, 3).numpy() / units.length_angstrom
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    for k in range(openmm.Platform.getNumPlatforms()):
        name = openmm.Platform.getPlatform(k).getName()
        try:
            evaluate = OpenMMRecipe(xml, name, units, 3).build()
            evaluate(x)
            times: list[float] = []
            start = time.perf_counter()
            while len(times) < evaluations and time.perf_counter() - start < 0.5:
                before = time.perf_counter()
                evaluate(x)
                times.append(time.perf_counter() - before)
            seconds[name] = min(times)  # what else the machine does only adds
        except openmm.OpenMMException as error:  # a platform whose driver or device is not there
            failures[name] = str(error)
    if not seconds:
        raise UsageError(f"platform: expected one that can run this System, all failed: {failures}")
    best = min(seconds, key=seconds.__getitem__)
    return PRECISE if seconds.get(PRECISE, math.inf) < CLEARLY * seconds[best] else best


class OpenMM(ForeignEnergy):
    """u = U/kT (+ trap) of the particles of an OpenMM System in vacuum.

    Parameters
    ----------
    system : openmm.System or str
        Live, or serialised by `openmm.XmlSerializer`. Not periodic; no constraints, virtual sites or massless
        particles: every particle is sampled, with no stiff degree of freedom left out.
    topology : openmm.app.Topology, optional
        Names the elements; without it the masses have to.
    temperature : float or openmm.unit.Quantity
        In kelvin.
    platform : str, optional
        By default the fastest in a short trial.
    length_angstrom : float
        The unit of length of ``x``; 1 Å by default.
    n_dims : int
        3, or 2 for particles in the plane z = 0.
    trap : float, optional
        See `ForeignEnergy`, and `parameters`, which has it; by default none for particles that harmonic
        bonds (HarmonicBondForce) hold together.
    workers, executor, chunk_size, reference
        See `ForeignEnergy`.

    Raises
    ------
    UsageError
        What is not supported, a topology in another order than the System, or an unknown platform.
    """

    def __init__(
        self,
        system,
        topology=None,
        *,
        temperature,
        platform: str | None = None,
        length_angstrom: float = 1.0,
        n_dims: int = 3,
        **options,
    ):
        if isinstance(system, str):
            try:
                system = openmm.XmlSerializer.deserialize(system)
            except Exception as error:
                raise UsageError(f"system: expected an openmm.System or its XML, it cannot be read ({error})") from None
        if not isinstance(system, openmm.System):
            raise UsageError(f"system: expected an openmm.System or its XML, got {type(system).__name__}")
        n = system.getNumParticles()
        if system.usesPeriodicBoundaryConditions():
            raise UsageError(
                "system: expected no periodic boundary conditions, got a periodic System; clusters live in vacuum "
                "(nonbondedMethod = NoCutoff)"
            )
        if system.getNumConstraints():
            raise UsageError(
                f"system: expected no constraints, they are not supported, got {system.getNumConstraints()} "
                "(constraints = None, rigidWater = False)"
            )
        for what, found in (
            ("virtual sites", [i for i in range(n) if system.isVirtualSite(i)]),
            ("particles without mass", [i for i in range(n) if system.getParticleMass(i)._value == 0]),
        ):
            if found:
                raise UsageError(f"system: expected no {what}, they are not supported, got particle {found[0]}")
        if n < 2:
            raise UsageError(f"system: expected at least two particles, got {n}")
        if topology is not None and not isinstance(topology, app.Topology):
            raise UsageError(f"topology: expected an openmm.app.Topology, got {type(topology).__name__}")
        if topology is not None and topology.getNumAtoms() != n:
            raise UsageError(f"topology: expected {n} atoms as in the System, got {topology.getNumAtoms()}")
        units = Units(
            check_float("length_angstrom", in_angstrom("length_angstrom", length_angstrom), above=0.0),
            check_float("temperature", in_kelvin("temperature", temperature), above=0.0),
        )
        xml = openmm.XmlSerializer.serialize(system)
        if platform is not None:
            check_choice(
                "platform",
                platform,
                [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())],
            )
        self.platform = platform or fastest_platform(xml, units)
        self.xml = xml
        recipe = OpenMMRecipe(xml, self.platform, units, check_int("n_dims", n_dims, 2, 3))
        if options.get("trap") is None:
            named = None if topology is None else Topology.of_openmm(topology)
            options["trap"] = 0.0 if _held_together(system) else default_trap(named)
        super().__init__(n, n_dims, recipe, units, **options)
        self.elements = _elements(system, topology)
        self.topology = _topology(system, topology, self.elements)

    @property
    def parameters(self) -> dict:
        """Forces, platform, temperature, units, trap, and what `ForeignEnergy` knows the potential by."""
        forces = openmm.XmlSerializer.deserialize(self.xml).getForces()
        names = sorted(type(f).__name__ for f in forces)
        return {"forces": names, "platform": self.platform, **super().parameters}


def _harmonic_bonds(system) -> list[tuple[int, int, float]]:
    """Two particles and the natural length (Å) of each harmonic bond that is not slack."""
    found = []
    for force in system.getForces():
        for k in range(force.getNumBonds() if isinstance(force, openmm.HarmonicBondForce) else 0):
            i, j, length, stiffness = force.getBondParameters(k)
            if stiffness._value > 0:
                found.append((i, j, length.value_in_unit(unit.angstrom)))
    return found


def _held_together(system) -> bool:
    """Whether harmonic bonds connect all particles, so that none can escape."""
    bonds = [(i, j) for i, j, _ in _harmonic_bonds(system)]
    return len(Topology.of_bonds(("X",) * system.getNumParticles(), bonds, "").fragments()) == 1


def _topology(system, topology, elements: tuple[str, ...]) -> Topology | None:
    """Names and bonds by the topology, or bonds by the force field, if there are any."""
    found = None if topology is None else Topology.of_openmm(topology)
    if found is not None and found.bonds:
        return found
    # Without terms between next neighbours, as some force fields have.
    bonds = [(i, j) for i, j, length in _harmonic_bonds(system) if length < LONGEST * reach(elements[i], elements[j])]
    if not bonds or not COVALENT.issuperset(elements):
        return found
    if found is not None:
        return replace(found, bonds=tuple(bonds), source="force field")
    return Topology.of_bonds(elements, bonds, "force field")


def _elements(system, topology) -> tuple[str, ...]:
    """Symbols by the topology, else by masses; deuterium is hydrogen, to which no force field makes a difference."""
    if topology is not None:
        found = ["X" if atom.element is None else atom.element.symbol for atom in topology.atoms()]
        _check_order(system, topology)
    else:
        found = [_of_mass(i, system.getParticleMass(i)) for i in range(system.getNumParticles())]
    return tuple("H" if symbol == "D" else symbol for symbol in found)


def _check_order(system, topology) -> None:
    """Refuse elements in another order than the masses of the System. Masses that are not just theirs, as of deuterium
    or after repartitioning, say nothing."""
    of_elements = [0.0 if a.element is None else a.element.mass.value_in_unit(unit.dalton) for a in topology.atoms()]
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())]
    off = np.abs(np.subtract(masses, of_elements)) > MASS_TOLERANCE
    if off.any() and (np.abs(np.sort(masses) - np.sort(of_elements)) <= MASS_TOLERANCE).all():
        k = int(off.argmax())
        symbol = [a.element.symbol for a in topology.atoms() if a.element is not None][k]
        raise UsageError(
            f"topology: expected its atoms in the order of the System, atom {k} is {symbol} of {of_elements[k]:.3f} u, "
            f"particle {k} of the System has {masses[k]:.3f} u"
        )


def _of_mass(index: int, mass) -> str:
    element, value = app.Element.getByMass(mass), mass.value_in_unit(unit.dalton)
    known = element is not None and abs(element.mass.value_in_unit(unit.dalton) - value) < MASS_TOLERANCE
    if not known:
        raise UsageError(
            f"topology: expected one, which names the elements: particle {index} has the mass {value:g}, that of none"
        )
    return element.symbol
