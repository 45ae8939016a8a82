"""Basins of a torsion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import weighted_mean
from .distributions import mean_of

__all__ = ["FULL_TURN", "Basin", "basins"]

# Edges of the bins of a torsion, in degrees.
FULL_TURN = np.linspace(-180.0, 180.0, 61)
# kT, and standard errors, by which a barrier is higher than both minima beside it, at least, to part two basins.
BARRIER, ERRORS = 1.0, 2.0
# Effective samples for each of the bins in which basins are sought, of which there are some at least and at most.
SAMPLES_A_BIN, BINS = 15, (12, 60)


class Basin(NamedTuple):
    """An arc of a torsion between two barriers.

    Attributes
    ----------
    start, end : float
        Degrees; ``end`` is below ``start`` if the arc contains 180.
    share, error : float
        Of the weight, with its standard error.
    """

    start: float
    end: float
    share: float
    error: float


def basins(e: WeightedEnsemble, degrees: np.ndarray) -> tuple[Basin, ...]:
    """Shares of the basins of a torsion: arcs between barriers that are a kT higher than the minima on either side, and
    two standard errors.

    Parameters
    ----------
    degrees : array, shape (n,)
        Of the samples of some weight.
    """
    k = int(np.clip(e.ess / SAMPLES_A_BIN, *BINS))
    of_sample = np.clip(((degrees + 180.0) / 360.0 * k).astype(int), 0, k - 1)
    w = e.weights[e.alive]
    share, error = weighted_mean(np.eye(k)[of_sample], w, e.ess)
    least = 1 / e.ess  # what no sample is in counts as little more than one might be
    f = -np.log(np.maximum(share, least))
    of_bin = _basin_of_bins(f, np.where(share > least, error / np.maximum(share, least), 1.0))
    edges, starts = np.linspace(-180.0, 180.0, k + 1), np.flatnonzero(of_bin != np.roll(of_bin, 1))
    found = []
    for first, after in zip(starts, np.roll(starts, -1)):
        value, its_error = mean_of(e, (of_bin[of_sample] == of_bin[first]).astype(float), "basins")
        found.append(Basin(float(edges[first]), float(edges[after]), value, its_error))
    return tuple(found)


def _basin_of_bins(f: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The number of the basin of each bin of a periodic free energy, by filling it from below: two that meet are one if
    the shallower is less deep than `BARRIER` or than `ERRORS` standard errors."""
    basin, bottom = np.full(len(f), -1), list[int]()
    for k in np.argsort(f, kind="stable").tolist():
        sides = sorted({int(basin[k - 1]), int(basin[(k + 1) % len(f)])} - {-1}, key=lambda side: f[bottom[side]])
        if not sides:
            sides = [len(bottom)]
            bottom.append(k)
        basin[k] = sides[0]
        if len(sides) == 2:
            low = bottom[sides[1]]
            needed = max(BARRIER, ERRORS * float(np.hypot(errors[k], errors[low])))
            if f[k] - f[low] < needed:
                basin[basin == sides[1]] = sides[0]
    return basin
