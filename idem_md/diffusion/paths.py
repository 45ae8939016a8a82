"""Weighted paths, the one place where a path weight is computed: every average is unbiased whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..energies import Energy
from .gaussians import Isotropic
from .last_step import LastStep
from .proposals import CHUNK, Proposal, joined

__all__ = ["Paths", "forward_log_weights", "sample_paths"]


@dataclass(frozen=True)
class Paths:
    """End points of weighted paths.

    Attributes
    ----------
    positions : torch.Tensor, shape (n, N, D), float64
        NaN where a path failed.
    energies : torch.Tensor, shape (n,), float64
        +inf for overlaps and failed paths.
    log_weights : torch.Tensor, shape (n,), float64
        E[exp(log_weights)] = Z; -inf where a path failed.
    nfe, failed : int
        Network evaluations a sample, and paths that left the real numbers.
    """

    positions: torch.Tensor
    energies: torch.Tensor
    log_weights: torch.Tensor
    nfe: int
    failed: int


@torch.no_grad()
def sample_paths(
    proposal: Proposal,
    last_step: LastStep,
    energy: Energy,
    levels: Sequence[float],
    sigma_data: float,
    n: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda _: None,
) -> Paths:
    """Draw ``n`` weighted samples.

    x_N ~ N(0, sigma_N^2 + sigma_data^2), Gaussian steps q(x_s | x_t) down to sigma_1, and a last step to x_0:

    log w = -u(x_0) + log_ratio + sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t)

    so that E[w] = Z for any denoiser (annealed importance sampling on path space; Doucet et al., NeurIPS 2022).

    Parameters
    ----------
    proposal : Proposal
        Looks at each point once.
    last_step : LastStep
        Contributes x_0, u and log_ratio.
    energy : Energy
    levels : sequence of float
        Descending noise levels, one look at each.
    sigma_data : float
    n : int
    generator : torch.Generator
    progress : callable (int)
        Called with the number of samples finished since the last call.
    """
    levels = [float(s) for s in levels]
    start_variance = levels[0] ** 2 + sigma_data**2
    parts = []
    for first in range(0, n, last_step.block):
        size = min(last_step.block, n - first)
        looks, weights = [], []
        for chunk in range(0, size, CHUNK):
            shape = (min(CHUNK, size - chunk), energy.n_atoms, energy.n_dims)
            start = Isotropic(torch.zeros(shape, dtype=torch.float64), start_variance)
            x = start.sample(generator)
            log_w = -start.log_density(x)
            look = proposal.look(x, levels[0])
            for t, s in zip(levels, levels[1:]):
                down = proposal.down(look, s)
                y = down.sample(generator)
                look = proposal.look(y, s)
                log_w += proposal.up(look, t).log_density(x) - down.log_density(y)
                x = y
            looks.append(look)
            weights.append(log_w)
        end = last_step.finish(energy, looks[0] if len(looks) == 1 else joined(looks), generator)
        log_w = torch.cat(weights) + end.log_ratio
        ok = torch.isfinite(end.x).flatten(1).all(1) & torch.isfinite(log_w)
        u = torch.where(ok, end.u, torch.inf)
        parts.append((torch.where(ok[:, None, None], end.x, torch.nan), u, torch.where(ok, log_w - u, -torch.inf), ok))
        progress(size)
    x, u, log_w, ok = (torch.cat(column) for column in zip(*parts))
    return Paths(x, u, log_w, len(levels), int((~ok).sum()))


@torch.no_grad()
def forward_log_weights(
    proposal: Proposal,
    levels: Sequence[float],
    sigma_data: float,
    x: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Log weights of paths that go up from samples of the system noised to the lowest level, shape (n,).

    sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t): the weight of `sample_paths` without the last step,
    whose estimate of the density at ``x`` is to be added. From such paths 1 / (mean(w) mean(1/w)) is the share of
    effective samples, modes that sampling would miss included; noise of the last step's estimate counts as it does in
    sampling, if it is about log-normal.

    Parameters
    ----------
    proposal, levels, sigma_data, generator
        As in `sample_paths`.
    x : torch.Tensor, shape (n, N, D), float64
        At the lowest of the levels.
    """
    upward = sorted(float(s) for s in levels)
    parts = []
    for start in x.split(CHUNK):
        look = proposal.look(start, upward[0])
        log_w = torch.zeros(len(start), dtype=torch.float64)
        for s, t in zip(upward, upward[1:]):
            up = proposal.up(look, t)
            y = up.sample(generator)
            above = proposal.look(y, t)
            log_w += up.log_density(y) - proposal.down(above, s).log_density(look.x)
            look = above
        top = Isotropic(torch.zeros_like(look.x), upward[-1] ** 2 + sigma_data**2)
        parts.append(log_w - top.log_density(look.x))
    return torch.cat(parts)
