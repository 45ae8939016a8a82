"""Weighted histograms with errors: densities, free-energy profiles, radial distribution functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ensemble import TRUSTED_ESS, WeightedEnsemble
from ..ensemble.estimators import weighted_mean
from ..errors import ResultError, UsageError
from ..units import as_numbers
from .observables import OBSERVABLES

__all__ = [
    "MIN_ESS_FOR_SHAPES",
    "Curve",
    "distribution",
    "energy_distribution",
    "free_energy_profile",
    "radial_distribution",
    "require_ess",
]

# A shape has many numbers, and a variance the tails; both need more samples than a mean.
MIN_ESS_FOR_SHAPES = 100.0
# Share of the weight on either side that a range of bins leaves out.
OUTSIDE = 0.0005


@dataclass(frozen=True)
class Curve:
    """A function of one variable by bins, with standard errors.

    Attributes
    ----------
    edges : numpy.ndarray, shape (k + 1,)
    values, errors : numpy.ndarray, shape (k,)
        NaN where there is nothing to say.
    variable, quantity : str
        What they are, with their units.
    """

    edges: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    variable: str
    quantity: str

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins, shape (k,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def require_ess(ensemble: WeightedEnsemble, least: float, what: str) -> None:
    """Refuse what so few effective samples cannot tell.

    Raises
    ------
    ResultError
        Fewer than ``least``, or raw samples.
    """
    if ensemble.kind == "raw":
        raise ResultError(f"{what}: expected samples with weights, got raw ones")
    if not ensemble.ess >= least:
        raise ResultError(f"{what}: expected at least {least:.0f} effective samples, got {ensemble.ess:.1f}")


def distribution(
    ensemble: WeightedEnsemble,
    values,
    bins=60,
    variable: str = "value",
    quantity: str = "probability density",
    least: float = MIN_ESS_FOR_SHAPES,
) -> Curve:
    """Density of a quantity, sum W [value in bin] / width, with its standard error by the delta method.

    Parameters
    ----------
    values : array_like, shape (n,) or (n, m)
        Of the samples whose weight is not zero; of several values each counts for one m-th.
    bins : int or array_like
        Number of equal bins between the weighted quantiles 0.0005 and 0.9995, or edges. What is outside is left out,
        so that the density sums to the share that is inside.
    least : float
        Effective samples that are needed.

    Raises
    ------
    ResultError
        There are fewer; see `require_ess`.
    UsageError
        Values of another length, or none that vary.
    """
    require_ess(ensemble, least, "distribution")
    inside, edges = _indicators(ensemble, values, bins)
    share, error = weighted_mean(inside, ensemble.weights[ensemble.alive], ensemble.ess)
    width = np.diff(edges)
    return Curve(edges, share / width, error / width, variable, quantity)


def _indicators(ensemble: WeightedEnsemble, values, bins) -> tuple[np.ndarray, np.ndarray]:
    """For each sample of some weight the share of its values in each bin, (n, k), and the edges."""
    v = as_numbers("values", values)
    w = ensemble.weights[ensemble.alive]
    if len(v) != len(w) or not np.isfinite(v).all():
        raise UsageError(f"values: expected finite ones of {len(w)} samples, got shape {v.shape}")
    v, edges = v.reshape(len(v), -1), as_numbers("bins", bins)
    if edges.ndim == 0:
        flat, heavy = v.ravel(), np.repeat(w, v.shape[1])
        order = np.argsort(flat)
        cumulative = np.cumsum(heavy[order])
        lo, hi = np.interp([OUTSIDE, 1 - OUTSIDE], cumulative / cumulative[-1], flat[order])
        if not hi > lo:
            raise UsageError(f"values: expected some that vary, all are {lo:.6g}")
        edges = np.linspace(lo, hi, int(edges) + 1)
    k = len(edges) - 1
    bin_of = np.clip(np.searchsorted(edges, v, side="right"), 0, k + 1)
    bin_of[v == edges[-1]] = k
    flat_bins = np.arange(len(v))[:, None] * (k + 2) + bin_of
    counts = np.bincount(flat_bins.ravel(), minlength=len(v) * (k + 2)).reshape(len(v), k + 2)
    return counts[:, 1:-1] / v.shape[1], edges


def energy_distribution(ensemble: WeightedEnsemble, bins=60) -> Curve:
    """Distribution of the energy u, in kT."""
    u = ensemble.energies[ensemble.alive]
    return distribution(ensemble, u, bins, "energy (kT)", "probability density (1/kT)")


def free_energy_profile(ensemble: WeightedEnsemble, values, bins=40, variable: str = "value") -> Curve:
    """F(s) = -ln p(s) in kT along any observable, zero at its lowest; errors sigma_p / p.

    Bins without samples are NaN.

    Parameters
    ----------
    values, bins
        See `distribution`.
    """
    p = distribution(ensemble, values, bins)
    there = p.values > 0
    f = np.where(there, -np.log(np.where(there, p.values, 1.0)), np.nan)
    errors = np.where(there, p.errors / np.where(there, p.values, 1.0), np.nan)
    return Curve(p.edges, f - np.nanmin(f), errors, variable, "free energy (kT)")


def radial_distribution(ensemble: WeightedEnsemble, bins=100, least: float = MIN_ESS_FOR_SHAPES) -> Curve:
    """Mean number density of other atoms at a distance r from an atom, in Å^-3 (in the plane Å^-2), r in Å.

    rho(r) = 2/N sum_{i<j} <delta(r - r_ij)> / (4 pi r^2). A free cluster has no bulk density to divide it by; g(r) of a
    liquid is rho(r) over that.

    Parameters
    ----------
    bins : int or array_like
        Number, or edges in Å; see `distribution`.
    least : float
        Effective samples that are needed.
    """
    n, dims = ensemble.positions.shape[1:]
    r = ensemble.system.units.to_angstrom(OBSERVABLES["pair-distances"](ensemble.positions[ensemble.alive]))
    if n < 2:
        raise UsageError("rdf: expected two or more atoms, got one")
    p = distribution(ensemble, r, bins, least=least)
    lower, upper = p.edges[:-1], p.edges[1:]
    shell = np.pi * (upper**2 - lower**2) if dims == 2 else 4 / 3 * np.pi * (upper**3 - lower**3)
    scale = (n - 1) * np.diff(p.edges) / shell
    return Curve(p.edges, p.values * scale, p.errors * scale, "distance (Å)", f"density of other atoms (Å^-{dims})")


def mean_of(ensemble: WeightedEnsemble, values: np.ndarray, what: str) -> tuple[float, float]:
    """Weighted mean of values (n,) of the samples of some weight, refused below 30 effective samples."""
    require_ess(ensemble, TRUSTED_ESS, what)
    return weighted_mean(values, ensemble.weights[ensemble.alive], ensemble.ess)
