"""The probability flow: densities of a denoiser's own distribution, without paths."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..checks import check_choice, check_float, check_int
from ..errors import UsageError
from ..extras import import_extra
from ..geometry import gaussian_log_density, standard_normal, subspace_dimension
from .kernels import Denoise, batch_size
from .kernels.base import levels

__all__ = ["DIVERGENCES", "Flow"]

DIVERGENCES = ("exact", "hutchinson")


@dataclass(frozen=True)
class Flow:
    """dx/dt = x - D(x, sigma), t = ln sigma, between two noise levels.

    Points drawn from N(0, high^2 + sigma_data^2) and carried down have the density (Song et al., ICLR 2021, eq. 39)

    log p_low(x(low)) = log p_high(x(high)) + integral of tr(1 - dD/dx) dt from ln low to ln high,

    on the mean-free subspace.

    Parameters
    ----------
    denoise : callable
        See `kernels.Denoise`; differentiable.
    sigma_data, low, high : float
    divergence : str
        ``exact``: the trace by as many gradients as there are dimensions. ``hutchinson``: by one or more random
        vectors, the same along a trajectory; log densities are then unbiased but noisy, and weights made of them are
        not.
    probes, seed : int
        Of Hutchinson's estimate.
    step : float
        In ln sigma, at most: the points between which the fourth-order Runge-Kutta rule of torchdiffeq goes, which is
        the extra ``flow``. (Steps that adapt to an error end in the noise of a network in single precision.)
    """

    denoise: Denoise
    sigma_data: float
    low: float
    high: float
    divergence: str = "exact"
    probes: int = 1
    seed: int = 0
    step: float = 0.2

    def __post_init__(self):
        check_float("low", self.low, above=0.0)
        check_float("high", self.high, above=self.low)
        check_float("step", self.step, above=0.0)
        check_choice("divergence", self.divergence, DIVERGENCES)
        check_int("probes", self.probes, 1)
        if self.divergence == "exact" and self.probes != 1:
            raise UsageError(f"probes: expected none with the exact trace, got {self.probes}")

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """log p_low at given points (n, N, D), shape (n,), float64."""
        if not bool(torch.isfinite(x).all()):
            raise UsageError("x: expected finite positions, got NaN or infinity")
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for chunk in x.double().split(batch_size(*x.shape[1:])):
            top, change = self._carry(chunk, self.low, self.high, generator)
            parts.append(self._top_density(top) + change)
        return torch.cat(parts)

    def sample(
        self, n: int, n_atoms: int, n_dims: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``n`` points at the lower level (n, N, D), and log p_low there (n,), float64."""
        points, densities = [], []
        batch = batch_size(n_atoms, n_dims)
        for first in range(0, n, batch):
            shape = (min(batch, n - first), n_atoms, n_dims)
            top = math.sqrt(self.high**2 + self.sigma_data**2) * standard_normal(shape, generator)
            x, change = self._carry(top, self.high, self.low, generator)
            points.append(x)
            densities.append(self._top_density(top) - change)
        return torch.cat(points), torch.cat(densities)

    def _top_density(self, x: torch.Tensor) -> torch.Tensor:
        return gaussian_log_density(x, torch.zeros_like(x), self.high**2 + self.sigma_data**2)

    def _carry(self, x, start: float, end: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Points at the level ``end``, and the integral of the trace on the way."""
        n, d = x.shape[1:]
        if self.divergence == "exact":
            directions = _basis(n, d)
        else:
            directions = torch.stack([standard_normal(x.shape, generator) for _ in range(self.probes)])

        def slope(t: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]):
            denoised, trace = self._denoised_and_trace(state[0], float(torch.exp(t)), directions)
            return state[0] - denoised, subspace_dimension(n, d) - trace

        steps = max(math.ceil(abs(math.log(end / start)) / self.step), 1)
        times = torch.linspace(math.log(start), math.log(end), steps + 1, dtype=torch.float64)
        odeint = import_extra("torchdiffeq", "flow", "flow").odeint
        with torch.no_grad():
            x, change = odeint(slope, (x, x.new_zeros(len(x))), times, method="rk4")
        return x[-1], change[-1]

    def _denoised_and_trace(self, x: torch.Tensor, sigma: float, directions: torch.Tensor):
        """D and tr dD/dx, shape (B,): the sum over an orthonormal basis (d, N, D), or the mean over probes (P, B, N,
        D)."""
        total = x.new_zeros(len(x))
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)
            denoised = self.denoise(y, levels(y, sigma))
        for k, direction in enumerate(directions):
            v = direction.expand_as(x)
            (pulled,) = torch.autograd.grad(denoised, y, v, retain_graph=k + 1 < len(directions))
            total += (pulled * v).sum((1, 2))
        return denoised.detach(), total if self.divergence == "exact" else total / len(directions)


def _basis(n: int, d: int) -> torch.Tensor:
    """An orthonormal basis of the mean-free subspace, shape ((N-1) D, N, D); of all of it for a single atom."""
    if n == 1:
        return torch.eye(d, dtype=torch.float64).reshape(d, 1, d)
    # Helmert: the k-th vector sets the mean of the first k atoms against the next.
    rows = torch.tril(torch.ones(n - 1, n, dtype=torch.float64))
    k = torch.arange(1, n, dtype=torch.float64)
    rows[torch.arange(n - 1), torch.arange(1, n)] = -k
    rows /= torch.sqrt(k * (k + 1))[:, None]
    return torch.einsum("an,de->adne", rows, torch.eye(d, dtype=torch.float64)).reshape(-1, n, d)
