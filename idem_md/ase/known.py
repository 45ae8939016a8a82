"""Energies that are known already, for whoever asks atoms for them."""

from __future__ import annotations

from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

__all__ = ["KnownEnergy"]


class KnownEnergy(Calculator):
    """What a calculator would say of some atoms, without a call for the energy, which is known; all else it is asked.

    Parameters
    ----------
    atoms : ase.Atoms
    energy : float
        In eV.
    given : BaseCalculator
        Asked for the rest, such as forces, and for other positions.
    """

    def __init__(self, atoms: Atoms, energy: float, given: BaseCalculator):
        super().__init__()
        self.given, self.implemented_properties = given, list(given.implemented_properties)
        self.atoms, self.results = atoms.copy(), {"energy": energy}

    def _get_name(self) -> str:
        return getattr(self.given, "name", None) or type(self.given).__name__.lower()

    def todict(self, skip_default=True):
        """What trajectories say of the calculator."""
        return self.given.todict() if hasattr(self.given, "todict") else {}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """See `ase.calculators.calculator.Calculator`."""
        super().calculate(atoms, properties, system_changes)
        for name in properties:
            self.results[name] = self.given.get_property(name, self.atoms)
