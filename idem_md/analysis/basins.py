"""Basins of a torsion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..ensemble import WeightedEnsemble
from .distributions import Curve, mean_of

__all__ = ["FULL_TURN", "Basin", "basins"]

# Edges of the bins of a torsion, in degrees.
FULL_TURN = np.linspace(-180.0, 180.0, 61)
# kT by which a barrier is higher than both minima beside it, at least, to part two basins.
BARRIER = 1.0
# kT of a bin without samples.
UNSEEN = 1e6


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


def basins(e: WeightedEnsemble, degrees: np.ndarray, profile: Curve) -> tuple[Basin, ...]:
    """Shares of the basins of a torsion: arcs between barriers that are a kT higher than the minima on either side.

    Parameters
    ----------
    degrees : array, shape (n,)
        Of the samples of some weight.
    profile : Curve
        The free energy along it over a full turn; where no sample is it counts as high.
    """
    of_bin = _basin_of_bins(np.nan_to_num(profile.values, nan=UNSEEN))
    starts = np.flatnonzero(of_bin != np.roll(of_bin, 1))
    of_sample = of_bin[np.clip(np.searchsorted(profile.edges, degrees, side="right") - 1, 0, len(of_bin) - 1)]
    found = []
    for first, after in zip(starts, np.roll(starts, -1)):
        share, error = mean_of(e, (of_sample == of_bin[first]).astype(float), "basins")
        found.append(Basin(float(profile.edges[first]), float(profile.edges[after]), share, error))
    return tuple(found)


def _basin_of_bins(f: np.ndarray) -> np.ndarray:
    """The number of the basin of each bin of a periodic free energy, by filling it from below: two that meet are one if
    the shallower is less deep than `BARRIER`."""
    basin, depth = np.full(len(f), -1), list[float]()
    for k in np.argsort(f, kind="stable").tolist():
        sides = sorted({int(basin[k - 1]), int(basin[(k + 1) % len(f)])} - {-1}, key=depth.__getitem__)
        if not sides:
            sides = [len(depth)]
            depth.append(float(f[k]))
        basin[k] = sides[0]
        if len(sides) == 2 and not f[k] - depth[sides[1]] >= BARRIER:
            basin[basin == sides[1]] = sides[0]
    return basin
