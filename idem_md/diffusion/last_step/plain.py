"""One Gaussian step to x_0."""

from __future__ import annotations

import torch

from ...energies import Energy
from ..proposals import Look
from .base import Ending, LastStep, energies_where_finite, log_ratio, register_last_step

__all__ = ["PlainLastStep"]


@register_last_step("plain")
class PlainLastStep(LastStep):
    """x_0 from the posterior that the look knows, N(D, mse) or an elastic one, for one energy call a sample."""

    def finish(self, energy: Energy, look: Look, generator: torch.Generator) -> Ending:
        """See `LastStep`."""
        down = look.posterior()
        x = down.sample(generator)
        return Ending(x, energies_where_finite(energy, x), log_ratio(look, down, x))

    def retrace(self, energy: Energy, look: Look, x_0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See `LastStep`."""
        return log_ratio(look, look.posterior(), x_0) - energies_where_finite(energy, x_0)
