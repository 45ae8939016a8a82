"""The twin of a run, which is made before the training or goes on with what was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import Interrupted
from ..systems import System
from ..twin import MadeTwin, TwinSettings, make_twin
from .budgets import Budget

__all__ = ["twin_first"]

# Minutes that are left of a budget for the training, if the twin took longer than that.
LEAST_MINUTES = 1.0


def twin_first(
    system: System, folder: Path, twin: TwinSettings | bool, seed: int, budget: Budget, stop: Callable[[], bool]
) -> tuple[MadeTwin, Budget]:
    """The twin, and what is left of the budget for the training, whose energy calls are the twin's."""

    def guard() -> None:
        if stop():
            raise Interrupted(f"{folder}: stopped while the twin was made; resume goes on from there")

    settings = twin if isinstance(twin, TwinSettings) else None
    made = make_twin(system, folder, settings, seed=seed, max_energy_calls=budget.energy_calls, guard=guard)
    minutes = budget.minutes
    return made, Budget(None if minutes is None else max(minutes - made.seconds / 60, LEAST_MINUTES))
