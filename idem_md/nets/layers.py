"""Layers that networks share. Shape legend: B configurations, C channels, K radial functions."""

from __future__ import annotations

import math

import torch
from torch import nn

from .. import native

__all__ = ["NoiseEmbedding", "RadialSplines", "dense", "dense_layers", "perceptron", "silent_linear"]


def dense(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A dense layer in float32, whatever torch's default is."""
    return nn.Linear(n_in, n_out, bias, dtype=torch.float32)


def perceptron(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Two dense layers with SiLU between."""
    return nn.Sequential(dense(n_in, n_hidden), nn.SiLU(), dense(n_hidden, n_out))


def dense_layers(layers: nn.Sequential) -> list[nn.Linear]:
    """The dense layers of a perceptron, without what lies between."""
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def silent_linear(n_in: int, n_out: int) -> nn.Linear:
    """A dense layer that at first gives zero."""
    layer = dense(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class NoiseEmbedding(nn.Module):
    """Fourier features of ln sigma, and of further numbers, through a small perceptron: (B,), ... -> (B, C).

    Parameters
    ----------
    channels : int
    n_numbers : int
        How many numbers it takes.
    """

    frequencies: torch.Tensor

    def __init__(self, channels: int, n_numbers: int = 1):
        super().__init__()
        self.register_buffer(
            "frequencies",
            torch.exp(torch.linspace(math.log(0.25), math.log(4.0), 16, dtype=torch.float32)),
            persistent=False,
        )
        self.mlp = perceptron(32 * n_numbers, channels, channels)

    def forward(self, *numbers_B: torch.Tensor) -> torch.Tensor:
        phase = torch.cat([number[:, None] * self.frequencies for number in numbers_B], -1)
        return self.mlp(torch.cat([phase.sin(), phase.cos()], -1))


class RadialSplines(nn.Module):
    """Cubic B-splines in the logarithm of the distance: fine where atoms touch, coarse far away.

    A filter is a learnt spline; at any distance just four of the K functions are not zero, so K is free.

    Parameters
    ----------
    n_basis : int
        K, at least 4.
    length : float
        Natural length of the system (the pair minimum); the knots run from 0.15 to 12 of it.
    """

    SHIFT = 0.05  # keeps the logarithm finite at r = 0

    def __init__(self, n_basis: int, length: float):
        super().__init__()
        self.n_basis, self.length = n_basis, length
        self.lo = math.log(0.15)
        self.width = (math.log(12.0) - self.lo) / (n_basis - 3)

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        """Basis values (..., K) at distances (...)."""
        t = (torch.log(r / self.length + self.SHIFT) - self.lo) / self.width
        t = t.clamp(0.0, self.n_basis - 4 + 0.999999)
        u = (t[..., None] + 2 - torch.arange(self.n_basis, dtype=r.dtype, device=r.device) - 1).abs()
        inner = (4 - 6 * u**2 + 3 * u**3) / 6
        outer = (2 - u).clamp(min=0) ** 3 / 6
        return torch.where(u < 1, inner, outer)

    @property
    def scale(self) -> native.SplineScale:
        """What the native ops are to know of the splines."""
        return native.SplineScale(self.n_basis, self.length, self.SHIFT, self.lo, self.width)

    def pairs(self, x: torch.Tensor):
        """The same for all pairs of (B, N, D) positions, sparse; see `native.pair_splines`."""
        return native.pair_splines(x, *self.scale)

    def all_pairs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Basis (B, N, N, K) of all pairs of (B, N, D) positions, zero on the diagonal, and directions (B, N, N, D)."""
        dx = x[:, :, None] - x[:, None]
        r = torch.sqrt((dx**2).sum(-1) + 1e-12)
        off_diagonal = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return self(r) * off_diagonal[..., None], dx / r[..., None]
