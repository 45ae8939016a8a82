"""One Gaussian step to x_0."""

from __future__ import annotations

import torch

from ...energies import Energy
from ..kernels import Evaluation
from .base import LastStep, LastStepResult, energies_where_finite, log_ratio, register_last_step

__all__ = ["PlainLastStep"]


@register_last_step("plain")
class PlainLastStep(LastStep):
    """x_0 from the posterior that the evaluation knows, N(D, mse) or an elastic one, for one energy call a sample."""

    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """See `LastStep`."""
        down = evaluation.posterior()
        x = down.sample(generator)
        return LastStepResult(x, energies_where_finite(energy, x), log_ratio(evaluation, down, x))

    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See `LastStep`."""
        return log_ratio(evaluation, evaluation.posterior(), x_0) - energies_where_finite(energy, x_0)
