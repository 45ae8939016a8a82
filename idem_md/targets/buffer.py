"""From stored samples and forces: denoising and target score matching, mixed."""

from __future__ import annotations

import torch

from ..energies import Energy
from .base import Batch, Target, register_target

__all__ = ["BufferTarget", "mix_with_force"]


def mix_with_force(x_t, sigma, x_0, f_0, force_scale: float | torch.Tensor) -> torch.Tensor:
    """(1-c) x_0 + c (x_t + sigma^2 f(x_0)) with c = s^2/(s^2 + sigma^2) (De Bortoli et al., 2024).

    Parameters
    ----------
    x_t, x_0, f_0 : torch.Tensor, shape (B, N, D)
        Noised and clean positions, forces at the clean ones.
    sigma : torch.Tensor, shape (B,)
    force_scale : float or torch.Tensor, shape (B, 1, 1)
        s = <f^2>^(-1/2) per coordinate, the stiffness length of the potential.
    """
    s = sigma[:, None, None]
    c = force_scale**2 / (force_scale**2 + s**2)
    return (1 - c) * x_0 + c * (x_t + s**2 * f_0)


@register_target("buffer")
class BufferTarget(Target):
    """`mix_with_force` of the x_0 that x_t was made of. No energy calls."""

    takes_temperatures = True

    def __call__(self, energy: Energy, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """See `Target`."""
        return mix_with_force(batch.x_t, batch.sigma, batch.x_0, batch.f_0, batch.force_scale)
