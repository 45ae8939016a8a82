"""How many of the frames of a chain count: equilibration and statistical inefficiency, by pymbar."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

__all__ = ["equilibration", "quiet_pymbar", "slow_observables", "statistical_inefficiency"]

# Starting points that are tried in the search for the end of equilibration.
TRIED = 25
# Frames of series that are summed here, and lags whose correlation counts even if it is negative, as in pymbar.
SHORT, ADDED_ANYWAY = 20, 3


@contextmanager
def quiet_pymbar() -> Iterator[None]:
    """Within it pymbar does not say at length that jax is not there, nor warn of options that scipy has renamed."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def slow_observables(x: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
    """What correlation is judged by, each (n,): energies u (n,), and how far the atoms of x (n, N, D) spread, or where
    a single one is."""
    spread = x[:, 0].T if x.shape[1] == 1 else [((x - x.mean(1, keepdims=True)) ** 2).sum((1, 2))]
    return [u, *spread]


def statistical_inefficiency(chains: Sequence[np.ndarray]) -> float:
    """g = 1 + 2 sum_t (1 - t/n) C(t), frames for one independent sample, of series (n,) of the same observable.

    C is the normalised autocorrelation, all series sharing one mean and variance, summed up to its first zero (Chodera
    et al., J. Chem. Theory Comput. 3, 26, 2007). Series that are shorter than some tens of g give too small a value. 1
    for constant series.
    """
    if float(np.ptp(np.concatenate(chains))) == 0:
        return 1.0
    n = len(chains[0])
    if n < SHORT and all(len(chain) == n for chain in chains):  # pymbar leaves out the last lag, which counts here
        d = np.array(chains) - np.mean(chains)
        g = 1.0
        for lag in range(1, n):
            c = float((d[:, :-lag] * d[:, lag:]).mean() / (d**2).mean())
            if c <= 0 and lag > ADDED_ANYWAY:
                break
            g += 2 * c * (1 - lag / n)
        return max(g, 1.0)
    with quiet_pymbar():
        from pymbar.timeseries import statistical_inefficiency_multiple

        return float(statistical_inefficiency_multiple(list(chains)))


def equilibration(series: np.ndarray) -> int:
    """The first frame of a series (n,) that counts as equilibrated: that which leaves most independent ones (Chodera,
    J. Chem. Theory Comput. 12, 1799, 2016), of those in the first half.

    Without that bound short tails, whose inefficiency is estimated as much too small, would be chosen.
    """
    tried = np.unique(np.linspace(0, len(series) // 2, TRIED).astype(int))
    return int(max(tried, key=lambda first: (len(series) - first) / statistical_inefficiency([series[first:]])))
