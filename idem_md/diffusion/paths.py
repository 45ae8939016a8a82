"""Weighted paths, the one place where a path weight is computed: every average is unbiased whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..energies import Energy
from ..geometry import standard_normal
from .gaussians import Isotropic
from .last_step import LastStep
from .proposals import Proposal, batch_size, joined, look_in_chunks

__all__ = ["Paths", "forward_log_weights", "forward_paths", "raw_paths", "sample_paths"]


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
        E[exp(log_weights)] = Z, or 0 if weights are not wanted; -inf where a path failed.
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
    energies: Sequence[Energy],
    levels: Sequence[float],
    sigma_data: float,
    n: int,
    generator: torch.Generator,
    progress: Callable[[torch.Tensor], None] = lambda _: None,
    device: torch.device | str = "cpu",
) -> list[Paths]:
    """Draw ``n`` weighted samples of each of several potentials, from the same paths.

    x_N ~ N(0, sigma_N^2 + sigma_data^2), Gaussian steps q(x_s | x_t) down to sigma_1, and a last step to x_0:

    log w = -u(x_0) + log_ratio + sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t)

    so that E[w] = Z for any denoiser (annealed importance sampling on path space; Doucet et al., NeurIPS 2022).

    Parameters
    ----------
    proposal : Proposal
        Looks at each point once.
    last_step : LastStep
        Contributes x_0, u and log_ratio.
    energies : sequence of Energy
        Of the same atoms; the samples of different ones are not independent.
    levels : sequence of float
        Descending noise levels, one look at each.
    sigma_data : float
    n : int
    generator : torch.Generator
    progress : callable (log weights)
        Called with the log weights of the samples finished since the last call, those of the first potential.
    device : torch.device or str
        Where the denoiser is. Random numbers are the generator's; the results come back to the CPU.
    """
    levels = [float(s) for s in levels]
    parts: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in energies]
    for starts in _blocks(last_step, energies[0], levels[0] ** 2 + sigma_data**2, n, device):
        looks, weights = [], []
        for start in starts:
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
        look, above = joined(looks), torch.cat(weights)
        for energy, done in zip(energies, parts):
            end = last_step.finish(energy, look, generator)
            log_w = above + end.log_ratio
            ok = torch.isfinite(end.x).flatten(1).all(1) & torch.isfinite(log_w)
            u = torch.where(ok, end.u, torch.inf)
            x = torch.where(ok[:, None, None], end.x, torch.nan)
            done.append(tuple(a.cpu() for a in (x, u, torch.where(ok, log_w - u, -torch.inf), ok)))
        progress(parts[0][-1][2])
    columns = ([torch.cat(column) for column in zip(*done)] for done in parts)
    return [Paths(x, u, log_w, len(levels), int((~ok).sum())) for x, u, log_w, ok in columns]


@torch.no_grad()
def raw_paths(
    proposal: Proposal,
    last_step: LastStep,
    energy: Energy,
    levels: Sequence[float],
    sigma_data: float,
    n: int,
    generator: torch.Generator,
    progress: Callable[[torch.Tensor], None] = lambda _: None,
    spared: bool = False,
    device: torch.device | str = "cpu",
) -> Paths:
    """Draw ``n`` end points of the same paths, without weights: no step is ever looked at from below.

    Parameters
    ----------
    levels : sequence of float
        Descending noise levels.
    spared : bool
        Whether the last of them is not looked at either; see `Proposal.leap`.
    others
        As in `sample_paths`.

    Raises
    ------
    UsageError
        ``spared`` with a proposal that has to look.
    """
    levels = [float(s) for s in levels]
    parts: list[tuple[torch.Tensor, ...]] = []
    for starts in _blocks(last_step, energy, levels[0] ** 2 + sigma_data**2, n, device):
        looks = []
        for start in starts:
            look = proposal.look(start.sample(generator), levels[0])
            for s in levels[1:-1] if spared else levels[1:]:
                look = proposal.look(proposal.down(look, s).sample(generator), s)
            looks.append(proposal.leap(look, levels[-1], generator) if spared else look)
        end = last_step.finish(energy, joined(looks), generator)
        ok = torch.isfinite(end.x).flatten(1).all(1) & ~torch.isnan(end.u)
        u = torch.where(ok, end.u, torch.inf)
        x, weightless = torch.where(ok[:, None, None], end.x, torch.nan), torch.zeros_like(u)
        parts.append(tuple(a.cpu() for a in (x, u, torch.where(torch.isfinite(u), weightless, -torch.inf), ok)))
        progress(parts[-1][2])
    x, u, log_w, ok = (torch.cat(column) for column in zip(*parts))
    return Paths(x, u, log_w, len(levels) - spared, int((~ok).sum()))


def _blocks(last_step: LastStep, energy: Energy, variance: float, n: int, device) -> Iterator[list[Isotropic]]:
    """Distributions of the starting points of ``n`` paths: as many at a time as the last step takes, and of those as
    many together as the network looks at."""
    where = torch.device(device).type
    block, batch = last_step.block(energy, where), batch_size(energy.n_atoms, energy.n_dims, where)
    for first in range(0, n, block):
        size = min(block, n - first)
        shapes = [(min(batch, size - k), energy.n_atoms, energy.n_dims) for k in range(0, size, batch)]
        yield [Isotropic(torch.zeros(shape, dtype=torch.float64, device=device), variance) for shape in shapes]


@torch.no_grad()
def forward_paths(
    proposal: Proposal,
    last_step: LastStep,
    energy: Energy,
    levels: Sequence[float],
    sigma_data: float,
    x_0: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Log weights (n,) of paths that go up from samples of the system: what those of `sample_paths` should look like.

    Samples that are in equilibrium see every mode. With their weights 1 / (mean(w) mean(1/w)) is the share of
    effective samples, modes that sampling misses included; mean(1/w) is 1/Z, and mean(log w) no less than log Z.

    Parameters
    ----------
    proposal, last_step, energy, levels, sigma_data, generator
        As in `sample_paths`.
    x_0 : torch.Tensor, shape (n, N, D), float64
    """
    lowest = min(float(s) for s in levels)
    x = x_0 + lowest * standard_normal(x_0.shape, generator, device=x_0.device)
    above = forward_log_weights(proposal, levels, sigma_data, x, generator)
    parts = []
    block = last_step.block(energy, x.device.type)
    for start, end in zip(x.split(block), x_0.split(block)):
        parts.append(last_step.retrace(energy, look_in_chunks(proposal, start, lowest), end, generator))
    return above + torch.cat(parts)


@torch.no_grad()
def forward_log_weights(
    proposal: Proposal,
    levels: Sequence[float],
    sigma_data: float,
    x: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """The part of `forward_paths` above the lowest level, shape (n,), from points ``x`` (n, N, D) there.

    sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t).
    """
    upward = sorted(float(s) for s in levels)
    parts = []
    for start in x.split(batch_size(x.shape[1], x.shape[2], x.device.type)):
        look = proposal.look(start, upward[0])
        log_w = start.new_zeros(len(start))
        for s, t in zip(upward, upward[1:]):
            up = proposal.up(look, t)
            y = up.sample(generator)
            above = proposal.look(y, t)
            log_w += up.log_density(y) - proposal.down(above, s).log_density(look.x)
            look = above
        top = Isotropic(torch.zeros_like(look.x), upward[-1] ** 2 + sigma_data**2)
        parts.append(log_w - top.log_density(look.x))
    return torch.cat(parts)
