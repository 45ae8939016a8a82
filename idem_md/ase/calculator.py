"""The native Lennard-Jones cluster as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from ase import Atoms
from ase import units as ase_units
from ase.calculators.calculator import Calculator, all_changes

from ..energies import Energy, LennardJones
from ..energies.native_ase import NativePotential, reduced_lennard_jones
from ..errors import UsageError
from ..units import Units

__all__ = ["LennardJonesCluster", "NativePotential"]

# Argon (Rahman): epsilon/k_B = 119.8 K, sigma = 3.405 Å.
ARGON_EPSILON, ARGON_R_MIN = 119.8 * ase_units.kB, 3.8220


class LennardJonesCluster(Calculator):
    """Lennard-Jones energies and forces of a free cluster, all pairs, by the native op.

    U = epsilon sum_{i<j} [(r_min/r)^12 - 2 (r_min/r)^6] + trap/2 sum_i |x_i - centroid|^2

    Parameters
    ----------
    epsilon : float
        Well depth in eV; argon's by default. ASE's own `LennardJones` has the same epsilon.
    r_min : float
        Distance of the minimum in Å, 2^(1/6) times ASE's sigma.
    trap : float
        Stiffness of a harmonic trap about the centroid, in eV/Å^2; none by default.

    Raises
    ------
    UsageError
        Periodic atoms, or a parameter out of range.
    """

    implemented_properties = ["energy", "free_energy", "forces"]
    default_parameters = {"epsilon": ARGON_EPSILON, "r_min": ARGON_R_MIN, "trap": 0.0}
    nolabel = True

    def __init__(self, **parameters):
        unknown = set(parameters) - set(self.default_parameters)
        if unknown:
            raise UsageError(f"{sorted(unknown)[0]}: expected one of {', '.join(self.default_parameters)}")
        super().__init__(**parameters)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """See `ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        cluster = cast(Atoms, self.atoms)  # a copy, made just now
        if cluster.pbc.any():
            raise UsageError(f"atoms: expected no periodic boundary conditions, got pbc = {cluster.pbc.tolist()}")
        # Lengths in Å and energies in eV: the formula is the same in any unit.
        energy = LennardJones(len(cluster), **self.parameters)
        u, f = energy(torch.from_numpy(cluster.positions[None].copy()))
        self.results = {"energy": float(u[0]), "free_energy": float(u[0]), "forces": f[0].numpy()}

    def has_trap(self) -> bool:
        """See `NativePotential`."""
        return self.parameters["trap"] > 0

    def reduced(
        self, elements: Sequence[str], temperature_K: float, trap: float, length_angstrom: float | None = None
    ) -> Energy:
        """See `NativePotential`; by default in units of r_min."""
        kT, p = Units(1.0, temperature_K).kT_eV, self.parameters
        total = p["trap"] / kT + trap
        return reduced_lennard_jones(elements, p["epsilon"], p["r_min"], temperature_K, total, length_angstrom)
