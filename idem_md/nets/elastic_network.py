"""Elastic networks: a head on a frozen network that says how its error is spread over the coordinates.

The posterior of x_0 given x_t is taken to be the Gaussian N(D, sigma^2 P^-1) with the elastic precision

P = b I + sum_{i<j} (e_i - e_j)(e_i - e_j)^T (x) (k_ij rr^T + q_ij I),   b > 0, k, q >= 0,

r the direction between atoms i and j in D: symmetric, positive definite and equivariant by construction. Shape legend:
B configurations, N atoms, C channels, P = N (N-1) / 2 pairs i > j.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import nn

from ..tables import Table, parse_table
from .heads import features_of, register_head
from .layers import NoiseEmbedding, RadialSplines, dense, silent_linear

__all__ = ["ELASTIC_NETWORK", "ElasticNetwork", "ElasticNetworkOptions", "SpringConstants", "build_elastic_network"]

# Its name among the heads of a checkpoint.
ELASTIC_NETWORK = "elastic_network"

# Bound on the logarithms of k and q: beyond it a spring is a rod, and Cholesky factors lose their digits.
STIFFEST = 10.0


class SpringConstants(NamedTuple):
    """Constants of a batch of elastic networks, in units of 1 / sigma^2.

    Attributes
    ----------
    along, across : torch.Tensor, shape (B, P)
        k and q of each pair i > j, in the order of `torch.tril_indices`.
    floor : torch.Tensor, shape (B,)
        b.
    """

    along: torch.Tensor
    across: torch.Tensor
    floor: torch.Tensor


class ElasticNetworkOptions(Table):
    """Width of the head, and of its radial basis."""

    hidden: int = Field(32, ge=4, le=256)
    n_basis: int = Field(24, ge=4, le=4096)


class ElasticNetwork(nn.Module):
    """Predicts k and q of each pair from the two atoms' scalars, their distances in x_t and in D, and the noise level.

    Parameters
    ----------
    options : ElasticNetworkOptions
    channels : int
        Of the network's scalars.
    length : float
        Natural length of the system, in the unit of positions.
    sigma_data : float
    """

    def __init__(self, options: ElasticNetworkOptions, channels: int, length: float, sigma_data: float):
        super().__init__()
        hidden = options.hidden
        self.options, self.sigma_data = options, sigma_data
        self.noise = NoiseEmbedding(hidden)
        self.atom = dense(channels, hidden)
        self.radial = RadialSplines(options.n_basis, length)
        self.in_x, self.in_d = (dense(options.n_basis, hidden, bias=False) for _ in range(2))
        self.pair = nn.Sequential(dense(hidden, hidden), nn.SiLU(), silent_linear(hidden, 2))
        self.floor = silent_linear(hidden, 1)

    def forward(
        self, scalars: torch.Tensor, x: torch.Tensor, denoised: torch.Tensor, log_sigma: torch.Tensor
    ) -> SpringConstants:
        """Spring constants.

        Parameters
        ----------
        scalars : torch.Tensor, shape (B, N, C)
            Of the network's last layer.
        x, denoised : torch.Tensor, shape (B, N, D)
        log_sigma : torch.Tensor, shape (B,)
        """
        noise = self.noise(log_sigma)
        stiffness = self.stiffness(self.atom(scalars), noise, ((self.in_x, x), (self.in_d, denoised)))
        # What b would be if the data were a Gaussian of their own scale and no pair pulled.
        prior = 1 + torch.exp(2 * log_sigma) / self.sigma_data**2
        floor = prior * torch.exp(self.floor(nn.functional.silu(noise))[:, 0])
        return SpringConstants(stiffness[..., 0], stiffness[..., 1], floor)

    def stiffness(self, atom: torch.Tensor, noise: torch.Tensor, places) -> torch.Tensor:
        """k and q, shape (B, P, 2), from atoms (B, N, H), the noise (B, H), and pairs of a layer and positions."""
        n = atom.shape[1]
        i, j = torch.tril_indices(n, n, -1, device=atom.device)
        h = atom[:, i] + atom[:, j] + noise[:, None]
        for layer, y in places:
            h = h + layer(self.radial((y[:, i] - y[:, j]).norm(dim=-1)))
        # So soft at first that the Gaussian is isotropic.
        return torch.exp((self.pair(nn.functional.silu(h)) - 4.0).clamp(max=STIFFEST))


@register_head(ELASTIC_NETWORK)
def build_elastic_network(
    options: Mapping[str, Any],
    net: nn.Module,
    sigma_data: float,
    heads: Any = None,
) -> ElasticNetwork:
    """A fresh elastic network for a network with features; see `BuildHead`.

    Raises
    ------
    UsageError
        A network without features.
    """
    table = parse_table(ElasticNetworkOptions, options, "model", ELASTIC_NETWORK)
    known = features_of(ELASTIC_NETWORK, net)
    return ElasticNetwork(table, known.n_scalars, known.length, sigma_data)
