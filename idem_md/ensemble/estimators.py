"""Self-normalised importance sampling: effective size, log Z, means, and their errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from ..errors import ResultError, UsageError

__all__ = [
    "MIN_ESS_FOR_ERRORS",
    "Source",
    "WeightSums",
    "effective_size",
    "log_mean_weight",
    "log_z_error",
    "mean_log_weight",
    "normalised",
    "vanishing",
    "weighted_mean",
    "weighted_variance",
]

F = TypeVar("F", bound=Callable)


def vanishing(function: F) -> F:
    """Decorator: weights that vanish beside the others do, and that is no error, whatever `numpy.errstate` says."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(under="ignore"):
            return function(*args, **kwargs)

    return cast(F, wrapped)


# Below this a standard error would be the square root of almost nothing, and look like certainty.
MIN_ESS_FOR_ERRORS = 5.0


@dataclass(frozen=True)
class Source:
    """The weighted set that resampled copies come from; their errors are its own.

    Attributes
    ----------
    n : int
    ess, log_z, log_z_err : float
    """

    n: int
    ess: float
    log_z: float
    log_z_err: float


class WeightSums:
    """Running effective sample size of weights that come in one after the other."""

    def __init__(self):
        self.n, self._top, self._one, self._two = 0, -math.inf, 0.0, 0.0

    @vanishing
    def add(self, log_weights) -> None:
        """Count more weights, shape (n,) or a number."""
        log_w = np.atleast_1d(log_weights)
        self.n += len(log_w)
        top = max(self._top, float(log_w.max(initial=-math.inf)))
        if top > -math.inf:
            shrink, w = math.exp(self._top - top), np.exp(log_w - top)
            self._top, self._one, self._two = top, self._one * shrink + w.sum(), self._two * shrink**2 + (w**2).sum()

    @property
    @vanishing
    def ess(self) -> float:
        """(sum w)^2 / sum w^2; 0 if every weight is."""
        return float(self._one**2 / self._two) if self._two else 0.0


@vanishing
def normalised(log_weights: np.ndarray) -> np.ndarray:
    """Weights that sum to one, shape (n,); raises `ResultError` if every one is zero."""
    top = log_weights.max()
    if top == -np.inf:
        raise ResultError("log_weights: every sample has weight zero, nothing can be averaged")
    w = np.exp(log_weights - top)
    return w / w.sum()


@vanishing
def effective_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 (Kish) of normalised weights."""
    w = weights / weights.max()  # so that equal weights are worth their number, not 999.9999999999998
    return float(w.sum() ** 2 / (w**2).sum())


@vanishing
def log_mean_weight(log_weights: np.ndarray) -> float:
    """log mean exp(log_weights); -inf if every weight is zero."""
    top = log_weights.max()
    if top == -np.inf:
        return -math.inf
    return float(top + np.log(np.exp(log_weights - top).mean()))


@vanishing
def log_z_error(weights: np.ndarray) -> float:
    """Standard error of `log_mean_weight`, from normalised weights: -log(1 - r), with r that of log mean w by the
    jackknife.

    For many samples that is sd(w) / (mean(w) sqrt(n)). With few, estimates that are too low, for want of the large
    weights, come with an r that is too small: r is a part of the true Z, of which the estimate is 1 - r.
    """
    n = len(weights)
    without = np.log1p(-np.minimum(weights, 1 - 1e-15))
    r = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return -math.log1p(-r) if r < 1 else math.nan


def mean_log_weight(log_weights: np.ndarray) -> tuple[float, float]:
    """mean(log w) and its standard error; -inf and NaN if a weight is zero."""
    if not np.isfinite(log_weights).all():
        return -math.inf, math.nan
    n = len(log_weights)
    return float(log_weights.mean()), float(log_weights.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


@vanishing
def correlation_factor(weights: np.ndarray, ess: float) -> float:
    """The factor of an error of independent samples with these normalised weights if they are worth only ``ess``:
    copies made by resampling and frames of chains carry little of their own. NaN where nothing can be said."""
    return math.sqrt(effective_size(weights) / ess) if ess >= MIN_ESS_FOR_ERRORS else math.nan


@vanishing
def weighted_mean(values: np.ndarray, weights: np.ndarray, ess: float):
    """sum W f and its standard error, se^2 = sum [W (f - mean) (1 - 1/n) / (1 - W)]^2.

    That of the delta method, sum W^2 (f - mean)^2 (Owen, Monte Carlo theory, eq. 9.9), but that heavy samples count for
    more, as in the jackknife: they pull the mean towards themselves.

    Parameters
    ----------
    values : numpy.ndarray, shape (n, ...)
    weights : numpy.ndarray, shape (n,)
        Normalised.
    ess : float
        Effective number of independent samples: copies made by resampling carry no information of their own.

    Raises
    ------
    UsageError
        Values of the wrong length or not finite.
    """
    if values.ndim < 1 or len(values) != len(weights):
        raise UsageError(
            f"fn: expected an array of length {len(weights)}, one value a sample, got shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise UsageError("fn: expected finite values, got NaN or infinity")
    mean = np.tensordot(weights, values, axes=1)
    alone = weights * (1 - 1 / len(weights)) / np.maximum(1 - weights, 1e-15)
    error = np.sqrt(np.tensordot(alone**2, (values - mean) ** 2, axes=1))
    error = error * correlation_factor(weights, ess)
    return (float(mean), float(error)) if np.ndim(mean) == 0 else (mean, error)


@vanishing
def weighted_variance(values: np.ndarray, weights: np.ndarray, ess: float) -> tuple[float, float]:
    """Variance of values (n,) under normalised weights, and its standard error.

    sum W (f - mean)^2 / (1 - 1/ess), which is right on average for independent samples. Sets whose variance comes out
    too low see few of the tails, and by that a small error. So the error is the upper half of the interval that is
    symmetric in the logarithm, v (exp r - 1). r is the relative one by the jackknife, drawn up towards that of a
    Gaussian, 2 / (ess - 1) in the square, by 100 / (100 + ess); docs/lab-notes.md has the coverage.
    """
    if not ess >= MIN_ESS_FOR_ERRORS:
        mean, _ = weighted_mean(values, weights, ess)
        return weighted_mean((values - mean) ** 2, weights, ess)[0], math.nan
    x = values - np.tensordot(weights, values, axes=1)
    rest = np.maximum(1 - weights, 1e-15)
    squares = weights * x**2
    variance = float(squares.sum()) / (1 - 1 / ess)
    if not variance > 0:
        return variance, math.nan
    without = (squares.sum() - squares) / rest - (weights * x / rest) ** 2
    without /= 1 - ((weights**2).sum() - weights**2) / rest**2
    n = len(values)
    jackknife = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    own, trust = (jackknife * correlation_factor(weights, ess) / variance) ** 2, ess / (100 + ess)
    return variance, variance * math.expm1(math.sqrt(max(own, trust * own + (1 - trust) * 2 / (ess - 1))))
