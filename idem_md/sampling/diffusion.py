"""Reverse diffusion with path weights: every average is unbiased whatever the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..diffusion import DenoiserError, Transition, forward_log_density
from ..energies import Energy
from ..geometry import gaussian_log_density, standard_normal

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
    denoise: Callable, energy: Energy, grid: torch.Tensor, error: DenoiserError, sigma_data: float, n: int,
    generator: torch.Generator, kernel: str = "analytic",
    progress: Callable[[int], None] | None = None,
) -> Paths:
    """Draw ``n`` weighted samples.

    x_N ~ N(0, sigma_N^2 + sigma_data^2), then Gaussian steps q(x_s | x_t) down to x_0, and

    log w = -u(x_0) + sum log p(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t)

    with p the noising process, so that E[w] = Z for any denoiser (annealed importance sampling on path space;
    Doucet et al., NeurIPS 2022).

    Parameters
    ----------
    denoise : callable (x (B,N,D) float64, sigma (B,)) -> (B,N,D)
    energy : Energy
    grid : torch.Tensor, shape (nfe,)
        Descending noise levels.
    error : DenoiserError
    sigma_data : float
    n : int
    generator : torch.Generator
    kernel : str
        One of `KERNELS`.
    progress : callable, optional
        Called with the number of samples finished since the last call.
    """
    levels = [float(s) for s in grid] + [0.0]
    steps = [Transition.make(kernel, t, s, error) for t, s in zip(levels, levels[1:])]
    start_variance = levels[0] ** 2 + sigma_data**2
    parts = []
    for first in range(0, n, CHUNK):
        shape = (min(CHUNK, n - first), energy.n_atoms, energy.n_dims)
        x = start_variance**0.5 * standard_normal(shape, generator)
        log_w = -gaussian_log_density(x, torch.zeros_like(x), start_variance)
        for step in steps:
            denoised = denoise(x, torch.full(shape[:1], step.sigma_t, dtype=torch.float64))
            y, log_q = step.sample(x, denoised, generator)
            log_w += forward_log_density(x, y, step.sigma_t, step.sigma_s) - log_q
            x = y
        ok = torch.isfinite(x).flatten(1).all(1) & torch.isfinite(log_w)
        u = torch.full(shape[:1], torch.inf, dtype=torch.float64)
        if bool(ok.any()):
            u[ok] = energy(x[ok])[0]
        parts.append((torch.where(ok[:, None, None], x, torch.nan), u, torch.where(ok, log_w - u, -torch.inf), ok))
        if progress is not None:
            progress(shape[0])
    x, u, log_w, ok = (torch.cat(column) for column in zip(*parts))
    return Paths(x, u, log_w, len(grid), int((~ok).sum()))
