"""Errors of any statistic by resampling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import check_int
from ..ensemble import WeightedEnsemble, correlation_factor, vanishing
from ..units import as_numbers
from .protocols import Reference

__all__ = ["bootstrap"]


@vanishing
def bootstrap(
    ensemble: WeightedEnsemble, statistic: Callable[[Reference], np.ndarray | float], n: int = 200, seed: int = 0
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """A statistic and its standard error by the bootstrap (Efron, Ann. Stat. 7, 1, 1979).

    Samples are drawn with replacement, with their weights; the spread of the statistic is that of independent ones. For
    frames of a chain, draws of one ladder or copies by resampling it is multiplied by the square root of
    (sum w)^2 / sum w^2 over the effective number, as in `WeightedEnsemble.expectation`. The delta method is cheaper
    where it can be had; this one serves statistics of any form.

    Parameters
    ----------
    statistic : callable (Reference) -> float or array
        Of positions, energies and normalised weights, of the samples whose weight is not zero.
    n : int
        Draws.

    Returns
    -------
    value, error : float or array
        The error is NaN with fewer than five effective samples.
    """
    n, generator = check_int("n", n, 2), np.random.default_rng(check_int("seed", seed, 0))
    everything = Reference(ensemble.positions, ensemble.energies, ensemble.weights)
    found: list[np.ndarray] = []
    while len(found) < n:
        index = generator.integers(0, len(ensemble), len(ensemble))
        x, u, w = (a[index] for a in everything)
        if w.sum() > 0:
            found.append(as_numbers("statistic", statistic(Reference(x[w > 0], u[w > 0], w[w > 0] / w.sum()))))
    correlated = 1.0 if ensemble.kind == "raw" else correlation_factor(ensemble.weights, ensemble.ess)
    return statistic(Reference.of(ensemble)), correlated * np.std(found, axis=0, ddof=1)
