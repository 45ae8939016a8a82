"""Weighted paths, the one place where a path weight is computed: every average is unbiased whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..energies import Energy
from .gaussians import Isotropic
from .last_step import LastStep
from .proposals import Proposal

__all__ = ["Paths", "sample_paths"]

# Samples a network evaluation: large enough for the matrix products, small enough for the caches.
CHUNK = 250


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
    for first in range(0, n, CHUNK):
        shape = (min(CHUNK, n - first), energy.n_atoms, energy.n_dims)
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
        end = last_step.finish(energy, look, generator)
        log_w += end.log_ratio
        ok = torch.isfinite(end.x).flatten(1).all(1) & torch.isfinite(log_w)
        u = torch.where(ok, end.u, torch.inf)
        parts.append((torch.where(ok[:, None, None], end.x, torch.nan), u, torch.where(ok, log_w - u, -torch.inf), ok))
        progress(shape[0])
    x, u, log_w, ok = (torch.cat(column) for column in zip(*parts))
    return Paths(x, u, log_w, len(levels), int((~ok).sum()))
