"""A residual perceptron for a single point in a field, where there is no symmetry to keep."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..errors import UsageError
from ..systems import System
from .layers import NoiseEmbedding, dense, perceptron
from .registry import Features, LayeredOptions, register_network

__all__ = ["MLP", "Waves"]


class Waves(nn.Module):
    """Sines and cosines of a position, of 24 wave numbers a dimension, from one over four times the data's scale to
    sixteen over it: (B, D) -> (B, 48 D)."""

    waves: torch.Tensor
    per_dimension = 48

    def __init__(self, sigma_data: float):
        super().__init__()
        self.sigma_data = sigma_data
        waves = torch.exp(torch.linspace(math.log(0.25), math.log(16.0), self.per_dimension // 2, dtype=torch.float32))
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = (x / self.sigma_data)[..., None] * self.waves
        return torch.cat([phase.sin().flatten(1), phase.cos().flatten(1)], -1)


@register_network("mlp")
class MLP(nn.Module):
    """Field F(x, ln sigma) of one "atom": Fourier features of the position, then residual blocks.

    Parameters
    ----------
    channels, layers : int
    n_dims : int
    sigma_data : float
        Scale of the data; the position enters as x / sqrt(sigma^2 + sigma_data^2), and as `Waves`.
    """

    class Options(LayeredOptions):
        """Settings, as for `MLP`."""

        name: str = "mlp"

    @classmethod
    def build(cls, options: Options, system: System) -> MLP:
        """See `Network`."""
        if system.n_atoms > 1:
            raise UsageError(f"network.name: expected one for particles, painn or egnn, for {system.name!r}, got 'mlp'")
        return cls(options.channels, options.layers, system.n_dims, system.sigma_data)

    def __init__(self, channels: int = 128, layers: int = 4, n_dims: int = 2, sigma_data: float = 1.0):
        super().__init__()
        self.sigma_data, self.n_scalars, self.n_dims = sigma_data, channels, n_dims
        self.noise = NoiseEmbedding(channels)
        self.waves = Waves(sigma_data)
        self.inward = dense(n_dims * (1 + self.waves.per_dimension), channels)
        self.blocks = nn.ModuleList(perceptron(channels, channels, channels) for _ in range(layers))
        self.outward = dense(channels, n_dims)

    def forward(self, x_BND: torch.Tensor, log_sigma_B: torch.Tensor) -> torch.Tensor:
        """The field, shape (B, 1, D), float32, of positions (B, 1, D)."""
        return self.with_features(x_BND, log_sigma_B).field

    def with_features(self, x_BND: torch.Tensor, log_sigma_B: torch.Tensor) -> Features:
        """The field, and what the last block knows, for heads; there are no vectors."""
        x = x_BND[:, 0]
        scaled = x / torch.sqrt((2 * log_sigma_B).exp() + self.sigma_data**2)[:, None]
        h = self.inward(torch.cat([scaled, self.waves(x)], -1)) + self.noise(log_sigma_B)
        for block in self.blocks:
            h = h + block(h)
        return Features(self.outward(h)[:, None], h[:, None], x_BND.new_zeros(*x_BND.shape, 0))
