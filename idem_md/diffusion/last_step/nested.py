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
from ..kernels import Evaluation
from .base import LastStep, LastStepResult, energies_where_finite, log_ratio, register_last_step

__all__ = ["NestedLastStep", "choose"]


def choose(log_w: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one of the candidates with log weights (B, K), float64, by weight: its index, and log mean w, both (B,).

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
    """K candidates x_k from the evaluation's posterior q, g_k = -u(x_k) + log N(x; x_k, sigma^2) - log q(x_k).

    The weight is the mean of exp(g), and one candidate is kept by its share of it. For expensive
    energies: K energy calls a sample.

    Parameters
    ----------
    candidates : int
        K.
    """

    takes_calls: ClassVar[bool] = True

    def __init__(self, candidates: int = 4):
        self.candidates = check_int("candidates", candidates, 1)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> NestedLastStep:
        """See `LastStep`; the first versions called candidates draws."""
        return cls(**{"candidates" if key == "draws" else key: value for key, value in options.items()})

    @property
    def calls(self) -> int:
        """See `LastStep`."""
        return self.candidates

    @classmethod
    def of_calls(cls, options: Mapping[str, Any], calls: int) -> dict[str, Any]:
        """See `LastStep`."""
        return {"candidates": check_int("last_step_calls", calls, 1)}

    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """See `LastStep`."""
        down = evaluation.posterior()
        x = torch.stack([down.sample(generator) for _ in range(self.candidates)], 1)
        u, log_w = self._weighted(energy, evaluation, down, x)
        chosen, log_mean = choose(log_w, generator)
        rows = torch.arange(len(x), device=x.device)
        # Failed paths have candidates that are not finite: they stay so, with weight zero.
        return LastStepResult(x[rows, chosen], u[rows, chosen], log_mean + u[rows, chosen])

    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See `LastStep`: the given sample and K - 1 candidates beside it."""
        down = evaluation.posterior()
        x = torch.stack([x_0, *(down.sample(generator) for _ in range(self.candidates - 1))], 1)
        return choose(self._weighted(energy, evaluation, down, x)[1], generator)[1]

    @staticmethod
    def _weighted(
        energy: Energy, evaluation: Evaluation, down: Gaussian, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and log weights g of candidates (B, K, N, D), both (B, K)."""
        u = torch.stack([energies_where_finite(energy, candidate) for candidate in x.unbind(1)], 1)
        return u, torch.stack([log_ratio(evaluation, down, candidate) for candidate in x.unbind(1)], 1) - u
