"""The twin of a run, which is made before the training or goes on with what was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import FileFormatError, Interrupted, UsageError
from ..systems import System
from ..twin import MadeTwin, TwinSettings, load_made, make_twin
from ..twin.made import begun_settings
from .state import first_difference

__all__ = ["twin_first"]


def twin_first(
    system: System,
    folder: Path,
    twin: TwinSettings | bool,
    begun: bool,
    seed: int,
    max_energy_calls: int | None,
    stop: Callable[[], bool],
) -> MadeTwin:
    """The twin, made now; that of a run that has begun is what it is."""

    def guard() -> None:
        if stop():
            raise Interrupted(f"{folder}: stopped while the twin was made; resume goes on from there")

    if begun and isinstance(twin, TwinSettings):
        if twin.data:
            raise UsageError(f"data: expected none for a run that has its twin, got {twin.data}")
        if (was := begun_settings(folder, seed)) is not None:
            _refuse_other(was, twin)
    if begun:
        made = load_made(folder, system)
        if made is None:
            raise FileFormatError(f"{folder}: expected the twin of the run, twin.safetensors is gone")
        return made
    settings = twin if isinstance(twin, TwinSettings) else None
    return make_twin(system, folder, settings, seed=seed, max_energy_calls=max_energy_calls, guard=guard)


def _refuse_other(was: TwinSettings, given: TwinSettings) -> None:
    """Raises `UsageError` if a twin would not be made again as it was."""
    # Data are there already, and budgets shorten the gathering.
    given = replace(given, data=was.data, gathering_calls=was.gathering_calls)
    if found := first_difference(asdict(was), json.loads(json.dumps(asdict(given)))):  # ``was`` has been JSON
        key, old, new = found
        raise UsageError(
            f"twin: expected {key} = {old}, with which the twin of the run was made, got {new}; twin=True goes on with "
            "what it has"
        )
