"""Another last step on a cheap energy; the potential itself is called once a sample, for its weight."""

from __future__ import annotations

import torch

from ...energies import Energy
from ..kernels import Evaluation
from .base import LastStep, LastStepResult, energies_where_finite

__all__ = ["ByTwinLastStep"]

# Samples that are finished at a time.
BLOCK = 64


class ByTwinLastStep(LastStep):
    """A last step of whose energy calls all but one a sample go to a cheap energy u_c instead of u.

    log w <- log w + u_c(x_0) - u(x_0): a weighted set that is proper for exp(-u_c) becomes proper for exp(-u), whatever
    u_c is.

    Parameters
    ----------
    last_step : LastStep
    cheap : Energy
        Of the same atoms, at the same temperature, such as a `energies.Twin`; counts its own calls.
    """

    def __init__(self, last_step: LastStep, cheap: Energy):
        self.last_step, self.cheap = last_step, cheap

    @property
    def calls(self) -> int:
        """See `LastStep`: those of the other."""
        return self.last_step.calls

    @property
    def twin_calls(self) -> int:
        """See `LastStep`."""
        return self.cheap.calls

    def block(self, energy: Energy, device: str = "cpu") -> int:
        """See `LastStep`; few, as what is interrupted within a block is lost."""
        return min(self.last_step.block(self.cheap, device), BLOCK)

    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """See `LastStep`."""
        end = self.last_step.finish(self.cheap, evaluation, generator)
        alive = torch.isfinite(end.log_ratio) & torch.isfinite(end.u)  # the others have no weight whatever they cost
        u = torch.where(alive, 0.0, torch.inf).to(end.u)
        u[alive] = energies_where_finite(energy, end.x[alive]).to(u)
        return LastStepResult(end.x, u, end.log_ratio)

    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See `LastStep`."""
        log_w = self.last_step.retrace(self.cheap, evaluation, x_0, generator)
        return log_w + energies_where_finite(self.cheap, x_0) - energies_where_finite(energy, x_0)
