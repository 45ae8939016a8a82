"""How far a denoiser is from x_0, by noise level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UsageError

__all__ = ["DenoiserAccuracy"]


@dataclass(frozen=True)
class DenoiserAccuracy:
    """Mean squared error of a denoiser per coordinate of the mean-free subspace, against the noise level.

    Attributes
    ----------
    sigma, mse : tuple of float
        Increasing levels and the error there, E|D - x_0|^2 / d; interpolated linearly in the logarithms.
    """

    sigma: tuple[float, ...]
    mse: tuple[float, ...]

    def __post_init__(self):
        s, m = np.asarray(self.sigma), np.asarray(self.mse)
        levels = s.ndim == 1 and len(s) and (np.isfinite(s) & (s > 0)).all() and (np.diff(s) > 0).all()
        if not levels or s.shape != m.shape or not (np.isfinite(m) & (m > 0)).all():
            raise UsageError("sigma, mse: expected equally many finite positive numbers, sigma increasing")

    def __call__(self, sigma: float) -> float:
        """mse(sigma); beyond the table mse/sigma^2 stays that of its end."""
        ratio = np.log(np.asarray(self.mse) / np.asarray(self.sigma) ** 2)
        return float(sigma**2 * np.exp(np.interp(np.log(sigma), np.log(self.sigma), ratio)))

    def between(self, other: DenoiserAccuracy, share: float) -> DenoiserAccuracy:
        """A table at the levels of this one, ``share`` of the way to another in the logarithm of the error."""
        mse = tuple(own ** (1 - share) * other(sigma) ** share for sigma, own in zip(self.sigma, self.mse))
        return DenoiserAccuracy(self.sigma, mse)
