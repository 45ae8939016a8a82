"""Exact draws, for systems that have a formula for them."""

from __future__ import annotations

import time

import torch

from ..checks import UsageError, check_int
from ..ensemble import WeightedEnsemble
from ..systems import System, get_system
from .common import finished

__all__ = ["run_exact"]


def run_exact(system: str | System, n: int, n_steps: int | None = None, seed: int = 0) -> WeightedEnsemble:
    """Independent exact samples, equally weighted.

    Parameters
    ----------
    system : str or System
        One whose energy has a method ``sample(n, generator)``: gmm40.
    n, seed : int
    n_steps : None
        There are no steps; given for the sake of a common signature.

    Raises
    ------
    UsageError
        A system that has no formula, or a number out of range.
    """
    n, seed = check_int("n", n, 1), check_int("seed", seed, 0, 2**31 - 1)
    if n_steps is not None:
        raise UsageError(f"steps: expected none for exact samples, got {n_steps}")
    target = get_system(system)
    energy = target.energy()
    if not hasattr(energy, "sample"):
        raise UsageError(f"engine: expected another than 'exact' for {target.name!r}, which has no formula for its samples")
    start = time.perf_counter()
    x = energy.sample(n, torch.Generator().manual_seed(seed))
    return finished(target, energy, x, start, method="exact", seed=seed)
