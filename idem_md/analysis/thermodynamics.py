"""What energies and their spread say."""

from __future__ import annotations

import math

from ..ensemble import MIN_ESS_FOR_ERRORS, WeightedEnsemble
from ..ensemble.estimators import effective_size

__all__ = ["heat_capacity"]


def heat_capacity(ensemble: WeightedEnsemble) -> tuple[float, float]:
    """Heat capacity at constant volume and its standard error, in k_B.

    C = d (N - 1) / 2 + var(u): momenta, centre of mass excepted, and the configurational part (for a single atom, d/2).
    The error is that of the weighted variance by the delta method, sqrt(sum W^2 ((u - <u>)^2 - var)^2).

    Raises
    ------
    ResultError
        Every sample has weight zero.
    """
    alive, w = ensemble.alive, ensemble.weights
    w, u = w[alive], ensemble.energies[alive]
    deviation = (u - (w * u).sum()) ** 2
    variance = float((w * deviation).sum())
    error = math.sqrt(float((w**2 * (deviation - variance) ** 2).sum()))
    ess = ensemble.ess
    error = error * math.sqrt(effective_size(w) / ess) if ess >= MIN_ESS_FOR_ERRORS else math.nan
    n, d = ensemble.positions.shape[1:]
    return 0.5 * d * max(n - 1, 1) + variance, error
