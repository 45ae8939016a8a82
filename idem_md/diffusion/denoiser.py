"""The denoiser D(x, sigma) = E[x_0 | x_t]: a raw network F between an input's and an output's scale."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from ..checks import check_choice
from ..geometry import centred
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
    springs : nn.Module, optional
        A `nets.Springs` on the network's scalars, which must then be a `nets.HasFeatures`.

    Attributes
    ----------
    jump : nn.Module or None
        A `nets.Jump` on the network's features.
    stretch : nn.Module or None
        A `nets.Stretch` on them.
    """

    def __init__(self, net: nn.Module, sigma_data: float, output: str = "denoiser", springs: nn.Module | None = None):
        super().__init__()
        self.springs = springs
        self.jump: nn.Module | None = None
        self.stretch: nn.Module | None = None
        self.net = net
        self.sigma_data = sigma_data
        self.output = check_choice("output", output, OUTPUTS)

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
        return self._scaled(x, sigma, self.net(x.float(), torch.log(sigma.float())))

    def _scaled(self, x: torch.Tensor, sigma: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        s = sigma.to(x.dtype)[:, None, None]
        return self.c_skip(s) * x + self.c_out(s) * f.to(x.dtype)

    @property
    def has_jumps(self) -> bool:
        """Whether `jumped` can be called without a jump of its own."""
        return self.jump is not None

    @property
    def has_springs(self) -> bool:
        """Whether `with_precision` can be called."""
        return self.springs is not None

    def with_precision(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Precision]:
        """The result of `forward`, and the elastic precision of its error, from one evaluation of the network."""
        denoised, features = self.featured(x, sigma)
        return denoised, self.precision(x, denoised, features, sigma)

    def featured(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The result of `forward`, and what else the network knows, for heads; without gradients."""
        with torch.no_grad():
            features = cast(Any, self.net).with_features(x.float(), torch.log(sigma.float()))
            return self._scaled(x, sigma, features.field), features

    def jumped(
        self, x: torch.Tensor, denoised: torch.Tensor, features: Any, t: torch.Tensor, s: torch.Tensor, jump=None
    ) -> torch.Tensor:
        """g(x_t, t -> s) = (s/t) x_t + (1 - s/t) Dbar, by ``jump`` or the denoiser's own; see `nets.Jump`.

        Parameters
        ----------
        x, denoised, features
            x_t and the results of `featured` there.
        t, s : torch.Tensor, shape (B,)
            Levels, s above or below t.
        """
        jump = jump or self.jump
        assert jump is not None
        average = centred(jump(features, x.float(), denoised.float(), t.float(), s.float()).to(x.dtype))
        return average + (s / t).to(x.dtype)[:, None, None] * (x - average)

    def precision(self, x: torch.Tensor, denoised: torch.Tensor, features: Any, sigma: torch.Tensor) -> Precision:
        """The elastic precision of the denoiser's error, from the results of `featured`."""
        assert self.springs is not None
        log_sigma = torch.log(sigma.float())
        along, across, floor = self.springs(features.scalars, x.float(), denoised.float(), log_sigma)
        return Precision.of(along, across, floor, denoised)

    def stretching(
        self,
        x: torch.Tensor,
        denoised: torch.Tensor,
        features: Any,
        target: torch.Tensor,
        s: torch.Tensor,
        t: torch.Tensor,
        stretch=None,
    ) -> Precision:
        """S of a jump up from x_s to ``target`` at level t, by ``stretch`` or the denoiser's; see `nets.Stretch`."""
        stretch = stretch or self.stretch
        assert stretch is not None
        log_s, log_t = torch.log(s.float()), torch.log(t.float())
        along, across, floor = stretch(features.scalars, x.float(), denoised.float(), log_s, target.float(), log_t)
        return Precision.of(along, across, floor, denoised)
