"""The isotropic reverse step of least divergence."""

from __future__ import annotations

from .base import register_proposal
from .ddpm import Ddpm

__all__ = ["Analytic"]


@register_proposal("analytic")
class Analytic(Ddpm):
    """Variance s^2 (1-a) + (1-a)^2 mse(t), the isotropic optimum (Bao et al., ICLR 2022), with mse the mean squared
    error of the denoiser per coordinate, measured after training."""

    def variance(self, t: float, s: float) -> float:
        """See `DiffusionProposal`."""
        return super().variance(t, s) + (1 - s**2 / t**2) ** 2 * self.mse(t)
