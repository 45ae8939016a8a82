"""One target of sampling: an energy with its physical scale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..units import Units, as_numbers, in_angstrom, in_kelvin, trap_stiffness
from .chemistry import Chemistry, Rotations
from .exchanges import mirrored_alike, refuse_unlike
from .notes import notes_on

if TYPE_CHECKING:
    from ..energies import Energy, Topology

__all__ = ["Potential", "System", "nearest_neighbour_distance"]

# Names of built-in systems, which put themselves here.
TAKEN_NAMES: set[str] = set()


# Functions would do for the next three, but would not pickle.
@dataclass(frozen=True)
class Potential:
    """Makes an energy of the package ``energies`` from the name of its class and arguments."""

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self) -> Energy:
        from .. import energies

        return getattr(energies, self.kind)(**self.arguments)


@dataclass(frozen=True)
class _Given:
    energy: Any

    def __call__(self) -> Energy:
        return self.energy


@dataclass(frozen=True)
class _Unknown:
    name: str

    def __call__(self) -> Energy:
        raise UsageError(
            f"system: the potential of {self.name!r} is not part of this file; give it with --calculator or --xml, or "
            "in Python as system= of what loads a network"
        )


@dataclass(frozen=True)
class _AtTemperature:
    make_energy: Callable[[], Energy]
    factor: float

    def __call__(self) -> Energy:
        from ..energies import Scalable, Scaled

        energy = self.make_energy()
        return energy.scaled(self.factor) if isinstance(energy, Scalable) else Scaled(energy, self.factor)


@dataclass(frozen=True)
class System:
    """One named target of sampling.

    Attributes
    ----------
    name, description : str
    make_energy : callable () -> Energy
    elements : tuple of str
        Chemical symbol of each atom, written to topology files.
    units : Units
    sigma_data : float
        Standard deviation of a coordinate under the target, in reduced length: the scale of the preconditioning.
    exact_mean_energy : tuple[float, float] or None
        Mean of u and its standard error by long MCMC, for reports; never used in training or sampling.
    labels : tuple of int, optional
        Which atoms are alike: the network treats those of one label as interchangeable. By default atoms of one element
        are. `of_energy` finds them for molecules.
    n_dims : int
    parameters : mapping
        Of the energy, as in its ``parameters``.
    geometry : tuple of tuple of float, optional
        An ordinary configuration, shape (N, D), reduced length, about its centroid; kept in files for molecules alone.
    topology : Topology, optional
        Names, residues and bonds of the atoms of a molecule.
    mirror_images : bool
        Whether samples that are mirror images of the molecule are reflected back, which have the same energy.
    """

    name: str
    description: str
    make_energy: Callable[[], Energy]
    elements: tuple[str, ...]
    units: Units
    sigma_data: float
    exact_mean_energy: tuple[float, float] | None = None
    labels: tuple[int, ...] | None = None
    n_dims: int = 3
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    geometry: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False, compare=False)
    topology: Topology | None = field(default=None, repr=False, compare=False)
    mirror_images: bool = field(default=False, repr=False, compare=False)

    def energy(self) -> Energy:
        """The energy, with a call counter of its own at zero."""
        energy = copy.copy(self.make_energy())
        energy.calls, energy.max_calls, energy.on_count = 0, None, None
        return energy

    @property
    def origin(self) -> Callable[[], Energy]:
        """What makes the energy at the temperature that it was made for; see `at`."""
        make = self.make_energy
        while isinstance(make, _AtTemperature):
            make = make.make_energy
        return make

    def at(self, temperature_K: float) -> System:
        """The same potential at another temperature, in kT of that temperature; a trap counts as part of it.

        Raises
        ------
        UsageError
            A temperature that is not a positive number, or a system whose energy is not known.
        """
        from ..checks import check_float  # with torch, which listing systems does not need

        temperature_K = check_float("temperature_K", in_kelvin("temperature_K", temperature_K), above=0.0)
        make = _AtTemperature(self.make_energy, self.units.temperature_kelvin / temperature_K)
        return replace(
            self,
            name=f"{self.name}-{temperature_K:g}K",
            description=f"{self.description}, at {temperature_K:g} K",
            make_energy=make,
            units=replace(self.units, temperature_kelvin=float(temperature_K)),
            exact_mean_energy=None,
            parameters=make().parameters if self.has_energy else {},
        )

    def with_energy(self, energy: Energy) -> System:
        """The same atoms with another potential."""
        return replace(self, make_energy=_Given(energy), parameters=energy.parameters, mirror_images=False)

    @property
    def has_energy(self) -> bool:
        """Whether `energy` gives one; not if the system was read from a file that has only its description."""
        return not isinstance(self.origin, _Unknown)

    @property
    def trap(self) -> float | None:
        """Stiffness of the harmonic trap in kT / Å^2, if it is known."""
        return trap_stiffness(self.parameters, self.units.length_angstrom)

    @property
    def kT(self) -> dict[str, float]:
        """One kT in units of energy; in the plane, where the temperature is only a name, in kT alone."""
        physical = {"eV": self.units.kT_eV, "kJ/mol": self.units.kT_kJ_per_mol} if self.n_dims == 3 else {}
        return {"kT": 1.0, **physical}

    @cached_property
    def chemistry(self) -> Chemistry | None:
        """What makes a configuration one of the molecule; None for clusters of atoms."""
        if self.topology is None or not self.topology.bonds or self.geometry is None or self.n_dims != 3:
            return None
        return Chemistry.of(self.topology, self.elements, self.geometry, self.units.length_angstrom)

    @property
    def notes(self) -> list[str]:
        """Sentences on what is known of a molecule, or of a unit of length, and had best be looked at."""
        return notes_on(self, None if self.geometry is None else nearest_neighbour_distance(self.geometry))

    @cached_property
    def rotations(self) -> Rotations:
        """What turns about the bonds of a molecule; nothing in clusters."""
        molecule = self.chemistry
        if molecule is None:
            return Rotations((), np.zeros((self.n_atoms, self.n_atoms)))
        return Rotations(molecule.rotations, molecule.contacts(self.elements, self.units.length_angstrom))

    def of_one_hand(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, N, D), with those of the other enantiomer reflected back, if both have the same energy."""
        return self.chemistry.of_one_hand(positions) if self.mirror_images and self.chemistry else positions

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.elements)

    @property
    def kinds(self) -> tuple[int, ...]:
        """For each atom the number of its kind, 0, 1, ...; from ``labels`` or else the elements."""
        return _kinds(self.elements if self.labels is None else self.labels)

    def openmm_topology(self):
        """The atoms as an `openmm.app.Topology`, which the force fields of this package accept."""
        return self.named_atoms.openmm(self.elements)

    @property
    def named_atoms(self) -> Topology:
        """The topology, or that of loose atoms."""
        from ..energies import Topology

        return Topology.loose(self.elements) if self.topology is None else self.topology

    def describe(self) -> dict[str, Any]:
        """What checkpoints and ensembles carry, as JSON: all but the energy, and that too if it is native
        Lennard-Jones. The inverse is `System.described`."""
        from ..energies import LennardJones

        # Not those of a user's class, which may be of another formula, or cost much to make.
        energy = self.make_energy() if isinstance(self.origin, (_Given, Potential)) else None
        potential = None
        if isinstance(energy, LennardJones) and type(energy).evaluate is LennardJones.evaluate:
            potential = {"lennard_jones": energy.parameters}
        molecule: dict[str, Any] = {}
        if self.topology is not None:
            molecule = {
                "topology": self.topology.table(),
                "geometry": self.geometry,
                "mirror_images": self.mirror_images,
            }
        return {
            **molecule,
            "name": self.name,
            "potential": potential,
            "description": self.description,
            "elements": list(self.elements),
            "length_angstrom": self.units.length_angstrom,
            "temperature_kelvin": self.units.temperature_kelvin,
            "sigma_data": self.sigma_data,
            "labels": None if self.labels is None else list(self.labels),
            "n_dims": self.n_dims,
        }

    @classmethod
    def described(cls, table: Mapping[str, Any]) -> System:
        """A system from `describe`; asked for an energy that is not in there it raises `UsageError`.

        Raises
        ------
        KeyError, TypeError, ValueError
            Not such a table.
        """
        from ..energies import Topology

        name, elements, n_dims = str(table["name"]), tuple(map(str, table["elements"])), int(table.get("n_dims", 3))
        make: Callable[[], Energy] = _Unknown(name)
        parameters: Mapping[str, Any] = {}
        # Versions before had neither potential nor number of dimensions.
        if (potential := table.get("potential")) is not None:
            arguments = {"n_atoms": len(elements), "n_dims": n_dims, **potential["lennard_jones"]}
            make = Potential("LennardJones", arguments)
            try:
                parameters = make().parameters
            except UsageError as error:
                raise ValueError(str(error)) from None
        topology, geometry = table.get("topology"), table.get("geometry")
        return cls(
            name,
            str(table["description"]),
            make,
            elements,
            Units(float(table["length_angstrom"]), float(table["temperature_kelvin"])),
            float(table["sigma_data"]),
            labels=None if table["labels"] is None else tuple(map(int, table["labels"])),
            n_dims=n_dims,
            parameters=parameters,
            geometry=None if geometry is None else tuple(tuple(map(float, row)) for row in geometry),
            topology=None if topology is None else Topology.of_table(topology, len(elements)),
            mirror_images=bool(table.get("mirror_images", False)),
        )

    @classmethod
    def of_energy(cls, energy: Energy, positions, name: str = "custom", labels=None) -> System:
        """A system of a foreign potential, its scale taken from one ordinary configuration.

        Parameters
        ----------
        energy : Energy with the attributes ``units`` (Units) and ``elements`` (a symbol an atom)
            An `energies.ASE`, an `energies.OpenMM`, or one of your own. Its ``length_angstrom`` had best be near the
            distance of nearest neighbours, which is what the presets are written for; see `nearest_neighbour_distance`.
            With an attribute ``topology`` (Topology) that has bonds it is a molecule.
        positions : array, shape (N, 3), in Å, or an OpenMM quantity
        name : str
            May not be that of a built-in system.
        labels : sequence of int, optional
            See the class. By default those of a molecule's bonds, if exchanges of such atoms leave the energy as it is,
            and else one for each atom: two atoms are alike if exchanging just these two changes no bond.

        Raises
        ------
        UsageError
            An energy without a physical scale, positions of another shape, a name that is taken, or atoms of one label
            that are not interchangeable.

        Notes
        -----
        Exchanges of atoms that count as alike are tried on the geometry, for two energy calls and up to three more
        a kind, and eight more for mirror images if there is a stereocentre. From there on energies that run away below
        that of the geometry, as two atoms fall into each other, raise `EnergyError`, which names them.
        """
        from ..checks import check_int
        from ..energies import Floor, Physical

        if not isinstance(energy, Physical):
            raise UsageError(f"energy: expected the attributes units and elements, {type(energy).__name__} has none")
        x = as_numbers("positions", in_angstrom("positions", positions))
        if x.shape != (energy.n_atoms, energy.n_dims) or not np.isfinite(x).all():
            raise UsageError(
                f"positions: expected finite numbers of shape ({energy.n_atoms}, {energy.n_dims}), got shape {x.shape}"
            )
        if name in TAKEN_NAMES:
            raise UsageError(f"name: expected one that is not taken by a built-in system, got {name!r}")
        if labels is not None and len(labels) != energy.n_atoms:
            raise UsageError(f"labels: expected one for each of {energy.n_atoms} atoms, got {len(labels)}")
        centred = (x - x.mean(0)) / energy.units.length_angstrom
        if not centred.any():
            raise UsageError("positions: expected an ordinary geometry, got all atoms in one place")
        topology: Topology | None = getattr(energy, "topology", None)
        if labels is not None:
            labels = tuple(check_int("labels", k) for k in labels)
            lowest = refuse_unlike(energy, centred, _kinds(labels), energy.elements)
        else:
            labels, lowest = _alike(energy, centred, topology)
        if energy.users_code:
            energy = copy.copy(energy)
            energy.floor = Floor.of(lowest, tuple(energy.elements), energy.units.length_angstrom)
        system = cls(
            name,
            f"{type(energy).__name__} potential",
            _Given(energy),
            tuple(energy.elements),
            energy.units,
            float(np.sqrt((centred**2).sum() / ((energy.n_atoms - 1) * energy.n_dims))),
            labels=labels,
            n_dims=energy.n_dims,
            parameters=energy.parameters,
            geometry=tuple(map(tuple, centred.tolist())),
            topology=topology,
        )
        if system.chemistry is None or not system.chemistry.centres:
            return system
        return replace(system, mirror_images=mirrored_alike(energy, centred))


def _alike(energy: Any, x: np.ndarray, topology: Topology | None) -> tuple[tuple[int, ...] | None, float]:
    """Labels by the bonds of a molecule, or None where elements say the same; and the energy of the geometry."""
    elements = energy.elements
    if topology is None or not topology.bonds:
        return None, refuse_unlike(energy, x, _kinds(elements), elements)
    labels = topology.labels(elements)
    pairs = set(zip(labels, elements))
    if len(pairs) == len(set(elements)):
        return None, refuse_unlike(energy, x, _kinds(elements), elements)
    try:
        return labels, refuse_unlike(energy, x, labels, elements)
    except UsageError as error:
        if not str(error).startswith("labels:"):
            raise
        # Bonded alike, and yet told apart by the potential: each atom for itself.
        return tuple(range(len(x))), refuse_unlike(energy, x, range(len(x)), elements)


def _kinds(labels: Sequence) -> tuple[int, ...]:
    order = sorted(set(labels))
    return tuple(order.index(label) for label in labels)


def nearest_neighbour_distance(positions) -> float:
    """Median over the atoms of the distance to the nearest other one; positions (N, D) in any unit, quantities in Å."""
    x = as_numbers("positions", in_angstrom("positions", positions))
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    return float(np.median(d.min(1)))
