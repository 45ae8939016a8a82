"""Flow maps: a head on a frozen network that follows the probability flow from one noise level to any other at once.

The flow dx/dsigma = (x - D)/sigma has x_s = (s/t) x_t + (1 - s/t) Dbar, with Dbar the average of the denoiser along
the path from t to s, each level weighted by 1/sigma^2. Taking D(x_t, t) for it is an Euler step; the head learns the
difference, at the point that the Euler step leads to. The network is evaluated once at x_t, for all levels, up or down.
Shape legend: B configurations, N atoms, D dimensions, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import torch
from pydantic import Field
from torch import nn

from ..registry import Registry
from ..tables import Table, parse_table
from .heads import network_name, register_head
from .layers import NoiseEmbedding, RadialSplines, dense, perceptron, silent_linear
from .painn import Message, Update
from .registry import Features

__all__ = [
    "FLOW_MAP",
    "FLOW_MAPS",
    "FlowMap",
    "FlowMapOptions",
    "PaiNNFlowMap",
    "build_flow_map",
    "register_flow_map",
]

# Its name among the heads of a checkpoint.
FLOW_MAP = "flow_map"


class FlowMapOptions(Table):
    """Width and depth of a head, and the lowest level that it was trained for; its subclasses may have more."""

    lowest: float = Field(gt=0)
    channels: int = Field(64, ge=8, le=512)
    layers: int = Field(2, ge=1, le=4096)


class FlowMap(nn.Module, ABC):
    """The extension point of heads that learn a flow map: Dbar - D in units of its own scale, zero at first.

    Parameters
    ----------
    options : FlowMapOptions
        Of the class that ``Options`` says.
    n_scalars : int
        Channels of the network's features.
    length : float
        Natural length of the system, in the unit of positions.
    sigma_data : float
    """

    Options: ClassVar[type[FlowMapOptions]] = FlowMapOptions

    def __init__(self, options: FlowMapOptions, n_scalars: int, length: float, sigma_data: float):
        super().__init__()
        self.options, self.n_scalars, self.length, self.sigma_data = options, n_scalars, length, sigma_data

    @classmethod
    @abstractmethod
    def build(cls, options: Any, net: Any, sigma_data: float) -> FlowMap:
        """With fresh weights for a network, drawn from torch's global generator."""

    @abstractmethod
    def change(
        self, features: Features, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Dbar - D, shape (B, N, D), by the scale; see `forward`."""

    def forward(
        self, features: Features, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Dbar, shape (B, N, D).

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
        # The spread of x_0 given x_t, by which D can change on the way, and nothing for a step of no length.
        scale = t * self.sigma_data / torch.sqrt(t**2 + self.sigma_data**2) * (1 - torch.minimum(s / t, t / s))
        return denoised + scale * self.change(features, x, denoised, sigma, target)


FLOW_MAPS: Registry[type[FlowMap]] = Registry("network.name, for flow maps")

FlowMapType = TypeVar("FlowMapType", bound=type)


def register_flow_map(network: str) -> Callable[[FlowMapType], FlowMapType]:
    """Class decorator: makes a `FlowMap` the head of networks of that name."""
    return FLOW_MAPS.register(network)


@register_head(FLOW_MAP)
def build_flow_map(
    options: Mapping[str, Any],
    net: nn.Module,
    sigma_data: float,
    heads: Any = None,
) -> FlowMap:
    """A fresh flow map for a network of a kind that has one; see `BuildHead`.

    Raises
    ------
    UsageError
        A network for which there is none.
    ConfigError
        Options that it does not know.
    """
    kind = FLOW_MAPS.find(network_name(net))
    return kind.build(parse_table(kind.Options, options, FLOW_MAP), net, sigma_data)


@register_flow_map("painn")
class PaiNNFlowMap(FlowMap):
    """A few message layers at the point that the Euler step leads to; equivariant like the network that it sits on.

    Parameters are those of `FlowMap`.
    """

    class Options(FlowMapOptions):
        """With its radial basis."""

        n_basis: int = Field(32, ge=4, le=4096)

    @classmethod
    def build(cls, options: Options, net: Any, sigma_data: float) -> PaiNNFlowMap:
        """See `FlowMap`."""
        return cls(options, net.n_scalars, net.length, sigma_data)

    def __init__(self, options: Options, n_scalars: int, length: float, sigma_data: float):
        super().__init__(options, n_scalars, length, sigma_data)
        c = options.channels
        self.here, self.there = NoiseEmbedding(c), NoiseEmbedding(c)
        self.radial = RadialSplines(options.n_basis, length)
        self.scalar_in = dense(n_scalars, c)
        self.vector_in = dense(n_scalars, c, bias=False)
        # Two directions: to the Euler point, and that of the noise that the denoiser sees in x_t.
        self.direction_in = nn.Parameter(torch.randn(2, c, dtype=torch.float32) / c**0.5)
        self.film = nn.ModuleList(silent_linear(c, 2 * c) for _ in range(options.layers))
        self.messages = nn.ModuleList(Message(c, options.n_basis) for _ in range(options.layers))
        self.updates = nn.ModuleList(Update(c) for _ in range(options.layers))
        self.gate_out = perceptron(2 * c, c, c)
        self.vector_out = dense(c, 1, bias=False)
        nn.init.zeros_(self.vector_out.weight)

    def change(
        self, features: Features, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """See `FlowMap`; mean-free."""
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
        return out - out.mean(1, keepdim=True)
