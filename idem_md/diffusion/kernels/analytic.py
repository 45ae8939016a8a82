"""The isotropic reverse step of least divergence."""

from __future__ import annotations

from typing import ClassVar

from .base import DiffusionKernel, register_kernel

__all__ = ["Analytic"]


@register_kernel("analytic")
class Analytic(DiffusionKernel):
    """Variance s^2 (1-a) + (1-a)^2 mse(t), the isotropic optimum (Bao et al., ICLR 2022), with mse the mean squared
    error of the denoiser per coordinate, measured after training."""

    preference: ClassVar[int] = 1

    def variance(self, t: float, s: float) -> float:
        """See `DiffusionKernel`."""
        return self.noise_variance(t, s) + (1 - s**2 / t**2) ** 2 * self.mse(t)
