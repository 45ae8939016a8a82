"""Step sizes: where to begin, and how to get to one that suits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..energies import Energy
from .mala import MALA
from .move import ChainState, Move

__all__ = ["equilibrate", "first_step", "tune_step"]

# Acceptance of Langevin moves (Roberts & Rosenthal, JRSS B 60, 255, 1998), and of moves of several leapfrogs: 0.65 in
# the limit of many dimensions (Beskos et al., Bernoulli 19, 1501, 2013), somewhat more where chains are short.
BEST_ACCEPTANCE, BEST_OF_SEVERAL = 0.57, 0.7


def first_step(sigma_data: float) -> float:
    """A MALA step to begin with, of the right order for clusters and liquids: 0.001 of the variance of a coordinate.

    Tuning takes it from there; for LJ-13 it is 0.8 of the best, for LJ-55 three times that.
    """
    return 1e-3 * sigma_data**2


def tune_step(step: float, acceptance: float, gain: float = 0.3, leapfrogs: int = 1) -> float:
    """A step nearer to the acceptance at which chains move fastest, with moves of so many leapfrogs."""
    return step * math.exp(gain * (acceptance - (BEST_ACCEPTANCE if leapfrogs == 1 else BEST_OF_SEVERAL)))


def equilibrate(
    energy: Energy,
    state: ChainState,
    step: float,
    rounds: int,
    steps_a_round: int,
    next_seed: Callable[[], int],
    gain: float = 0.3,
    on_round: Callable[[ChainState], None] = lambda _: None,
    move: Callable[[float], Move[Any]] = MALA,
) -> tuple[ChainState, float]:
    """Moves in rounds, the step tuned after each; returns the state and the step.

    Short rounds, so that the step has settled before most of the work is done.

    Parameters
    ----------
    next_seed : callable () -> int
        The seed of each round.
    gain : float
        See `tune_step`; few rounds want a larger one.
    on_round : callable (state)
        Called before every round with where the chains are; may raise.
    move : callable (step) -> Move
        Langevin moves by default.
    """
    for _ in range(rounds):
        on_round(state)
        state, run = move(step).step(energy, state, steps_a_round, next_seed())
        step = tune_step(step, float(run.acceptance.mean()), gain)
    return state, step
