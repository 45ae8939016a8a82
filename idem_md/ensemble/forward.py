"""Weights of paths from known samples: what reverse sampling cannot know of what it misses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..units import as_numbers
from . import estimators

__all__ = ["ForwardWeights"]


@dataclass(frozen=True)
class ForwardWeights:
    """Log weights of paths that go up from equilibrium samples; see `diffusion.PathSampler.forward`.

    Attributes
    ----------
    log_weights : numpy.ndarray, shape (n,), float64
        NaN counts as weight zero.
    independent : float, optional
        How many of the samples are independent, if some are copies or correlated: errors are as if paths of the same
        start had the same weight, which is on the safe side.
    """

    log_weights: np.ndarray
    independent: float | None = None

    def __post_init__(self):
        log_w = as_numbers("log_weights", self.log_weights)
        object.__setattr__(self, "log_weights", np.where(np.isnan(log_w), -np.inf, log_w))

    @property
    def _positive(self) -> bool:
        return bool(np.isfinite(self.log_weights).all())

    @property
    def _wider(self) -> float:
        """The ratio of errors to those of independent paths."""
        n = len(self.log_weights)
        return math.sqrt(n / min(n, n if self.independent is None else max(self.independent, 1.0)))

    @property
    def ess_fraction(self) -> float:
        """1 / (mean(w) mean(1/w)): the share of effective samples that sampling would have if it saw every mode; 0 if a
        weight is zero."""
        if not self._positive:
            return 0.0
        return math.exp(-estimators.log_mean_weight(self.log_weights) - estimators.log_mean_weight(-self.log_weights))

    @property
    def log_z(self) -> tuple[float, float]:
        """-log mean(1/w), which estimates log Z, and its standard error; NaN if a weight is zero."""
        if not self._positive:
            return math.nan, math.nan
        inverse = -self.log_weights
        error = estimators.log_z_error(estimators.normalised(inverse))
        return -estimators.log_mean_weight(inverse), error * self._wider

    @property
    def log_z_upper(self) -> tuple[float, float]:
        """mean(log w), in expectation not below log Z, and its standard error; NaN if a weight is zero."""
        mean, error = estimators.mean_log_weight(self.log_weights) if self._positive else (math.nan, math.nan)
        return mean, error * self._wider
