"""The reverse step of a known x_0."""

from __future__ import annotations

from typing import ClassVar

from .base import DiffusionKernel, register_kernel

__all__ = ["Ddpm"]


@register_kernel("ddpm")
class Ddpm(DiffusionKernel):
    """Variance s^2 (1-a), that of the posterior for a known x_0 (Ho, Jain & Abbeel, NeurIPS 2020): too narrow by the
    denoiser's error, which makes for good raw samples and poor weights."""

    tuned: ClassVar[bool] = False

    def variance(self, t: float, s: float) -> float:
        """See `DiffusionKernel`."""
        return self.noise_variance(t, s)
