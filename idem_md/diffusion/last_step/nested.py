"""Importance sampling of x_0 within each path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ...checks import check_int
from ...energies import Energy
from ...geometry import uniform
from ..gaussians import Gaussian
from ..proposals import Look
from .base import Ending, LastStep, energies_where_finite, log_ratio, register_last_step

__all__ = ["NestedLastStep", "choose"]


def choose(log_w: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Of candidates with log weights (B, K), float64: the index of one drawn by weight, and log mean w, both (B,).

    NaN counts as weight zero; where every weight is zero the first candidate is taken.
    """
    log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
    top = log_w.amax(1, keepdim=True)
    w = torch.exp(log_w - torch.where(torch.isfinite(top), top, 0.0))
    edges = w.cumsum(1)
    at = uniform((len(w), 1), generator, w.dtype, w.device) * edges[:, -1:]
    chosen = torch.searchsorted(edges, at, right=True)[:, 0].clamp(max=w.shape[1] - 1)
    return torch.where(edges[:, -1] > 0, chosen, 0), torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])


@register_last_step("nested")
class NestedLastStep(LastStep):
    """K draws x_k of the look's posterior q, g_k = -u(x_k) + log N(x; x_k, sigma^2) - log q(x_k); the weight is the
    mean of exp(g), and one draw is kept by its share of it. For dear energies: K energy calls a sample.

    Parameters
    ----------
    draws : int
        K.
    """

    takes_calls: ClassVar[bool] = True

    def __init__(self, draws: int = 4):
        self.draws = check_int("draws", draws, 1)

    @classmethod
    def of_calls(cls, options: Mapping[str, Any], calls: int) -> dict[str, Any]:
        """See `LastStep`."""
        return {"draws": check_int("last_step_calls", calls, 1)}

    def finish(self, energy: Energy, look: Look, generator: torch.Generator) -> Ending:
        """See `LastStep`."""
        down = look.posterior()
        x = torch.stack([down.sample(generator) for _ in range(self.draws)], 1)
        u, log_w = self._weighted(energy, look, down, x)
        chosen, log_mean = choose(log_w, generator)
        rows = torch.arange(len(x), device=x.device)
        # Failed paths have candidates that are not finite: they stay so, with weight zero.
        return Ending(x[rows, chosen], u[rows, chosen], log_mean + u[rows, chosen])

    def retrace(self, energy: Energy, look: Look, x_0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See `LastStep`: the given sample and K - 1 draws beside it."""
        down = look.posterior()
        x = torch.stack([x_0, *(down.sample(generator) for _ in range(self.draws - 1))], 1)
        return choose(self._weighted(energy, look, down, x)[1], generator)[1]

    @staticmethod
    def _weighted(energy: Energy, look: Look, down: Gaussian, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and log weights g of candidates (B, K, N, D), both (B, K)."""
        u = torch.stack([energies_where_finite(energy, candidate) for candidate in x.unbind(1)], 1)
        return u, torch.stack([log_ratio(look, down, candidate) for candidate in x.unbind(1)], 1) - u
