"""Flow covariances: what the probability flow makes of noise around a point, as an elastic network for each step up.

Noise of covariance v I at level s has about the covariance v (I + r^2 S)(I + S)^-1 when the flow has taken it up to
level t = r s: exact, with S = s^2 V^-1, if the data are a Gaussian of covariance V. Here S is elastic,

S = b I + sum_{i<j} (e_i - e_j)(e_i - e_j)^T (x) (k_ij rr^T + q_ij I),   b > -1 / r^2, k, q >= 0.

A negative b lets the flow contract in soft directions, as it does where several basins become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from ..tables import parse_table
from .elastic_network import ElasticNetwork, ElasticNetworkOptions, SpringConstants
from .flow_map import FLOW_MAP
from .heads import register_head
from .layers import NoiseEmbedding, dense

__all__ = ["FLOW_COVARIANCE", "FlowCovariance", "build_flow_covariance"]

# Its name among the heads of a checkpoint.
FLOW_COVARIANCE = "flow_covariance"


class FlowCovariance(ElasticNetwork):
    """An `ElasticNetwork` that also knows the level of the step and where the flow map leads.

    Parameters
    ----------
    options : ElasticNetworkOptions
    channels : int
        Of the network's scalars.
    length : float
        Natural length of the system, in the unit of positions; of no effect for a single point, which has no pairs.
    sigma_data : float
    """

    def __init__(self, options: ElasticNetworkOptions, channels: int, length: float, sigma_data: float):
        super().__init__(options, channels, length, sigma_data)
        self.there = NoiseEmbedding(options.hidden)
        self.in_g = dense(options.n_basis, options.hidden, bias=False)

    def forward(  # type: ignore[override]
        self,
        scalars: torch.Tensor,
        x: torch.Tensor,
        denoised: torch.Tensor,
        log_sigma: torch.Tensor,
        target: torch.Tensor,
        log_target: torch.Tensor,
    ) -> SpringConstants:
        """Spring constants of S.

        Parameters
        ----------
        scalars : torch.Tensor, shape (B, N, C)
            Of the network's last layer, at x_s.
        x, denoised, target : torch.Tensor, shape (B, N, D)
            x_s, D(x_s, s) and g(x_s, s -> t).
        log_sigma, log_target : torch.Tensor, shape (B,)
            ln s and ln t, t > s.
        """
        atom, noise = self.atom(scalars), self.noise(log_sigma) + self.there(log_target)
        stiffness = self.stiffness(atom, noise, ((self.in_x, x), (self.in_d, denoised), (self.in_g, target)))
        # 1 + b r^2, at first that of data of their own scale.
        prior = 1 + torch.exp(2 * log_target) / self.sigma_data**2
        top = prior * torch.exp(self.floor(nn.functional.silu(noise + atom.mean(1)))[:, 0])
        floor = (top - 1) * torch.exp(2 * (log_sigma - log_target))
        return SpringConstants(stiffness[..., 0], stiffness[..., 1], floor)


@register_head(FLOW_COVARIANCE)
def build_flow_covariance(
    options: Mapping[str, Any],
    net: nn.Module,
    sigma_data: float,
    heads: Any,
) -> FlowCovariance:
    """A fresh flow covariance beside a flow map; see `BuildHead`."""
    table, known = parse_table(ElasticNetworkOptions, options, "model", FLOW_COVARIANCE), cast(Any, heads[FLOW_MAP])
    return FlowCovariance(table, known.n_scalars, known.length, sigma_data)
