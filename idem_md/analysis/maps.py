"""Free energies along two observables."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import weighted_mean
from ..errors import UsageError
from .basins import FULL_TURN
from .dihedrals import is_torsion
from .distributions import MIN_ESS_FOR_SHAPES, require_ess
from .findings import observed

__all__ = ["FreeEnergyMap", "free_energy_map"]

BINS = 30


@dataclass(frozen=True)
class FreeEnergyMap:
    """F(s, t) = -ln p(s, t) in kT by bins, zero at its lowest.

    Attributes
    ----------
    x, y : str
        What the observables are, with their units.
    x_edges, y_edges : numpy.ndarray, shapes (k + 1,), (l + 1,)
    values, errors : numpy.ndarray, shape (k, l)
        With standard errors, sigma_p / p; NaN where there is no sample.
    """

    x: str
    y: str
    x_edges: np.ndarray
    y_edges: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def free_energy_map(e: WeightedEnsemble, x: str, y: str) -> FreeEnergyMap:
    """The free energy along two observables of one value a sample each, by their names.

    Raises
    ------
    UsageError
        Unknown observables, or of several values a sample.
    ResultError
        Fewer than 100 effective samples.
    """
    require_ess(e, MIN_ESS_FOR_SHAPES, "map")
    (s, s_label), (t, t_label) = observed(e, x), observed(e, y)
    for name, values in ((x, s), (y, t)):
        if values.ndim != 1 or not np.ptp(values) > 0:
            raise UsageError(f"map: expected observables of one value a sample that vary, got {name!r}")
    x_edges, i_of = _bins(x, s)
    y_edges, j_of = _bins(y, t)
    shape, w = (len(x_edges) - 1, len(y_edges) - 1), e.weights[e.alive]
    values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, j in product(*map(range, shape)):
        there = (i_of == i) & (j_of == j)
        if (share := float(w[there].sum())) > 0:
            _, error = weighted_mean(there.astype(float), w, e.ess)
            values[i, j], errors[i, j] = -np.log(share), error / share
    return FreeEnergyMap(s_label, t_label, x_edges, y_edges, values - np.nanmin(values), errors)


def _bins(name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges, and the bin of each value."""
    edges = FULL_TURN[::2] if is_torsion(name) else np.linspace(values.min(), values.max(), BINS + 1)
    return edges, np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
