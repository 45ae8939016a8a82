"""Metropolis-adjusted Langevin from noise: the reference that needs no network."""

from __future__ import annotations

from typing import ClassVar, cast

import torch

from ..chains import MALA
from ..energies import Energy
from ..seeds import draw_seed
from ..systems import System
from .base import Budget, Engine, EngineSamples, Progress, register_engine, tuned_chains, tuning_calls

__all__ = ["MalaEngine"]


@register_engine("mala")
class MalaEngine(Engine):
    """``n`` independent chains, the last state of every chain kept.

    The first fifth of the steps, in 50 rounds, tunes the step size; relaxed noise starts the chains. The samples are
    independent, so no statistical inefficiency applies; whether the chains are long enough is for the caller to see, by
    doubling.
    """

    minimum_steps: ClassVar[int] = 250

    counts_calls: ClassVar[bool] = True

    def calls(self, n: int, n_steps: int) -> int:
        """See `Engine`."""
        return n * (tuning_calls(n_steps // 5) + n_steps - n_steps // 5 + 2)

    def draw(
        self, system: System, energy: Energy, n: int, budget: Budget, generator: torch.Generator, progress: Progress
    ) -> EngineSamples:
        """See `Engine`."""
        n_steps = cast(int, budget.steps)
        state, step = tuned_chains(system, energy, n, n_steps // 5, generator)
        progress(0.2, "step tuned")
        state, run = MALA(step).step(energy, state, n_steps - n_steps // 5, draw_seed(generator))
        return EngineSamples(state.x, {"steps": n_steps, "step": step, "acceptance": float(run.acceptance.mean())})
