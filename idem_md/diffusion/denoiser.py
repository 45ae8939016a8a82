"""The denoiser D(x, sigma) = E[x_0 | x_t]: a raw network F between an input's and an output's scale."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from ..checks import check_choice
from ..geometry import centred
from ..nets import ELASTIC_NETWORK, FLOW_COVARIANCE, FLOW_MAP, TakesTemperature
from .elastic import Precision

__all__ = ["OUTPUTS", "Denoiser"]

OUTPUTS = ("denoiser", "score")


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(x, ln sigma).

    With ``output = "denoiser"`` the preconditioning of Karras et al. (NeurIPS 2022, eq. 7), c_skip = s^2/(sigma^2 +
    s^2) and c_out = sigma s/sqrt(sigma^2 + s^2), s = ``sigma_data``: F has unit scale at every noise level. With
    ``"score"`` F is the score itself, D = x + sigma^2 F, as in the iDEM paper. The network scales its own input.

    Parameters
    ----------
    net : nn.Module
        F(x_BND, log_sigma_B) -> (B, N, D).
    sigma_data : float
    output : str
    heads : dict of nn.Module, optional
        On the features of the network, which must then be a `nets.HasFeatures`; names are those of `nets.HEADS`.

    Attributes
    ----------
    log_beta : torch.Tensor, shape () or (B,), optional
        Logarithm of the inverse temperature, relative to the system's own, where the network takes one; see `at`.
    """

    def __init__(
        self,
        net: nn.Module,
        sigma_data: float,
        output: str = "denoiser",
        heads: Mapping[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.net = net
        self.heads = nn.ModuleDict(heads)
        self.sigma_data = sigma_data
        self.output = check_choice("output", output, OUTPUTS)
        self.log_beta: torch.Tensor | None = None

    def add_temperature(self) -> None:
        """Make the temperature an input of the network, which has to be a `nets.TakesTemperature`; it begins at that of
        the system."""
        cast(TakesTemperature, self.net).add_temperature()
        self.log_beta = torch.zeros((), dtype=torch.float32, device="cpu")

    def at(self, log_beta: float | torch.Tensor) -> Denoiser:
        """The same network, its weights shared, at another temperature, or at one for each configuration (B,)."""
        other = copy.copy(self)
        if not isinstance(log_beta, torch.Tensor):
            log_beta = torch.tensor(log_beta, dtype=torch.float32, device="cpu")
        other.log_beta = log_beta.float()
        return other

    def _inputs(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Arguments and keywords of the network."""
        inputs = x.float(), torch.log(sigma.float())
        if self.log_beta is None:
            return inputs, {}
        return inputs, {"log_beta_B": self.log_beta.to(x.device).expand(len(x))}

    def has(self, head: str) -> bool:
        """Whether there is a head of that name."""
        return head in self.heads

    def c_skip(self, sigma: torch.Tensor) -> torch.Tensor:
        """Weight of the input, shape of ``sigma``."""
        if self.output == "score":
            return torch.ones_like(sigma)
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: torch.Tensor) -> torch.Tensor:
        """Scale of the network's output, shape of ``sigma``."""
        if self.output == "score":
            return sigma**2
        return sigma * self.sigma_data / torch.sqrt(sigma**2 + self.sigma_data**2)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Posterior mean of x_0.

        Parameters
        ----------
        x : torch.Tensor, shape (B, N, D), any float dtype
            The network runs in float32 whatever the dtype; the result has the dtype of ``x``.
        sigma : torch.Tensor, shape (B,)
        """
        inputs, temperature = self._inputs(x, sigma)
        return self._scaled(x, sigma, self.net(*inputs, **temperature))

    def _scaled(self, x: torch.Tensor, sigma: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        s = sigma.to(x.dtype)[:, None, None]
        return self.c_skip(s) * x + self.c_out(s) * f.to(x.dtype)

    def featured(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """D (B, N, D) as `forward` has it, and the `nets.Features` that heads are made for, from one network evaluation
        without gradients."""
        with torch.no_grad():
            inputs, temperature = self._inputs(x, sigma)
            features = cast(Any, self.net).with_features(*inputs, **temperature)
            return self._scaled(x, sigma, features.field), features

    def precision(self, x: torch.Tensor, denoised: torch.Tensor, features: Any, sigma: torch.Tensor) -> Precision:
        """The elastic precision of the denoiser's error, from the results of `featured`; see `nets.ElasticNetwork`."""
        along, across, floor = self.heads[ELASTIC_NETWORK](
            features.scalars, x.float(), denoised.float(), torch.log(sigma.float())
        )
        return Precision.of(along, across, floor, denoised)

    def with_precision(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Precision]:
        """The result of `forward` and that of `precision`, from one network evaluation."""
        denoised, features = self.featured(x, sigma)
        return denoised, self.precision(x, denoised, features, sigma)

    def mapped(
        self, x: torch.Tensor, denoised: torch.Tensor, features: Any, t: torch.Tensor, s: torch.Tensor, head=None
    ) -> torch.Tensor:
        """g(x_t, t -> s) = (s/t) x_t + (1 - s/t) Dbar, by the denoiser's `nets.FlowMap` or another one.

        Parameters
        ----------
        x, denoised, features
            x_t and the results of `featured` there.
        t, s : torch.Tensor, shape (B,)
            Levels, s above or below t.
        """
        head = head or self.heads[FLOW_MAP]
        average = centred(head(features, x.float(), denoised.float(), t.float(), s.float()).to(x.dtype))
        return average + (s / t).to(x.dtype)[:, None, None] * (x - average)

    def covariance(
        self,
        x: torch.Tensor,
        denoised: torch.Tensor,
        features: Any,
        target: torch.Tensor,
        s: torch.Tensor,
        t: torch.Tensor,
        head=None,
    ) -> Precision:
        """S of a step up from x_s to ``target`` at level t, by the denoiser's `nets.FlowCovariance` or another one."""
        head = head or self.heads[FLOW_COVARIANCE]
        log_s, log_t = torch.log(s.float()), torch.log(t.float())
        along, across, floor = head(features.scalars, x.float(), denoised.float(), log_s, target.float(), log_t)
        return Precision.of(along, across, floor, denoised)
