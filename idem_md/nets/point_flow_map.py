"""Flow maps of a single point in a field: a perceptron at the point that the Euler step leads to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from .flow_map import FlowMap, FlowMapOptions, register_flow_map
from .layers import NoiseEmbedding, dense, perceptron, silent_linear
from .mlp import Waves
from .registry import Features

__all__ = ["PointFlowMap"]


@register_flow_map("mlp")
class PointFlowMap(FlowMap):
    """Residual blocks on what the network knows at x_t, and on sines and cosines of the Euler point.

    Parameters
    ----------
    options, n_scalars, sigma_data
        See `FlowMap`.
    n_dims : int
        Of the field.
    """

    @classmethod
    def build(cls, options: FlowMapOptions, net: Any, sigma_data: float) -> PointFlowMap:
        """See `FlowMap`."""
        return cls(options, net.n_scalars, sigma_data, net.n_dims)

    def __init__(self, options: FlowMapOptions, n_scalars: int, sigma_data: float, n_dims: int):
        super().__init__(options, n_scalars, sigma_data, sigma_data)
        c = options.channels
        self.here, self.there = NoiseEmbedding(c), NoiseEmbedding(c)
        self.waves = Waves(sigma_data)
        self.inward = dense(n_scalars + n_dims * (2 + self.waves.per_dimension), c)
        self.blocks = nn.ModuleList(perceptron(c, c, c) for _ in range(options.layers))
        self.outward = silent_linear(c, n_dims)

    def change(
        self, features: Features, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """See `FlowMap`."""
        t, s = sigma[:, None], target[:, None]
        noise = (x - denoised)[:, 0] / t
        euler = denoised[:, 0] + s * noise
        scaled = euler / torch.sqrt(s**2 + self.sigma_data**2)
        seen = torch.cat([features.scalars[:, 0], noise, scaled, self.waves(euler)], -1)
        h = self.inward(seen) / math.sqrt(2) + self.here(torch.log(sigma)) + self.there(torch.log(target))
        for block in self.blocks:
            h = h + block(h)
        return self.outward(h)[:, None]
