"""Jumps along the probability-flow ODE: a head on a frozen network that goes from one noise level to any other at once.

The flow dx/dsigma = (x - D)/sigma has x_s = (s/t) x_t + (1 - s/t) Dbar, with Dbar the average of the denoiser along
the path from t to s, each level weighted by 1/sigma^2. Taking D(x_t, t) for it is an Euler step; the head learns the
difference, at the point that the Euler step leads to. The network is looked at once at x_t, for jumps to any levels, up
or down. Shape legend: B configurations, N atoms, D dimensions, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from pydantic import Field
from torch import nn

from ..tables import Table
from .layers import NoiseEmbedding, RadialSplines, perceptron, silent_linear
from .painn import Message, Update
from .registry import Features

__all__ = ["Jump", "JumpOptions"]


class JumpOptions(Table):
    """Width and depth of the head, and its radial basis."""

    channels: int = Field(64, ge=8, le=512)
    layers: int = Field(2, ge=1)
    n_basis: int = Field(32, ge=4)


class Jump(nn.Module):
    """The head: Dbar - D in units of its own scale; zero at first, and equivariant like the network that it sits on.

    Parameters
    ----------
    options : JumpOptions
    n_scalars : int
        Channels of the network's features.
    length : float
        Natural length of the system, in the unit of positions.
    sigma_data : float
    """

    def __init__(self, options: JumpOptions, n_scalars: int, length: float, sigma_data: float):
        super().__init__()
        c = options.channels
        self.options, self.sigma_data = options, sigma_data
        self.here, self.there = NoiseEmbedding(c), NoiseEmbedding(c)
        self.radial = RadialSplines(options.n_basis, length)
        self.scalar_in = nn.Linear(n_scalars, c)
        self.vector_in = nn.Linear(n_scalars, c, bias=False)
        # Of the Euler point, and of the noise that the denoiser sees in x_t.
        self.direction_in = nn.Parameter(torch.randn(2, c) / c**0.5)
        self.film = nn.ModuleList(silent_linear(c, 2 * c) for _ in range(options.layers))
        self.messages = nn.ModuleList(Message(c, options.n_basis) for _ in range(options.layers))
        self.updates = nn.ModuleList(Update(c) for _ in range(options.layers))
        self.gate_out = perceptron(2 * c, c, c)
        self.vector_out = nn.Linear(c, 1, bias=False)
        nn.init.zeros_(self.vector_out.weight)

    def forward(
        self, features: Features, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Dbar, shape (B, N, D), mean-free.

        Parameters
        ----------
        features : Features
            Of the network at x_t.
        x, denoised : torch.Tensor, shape (B, N, D), float32
            x_t and D(x_t, t), mean-free.
        sigma, target : torch.Tensor, shape (B,), float32
            t and s.
        """
        t, s = sigma[:, None, None], target[:, None, None]
        euler = denoised + (s / t) * (x - denoised)
        level = self.here(torch.log(sigma)).float() + self.there(torch.log(target)).float()
        scalars = self.scalar_in(features.scalars).float() + level[:, None]
        vectors = self.vector_in(features.vectors).float()
        at = euler / torch.sqrt(s**2 + self.sigma_data**2)
        noise = (x - denoised) / t
        vectors = vectors + at[..., None] * self.direction_in[0] + noise[..., None] * self.direction_in[1]
        native = x.device.type == "cpu" and x.shape[-1] in (2, 3) and not euler.requires_grad
        geometry = self.radial.pairs(euler) if native else self.radial.all_pairs(euler)
        layers = zip(self.film, cast(Iterable[Message], self.messages), cast(Iterable[Update], self.updates))
        for film, message, update in layers:
            gain, shift = film(level).float()[:, None].chunk(2, -1)
            inner = scalars * (1 + gain) + shift
            more = message.fused(inner, vectors, geometry) if native else message.dense(inner, vectors, *geometry)
            scalars, vectors = update(scalars + more[0], vectors + more[1])
        gate = self.gate_out(torch.cat([scalars, level[:, None].expand_as(scalars)], -1)).float()
        out = self.vector_out(gate[..., None, :] * vectors)[..., 0].float()
        # The spread of x_0 given x_t, by which D can change on the way, and nothing for a jump of no length.
        scale = t * self.sigma_data / torch.sqrt(t**2 + self.sigma_data**2) * (1 - torch.minimum(s / t, t / s))
        return denoised + scale * (out - out.mean(1, keepdim=True))
