"""The reverse step of a known x_0."""

from __future__ import annotations

from .base import DiffusionProposal, register_proposal

__all__ = ["Ddpm"]


@register_proposal("ddpm")
class Ddpm(DiffusionProposal):
    """Variance s^2 (1-a), that of the posterior for a known x_0 (Ho, Jain & Abbeel, NeurIPS 2020): too narrow by the
    denoiser's error, which makes for good raw samples and poor weights."""

    def variance(self, t: float, s: float) -> float:
        """See `DiffusionProposal`."""
        return s**2 * (1 - s**2 / t**2)
