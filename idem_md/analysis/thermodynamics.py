"""What energies and their spread say."""

from __future__ import annotations

from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import weighted_mean

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
    alive = ensemble.alive
    u, w = ensemble.energies[alive], ensemble.weights[alive]
    variance, error = weighted_mean((u - (w * u).sum()) ** 2, w, ensemble.ess)
    n, d = ensemble.positions.shape[1:]
    return 0.5 * d * max(n - 1, 1) + variance, error
