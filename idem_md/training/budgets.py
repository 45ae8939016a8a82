"""Budgets of a run: wall time and energy calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import check_float, check_int
from ..errors import BudgetExhausted, Interrupted

__all__ = ["Budget", "decaying_now"]

# Part of a budget kept back for the last measurements, and for a machine that slows down.
MARGIN = 0.96
# Share of the first buffer from which on it is foreseen how long it takes, and by how much more than the budget that
# has to be for the run to end at once.
FORESEEN_FROM, FORESEEN_MARGIN = 0.01, 1.3


@dataclass(frozen=True)
class Budget:
    """What a run may cost; None is no limit.

    Attributes
    ----------
    minutes : float, optional
        Wall time, earlier sessions of the same run included.
    energy_calls : int, optional
        Never exceeded.
    """

    minutes: float | None = None
    energy_calls: int | None = None

    def __post_init__(self):
        if self.minutes is not None:
            check_float("minutes", self.minutes, above=0.0)
        if self.energy_calls is not None:
            check_int("max_energy_calls", self.energy_calls, 1)

    def used(self, seconds: float, calls: int) -> float:
        """Share of the tighter budget that is spent, of what is not kept back."""
        shares = [0.0]
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes))
        if self.energy_calls is not None:
            shares.append(calls / self.energy_calls)
        return max(shares) / MARGIN

    def guard(self, stop: Callable[[], bool], done: Callable[[], float] = lambda: 0.0) -> Callable[[], None]:
        """A function to call now and then until the first buffer is made; it raises if the time is up, counted from
        now, or will be, going by the share of the buffer that is ``done``, or if a stop is asked for."""
        start, limit = time.perf_counter(), math.inf if self.minutes is None else 60 * self.minutes
        # Seconds and share after the first calls, which may have had to build something.
        first: list[float] = []

        def check() -> None:
            seconds, share = time.perf_counter() - start, done()
            if share > 0 and not first:
                first.extend((seconds, share))
            foreseen = seconds
            if first and share >= first[1] + FORESEEN_FROM:
                foreseen += (1 - share) * (seconds - first[0]) / (share - first[1])
            if seconds > limit or foreseen > FORESEEN_MARGIN * limit:
                raise BudgetExhausted(
                    f"minutes: the first buffer takes about {max(foreseen, seconds) / 60:.1f} minutes, more than the "
                    f"budget of {limit / 60:g}; allow several times as many, or take a smaller buffer"
                )
            if stop():
                raise Interrupted("stopped before the first buffer was made, nothing was kept")

        return check

    def shortened(self, iteration: int, total: int, used: float, first: float, decay_fraction: float) -> int:
        """How many outer iterations to plan: fewer once what is left of the budget is just what the final decay will
        take.

        Parameters
        ----------
        iteration, total : int
            Done and planned.
        used, first : float
            Shares spent so far, and by the first buffer, which is paid for once.
        decay_fraction : float
            Share of the iterations in which the step size falls.
        """
        decay = (used - first) * decay_fraction / (1 - decay_fraction)
        return decaying_now(iteration, total, decay_fraction) if 1 - used <= decay else total


def decaying_now(iteration: int, total: int, decay_fraction: float) -> int:
    """How many outer iterations to plan if the final decay of the step size is to begin after this one; as many as were
    planned if it has begun."""
    kept = 1 - decay_fraction
    # Rounded up: no step taken so far may lie in the decay of the shortened schedule.
    return math.ceil(iteration / kept - 1e-9) if iteration < kept * total else total
