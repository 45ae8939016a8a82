"""A multiple of any energy."""

from __future__ import annotations

from typing import Any

from ..checks import check_float
from .base import Energy

__all__ = ["Scaled", "bare"]


class Scaled(Energy):
    """``factor`` times an energy: the same potential at 1/``factor`` times the temperature.

    Parameters
    ----------
    energy : Energy
    factor : float
        Above zero.
    """

    users_code = False

    def __init__(self, energy: Energy, factor: float):
        super().__init__(energy.n_atoms, energy.n_dims)
        self.energy, self.factor = energy, check_float("factor", factor, above=0.0)
        self.floor = None if energy.floor is None else energy.floor.scaled(factor)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the energy, and the factor; of several the product."""
        inner = self.energy.parameters
        return {**inner, "factor": self.factor * inner.get("factor", 1.0)}

    def evaluate(self, x):
        """See `Energy.evaluate`."""
        u, f = self.energy._evaluate_as_written(x)
        return self.factor * u, self.factor * f


def bare(energy: Energy) -> Energy:
    """The energy that is scaled, or the energy itself."""
    while isinstance(energy, Scaled):
        energy = energy.energy
    return energy
