"""Errors of any statistic by resampling blocks of frames."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..checks import check_int
from ..ensemble import WeightedEnsemble
from .protocols import Reference

__all__ = ["block_bootstrap"]

# Blocks are so many times as long as an independent sample is apart from the next.
LENGTH = 2.0


def block_bootstrap(
    ensemble: WeightedEnsemble, statistic: Callable[[Reference], np.ndarray | float], n: int = 200, seed: int = 0
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """A statistic and its standard error, by the moving-block bootstrap (Künsch, Ann. Stat. 17, 1217, 1989).

    Blocks of frames are drawn with replacement, as many as give the length of the set. They are single samples where
    those are independent; for chains they are twice as long as what separates independent ones. The delta method is
    cheaper where it can be had; this one serves statistics of any form.

    Parameters
    ----------
    statistic : callable (Reference) -> float or array
        Of positions, energies and normalised weights, of the samples whose weight is not zero.
    n : int
        Draws.
    """
    n, generator = check_int("n", n, 2), np.random.default_rng(check_int("seed", seed, 0))
    size = len(ensemble)
    apart = size / ensemble.ess if ensemble.kind == "chain" else 1.0
    length = min(math.ceil(LENGTH * apart), size) if apart > 1.01 else 1
    everything = Reference(ensemble.positions, ensemble.energies, ensemble.weights)
    found: list[np.ndarray] = []
    while len(found) < n:
        starts = generator.integers(0, size - length + 1, math.ceil(size / length))
        index = (starts[:, None] + np.arange(length)).ravel()[:size]
        x, u, w = (a[index] for a in everything)
        if w.sum() > 0:
            found.append(np.asarray(statistic(Reference(x[w > 0], u[w > 0], w[w > 0] / w.sum()))))
    return statistic(Reference.of(ensemble)), np.std(found, axis=0, ddof=1)
