"""An energy as a network: a sum over atoms of what a network with features knows of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .. import native
from ..errors import UsageError
from ..systems import System
from .layers import dense, dense_layers
from .painn import PaiNN
from .registry import NETWORKS, HasFeatures, parse_network

__all__ = ["EnergyNetwork", "build_energy_network"]


class EnergyNetwork(nn.Module):
    """u(x) = shift + scale sum_i g(s_i), s_i the scalars of atom i in the last layer of a network.

    Invariant as the network is: to rotations, reflections, translations, and exchanges of atoms of one kind.

    Parameters
    ----------
    net : HasFeatures
        It is asked for its features at the noise level 1.
    options : dict
        From which the network can be built again.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, net: Any, options: Mapping[str, Any]):
        super().__init__()
        self.options = dict(options)
        self.net, n = net, net.n_scalars
        self.readout = nn.Sequential(dense(n, n), nn.SiLU(), dense(n, 1, bias=False))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, x_BND: torch.Tensor, **route: bool) -> torch.Tensor:
        """Energies (B,), float64, of positions (B, N, D), float32; ``route`` as for the network."""
        level = torch.zeros(len(x_BND), dtype=torch.float32, device=x_BND.device)
        scalars = self.net.with_features(x_BND, level, **route).scalars
        # Sums of some numbers that nearly cancel: in float32 their last digits would be seen in differences.
        return self.shift + self.scale * self.readout(scalars)[..., 0].double().sum(-1)

    @torch.no_grad()
    def with_forces(self, x_BND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (B,), float64, and forces (B, N, D), float32, by the fastest route; not differentiable.

        That is native for a PaiNN without a cutoff, ``pair_factors`` and ``normalised`` whose channels are a multiple
        of 16, in three dimensions on the CPU.
        """
        net = self.net
        if isinstance(net, PaiNN) and net.has_native_energy(x_BND):
            inner, outer = dense_layers(self.readout)
            weights = *net.weights_at(0.0, x_BND.shape[1]), inner.weight, inner.bias, outer.weight[0]
            u, gradient = native.energy_network(x_BND, weights, net.n_scalars, len(net.messages), net.radial.scale)
            return self.shift + self.scale * u, -self.scale.float() * gradient
        with torch.enable_grad():
            x = x_BND.detach().requires_grad_(True)
            u = self(x)
            (gradient,) = torch.autograd.grad(u.sum(), x)
        return u.detach(), -gradient


def build_energy_network(options: Mapping[str, Any], system: System) -> EnergyNetwork:
    """An energy network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    options : dict
        Of a registered network, by ``name``.
    system : System

    Raises
    ------
    ConfigError
        Options that the network does not have.
    UsageError
        A network without features or with refinements, or one that does not suit the system.
    """
    table = parse_network(options, "twin")
    if refinements := getattr(table, "refinements", 0):
        raise UsageError(f"twin: expected refinements = 0, as there is no noise in positions, got {refinements}")
    net = NETWORKS.find(table.name).build(table, system)
    if not isinstance(net, HasFeatures):
        raise UsageError(f"network.name: expected one with scalars on its atoms, such as painn, got {table.name!r}")
    return EnergyNetwork(net, table.model_dump())
