"""Gaussian transition kernels q(x_s | x_t) of the reverse diffusion, with their exact log densities.

Mean a x_t + (1-a) D(x_t, sigma_t) with a = sigma_s^2 / sigma_t^2. Variance by name:

- ``ddpm``: v = sigma_s^2 (1-a), the posterior variance for a known x_0 (Ho, Jain & Abbeel, NeurIPS 2020);
- ``analytic``: v + (1-a)^2 mse(sigma_t), the isotropic optimum (Bao et al., ICLR 2022), with mse the mean squared
  error of the denoiser per coordinate, measured after training.

At sigma_s = 0 the ddpm variance vanishes and would have no density; both kernels use mse(sigma_t) there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..checks import UsageError, check_choice
from ..geometry import gaussian_log_density, standard_normal

__all__ = ["KERNELS", "DenoiserError", "Transition", "forward_log_density"]

KERNELS = ("ddpm", "analytic")


@dataclass(frozen=True)
class DenoiserError:
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
        if s.shape != m.shape or s.ndim != 1 or not len(s) or not (np.isfinite(m) & (m > 0)).all() \
                or not (np.isfinite(s) & (s > 0)).all() or (np.diff(s) <= 0).any():
            raise UsageError("sigma, mse: expected equally many finite positive numbers, sigma increasing")

    def __call__(self, sigma: float) -> float:
        """mse(sigma); beyond the table mse/sigma^2 stays that of its end."""
        ratio = np.log(np.asarray(self.mse) / np.asarray(self.sigma) ** 2)
        return float(sigma**2 * np.exp(np.interp(np.log(sigma), np.log(self.sigma), ratio)))


@dataclass(frozen=True)
class Transition:
    """One reverse step from sigma_t down to sigma_s (which may be 0)."""

    sigma_t: float
    sigma_s: float
    variance: float

    @staticmethod
    def make(kernel: str, sigma_t: float, sigma_s: float, error: DenoiserError) -> Transition:
        """The named kernel for one step; raises UsageError for an unknown name."""
        check_choice("kernel", kernel, KERNELS)
        a = sigma_s**2 / sigma_t**2
        variance = sigma_s**2 * (1 - a)
        if kernel == "analytic" or sigma_s == 0:
            variance += (1 - a) ** 2 * error(sigma_t)
        return Transition(sigma_t, sigma_s, variance)

    def mean(self, x: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """a x_t + (1-a) D."""
        a = self.sigma_s**2 / self.sigma_t**2
        return a * x + (1 - a) * denoised

    def sample(self, x, denoised, generator: torch.Generator):
        """Draw x_s; returns it with log q(x_s | x_t), shapes (B, N, D) and (B,)."""
        mean = self.mean(x, denoised)
        y = mean + self.variance**0.5 * standard_normal(x.shape, generator, x.dtype)
        return y, gaussian_log_density(y, mean, self.variance)


def forward_log_density(x_t, x_s, sigma_t: float, sigma_s: float) -> torch.Tensor:
    """log p(x_t | x_s) = log N(x_t; x_s, sigma_t^2 - sigma_s^2) of the noising process, shape (B,)."""
    return gaussian_log_density(x_t, x_s, sigma_t**2 - sigma_s**2)
