"""ASE calculators whose potential this package evaluates by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import ase
import numpy as np
import torch
from ase.calculators.lj import LennardJones as AseLennardJones

from ..checks import energies_agree
from ..errors import UsageError
from ..units import Units
from .base import Energy
from .foreign import default_trap
from .lennard_jones import LennardJones
from .topology import Topology

__all__ = ["NativePotential", "added_trap", "native_energy", "native_potential", "reduced_lennard_jones"]

# A cutoff of ASE's Lennard-Jones beyond so many sigma is none: what is left out is below 1e-8 of the well depth.
NO_CUTOFF = 30.0
# More than these `LennardJones` does not take.
MOST_ATOMS = 1000


@runtime_checkable
class NativePotential(Protocol):
    """A calculator whose potential this package evaluates by itself."""

    def has_trap(self) -> bool:
        """Whether the potential confines the atoms."""
        ...

    def reduced(
        self, elements: Sequence[str], temperature_K: float, trap: float, length_angstrom: float | None = None
    ) -> Energy:
        """The potential as an energy with ``units`` and ``elements``, with a trap in kT / Å^2 added; lengths in that
        unit, or by default in one that suits it."""
        ...


class PhysicalLennardJones(LennardJones):
    """`LennardJones` of known atoms at a physical scale."""

    def __init__(self, units: Units, elements: tuple[str, ...], epsilon: float, r_min: float, trap: float):
        super().__init__(len(elements), epsilon, r_min, trap)
        self.units, self.elements = units, elements


def reduced_lennard_jones(
    elements: Sequence[str],
    epsilon: float,
    r_min: float,
    temperature_K: float,
    trap: float,
    length_angstrom: float | None = None,
) -> Energy:
    """A Lennard-Jones cluster of a well depth in eV and a distance in Å, by default in units of that distance.

    Raises
    ------
    UsageError
        No trap (kT / Å^2).
    """
    if trap == 0:
        raise UsageError("trap: expected a positive stiffness (kT / Å^2), got 0: without a trap a cluster evaporates")
    length = r_min if length_angstrom is None else length_angstrom
    units = Units(length, temperature_K)
    return PhysicalLennardJones(units, tuple(elements), epsilon / units.kT_eV, r_min / length, trap * length**2)


class _AsesOwn:
    """ASE's Lennard-Jones calculator without a cutoff, as a `NativePotential`."""

    def __init__(self, calculator: AseLennardJones):
        p = calculator.parameters
        self.epsilon, self.r_min = float(p["epsilon"]), 2 ** (1 / 6) * float(p["sigma"])

    def has_trap(self) -> bool:
        """See `NativePotential`."""
        return False

    def reduced(
        self, elements: Sequence[str], temperature_K: float, trap: float, length_angstrom: float | None = None
    ) -> Energy:
        """See `NativePotential`."""
        return reduced_lennard_jones(elements, self.epsilon, self.r_min, temperature_K, trap, length_angstrom)


def native_potential(atoms: ase.Atoms) -> NativePotential | None:
    """The potential of the atoms' calculator if this package evaluates it by itself: that of a `LennardJonesCluster`,
    or of ASE's own `LennardJones` with a cutoff of at least 30 sigma, if energies of a few geometries agree."""
    calc = atoms.calc
    if isinstance(calc, NativePotential):
        return calc
    if (
        len(atoms) > MOST_ATOMS
        or type(calc) is not AseLennardJones
        or calc.parameters["smooth"]
        or atoms.pbc.any()
        or atoms.constraints
    ):
        return None
    if (calc.parameters["rc"] or 0.0) < NO_CUTOFF * calc.parameters["sigma"]:
        return None
    known, tried = _AsesOwn(calc), atoms.copy()
    tried.calc = calc
    noise = 0.03 * known.r_min * np.random.default_rng(0).standard_normal((3, *atoms.positions.shape))
    x = np.stack([atoms.positions, *(scale * atoms.positions + noise[k] for k, scale in enumerate((1.0, 1.1, 2.0)))])
    theirs = []
    for positions in x:
        tried.positions = positions
        theirs.append(tried.get_potential_energy() / known.epsilon)
    ours = LennardJones(len(atoms), 1.0, 1.0, 0.0)(torch.from_numpy(x / known.r_min))[0].numpy()
    return known if energies_agree(ours, theirs, 1e-6, 1e-6).all() else None


def added_trap(atoms: ase.Atoms) -> float:
    """The stiffness (kT / Å^2) of the trap that the potential of atoms needs: the usual one, or none if it
    has one."""
    potential = native_potential(atoms)
    return 0.0 if potential is not None and potential.has_trap() else default_trap(Topology.of_atoms(atoms))


def native_energy(
    atoms: ase.Atoms, temperature_K: float, trap: float, length_angstrom: float | None = None
) -> Energy | None:
    """The native energy of atoms, with ``units`` and ``elements``, or None if there is none; see `native_potential`.

    Parameters
    ----------
    trap : float
        Stiffness in kT / Å^2 to add.

    Raises
    ------
    UsageError
        Periodic atoms, constraints, or no trap.
    """
    potential = native_potential(atoms)
    if potential is None:
        return None
    if atoms.pbc.any() or atoms.constraints:
        raise UsageError("atoms: expected neither periodic boundary conditions nor constraints")
    return potential.reduced(atoms.get_chemical_symbols(), temperature_K, trap, length_angstrom)
