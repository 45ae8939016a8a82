"""Conversion between reduced quantities (lengths in the system's unit, energies in kT) and physical units."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOLTZMANN_EV", "GAS_CONSTANT", "Units"]

# CODATA 2018; exact since the 2019 redefinition of the SI.
BOLTZMANN_EV = 8.617333262e-5  # eV/K
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K


@dataclass(frozen=True)
class Units:
    """Physical size of one reduced length and of one kT.

    Parameters
    ----------
    length_angstrom : float
        Length of 1 reduced unit, in Å.
    temperature_kelvin : float
        Temperature T whose kT is the reduced unit of energy.
    """

    length_angstrom: float = 1.0
    temperature_kelvin: float = 300.0

    @property
    def kT_eV(self) -> float:
        """kT in eV."""
        return BOLTZMANN_EV * self.temperature_kelvin

    @property
    def kT_kJ_per_mol(self) -> float:
        """kT in kJ/mol, OpenMM's unit of energy."""
        return GAS_CONSTANT * self.temperature_kelvin

    def to_angstrom(self, x):
        """Reduced length -> Å."""
        return x * self.length_angstrom
