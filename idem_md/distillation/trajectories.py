"""Trajectories of the probability-flow ODE of a frozen denoiser: what flow maps are learnt from. No energy calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..diffusion import Denoiser, stratified_log_uniform
from ..geometry import standard_normal

__all__ = ["Pool", "Trajectories", "draw_trajectories", "follow"]


class Trajectories(NamedTuple):
    """Points on paths of the flow.

    Attributes
    ----------
    x : torch.Tensor, shape (n, L, N, D), float32
    sigma : torch.Tensor, shape (n, L), float32
        Descending; levels of their own for each path.
    """

    x: torch.Tensor
    sigma: torch.Tensor


@torch.no_grad()
def follow(denoiser: Denoiser, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, steps: int) -> torch.Tensor:
    """x_s (B, N, D) on the path through x_t, from levels t to s, (B,) each.

    d(x/sigma) = -D dsigma/sigma^2, with D the mean of its values at both ends of a step: second order (Heun), exact for
    a constant D. Two network evaluations a step.
    """
    for k in range(steps):
        a, b = (t * (s / t) ** (share / steps) for share in (k, k + 1))
        r, d = (b / a)[:, None, None], denoiser(x, a)
        x = r * x + (1 - r) * (d + denoiser(d + r * (x - d), b)) / 2
    return x


@torch.no_grad()
def draw_trajectories(
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    levels: int,
    lowest: float,
    highest: float,
    generator: torch.Generator,
) -> Trajectories:
    """Paths down from N(0, highest^2 + sigma_data^2), with random levels between the lowest and the highest.

    Parameters
    ----------
    shape : tuple
        (n, N, D).
    levels : int
        L, both ends included, one step of `follow` from each to the next.
    """
    n = shape[0]
    inner = [stratified_log_uniform(levels - 2, lowest, highest, generator).sort(descending=True)[0] for _ in range(n)]
    sigma = torch.stack(inner)
    sigma = torch.cat([sigma.new_full((n, 1), highest), sigma, sigma.new_full((n, 1), lowest)], 1)
    x = math.sqrt(highest**2 + denoiser.sigma_data**2) * standard_normal(shape, generator, torch.float32)
    points = [x]
    for t, s in zip(sigma.T, sigma.T[1:]):
        points.append(follow(denoiser, points[-1], t, s, 1))
    return Trajectories(torch.stack(points, 1), sigma)


class Pool:
    """Trajectories that are kept for a while, and replaced in turn.

    Parameters
    ----------
    draw : callable (n) -> Trajectories
    size, renewed : int
        Trajectories, and how many of them `renew` replaces.
    """

    def __init__(self, draw: Callable[[int], Trajectories], size: int, renewed: int):
        self._draw, self._size, self._renewed = draw, size, renewed
        self.paths = Trajectories(torch.empty(0, dtype=torch.float32), torch.empty(0, dtype=torch.float32))

    def fill(self) -> None:
        """Draw them all."""
        parts = [self._draw(self._renewed) for _ in range(math.ceil(self._size / self._renewed))]
        self.paths = Trajectories(*(torch.cat(column)[: self._size] for column in zip(*parts)))

    def renew(self, k: int) -> None:
        """Replace the oldest of them, for the ``k``-th time."""
        where = (k * self._renewed + torch.arange(self._renewed)) % self._size
        for kept, new in zip(self.paths, self._draw(self._renewed)):
            kept[where] = new

    def pairs(self, n: int, generator: torch.Generator) -> Trajectories:
        """Two different points of ``n`` of them, in any order."""
        paths, levels = self.paths, self.paths.sigma.shape[1]
        i = torch.randint(len(paths.x), (n,), generator=generator)
        a = torch.randint(levels, (n,), generator=generator)
        b = (a + 1 + torch.randint(levels - 1, (n,), generator=generator)) % levels
        return Trajectories(*(torch.stack([part[i, a], part[i, b]], 1) for part in paths))
