"""Markov chains on the potential after another last step: better end points, the same weights."""

from __future__ import annotations

import torch

from ...chains import run_mala
from ...checks import check_float, check_int
from ...energies import Energy
from ...seeds import draw_seed
from ..kernels import Evaluation
from .base import LastStep, LastStepResult

__all__ = ["MovedLastStep"]


class MovedLastStep(LastStep):
    """Another last step, then Metropolis-adjusted Langevin steps on u from its samples.

    They leave exp(-u) invariant, so a weighted set stays proper with the weights that it has, and log Z does not
    change; what is far from equilibrium among the samples comes nearer to it. Costs ``moves`` + 2 energy calls a
    sample.

    Parameters
    ----------
    last_step : LastStep
    moves : int
    step : float
        Langevin step, in reduced length squared; fixed, or the moves would not leave exp(-u) invariant.
    """

    def __init__(self, last_step: LastStep, moves: int, step: float):
        self.last_step = last_step
        self.moves, self.step = check_int("moves", moves, 1), check_float("step", step, above=0.0)

    @property
    def calls(self) -> int:
        """See `LastStep`: those of the other, and the moves."""
        return self.last_step.calls + self.moves

    def block(self, energy: Energy, device: str = "cpu") -> int:
        """See `LastStep`."""
        return self.last_step.block(energy, device)

    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """See `LastStep`; chains run in float32."""
        x, u, log_ratio = self.last_step.finish(energy, evaluation, generator)
        ok, seed = torch.isfinite(u), draw_seed(generator)
        if bool(ok.any()):
            x, before, u = x.clone(), u[ok], u.clone()
            x[ok] = run_mala(energy, x[ok].float(), self.step, self.moves, seed).x.to(x.dtype)
            u[ok] = energy(x[ok])[0]
            log_ratio = log_ratio.clone()
            log_ratio[ok] += u[ok] - before  # the weight, exp(log_ratio - u), goes with the path
        return LastStepResult(x, u, log_ratio)

    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See `LastStep`: that of the other, as the moves have no weight."""
        return self.last_step.retrace(energy, evaluation, x_0, generator)
