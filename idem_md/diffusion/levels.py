"""Density of noise levels for paths."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..geometry import standard_normal
from .kernels import Evaluation, TransitionKernel, batch_size

__all__ = ["SPAN", "level_density"]

# Ratio of neighbouring levels on the fine grid, its logarithm, and steps of it that are compared with one.
FINE, SPAN = 0.125, 4
# Share of the largest density that is the least: where hardly anything is lost, losses are measured worst.
LEAST = 0.1
# Loss of a long step, in nats, that is rounding.
NOTHING = 1e-6


@torch.no_grad()
def level_density(
    kernel: TransitionKernel, x_0: torch.Tensor, lowest: float, highest: float, seed: int
) -> tuple[float, ...]:
    """How dense levels should lie for the least divergence of paths up from paths down.

    A long step loses log p(x_s | x_t) - log q(x_s | x_t) more than the short steps that it replaces: c h^2, with h the
    logarithm of its ratio of levels. The sum over a path of given length is least for a density of levels in ln sigma
    that is proportional to c^(1/2). Long and short steps are compared on the same paths up from samples, where
    everything cancels but what they lose.

    Parameters
    ----------
    kernel : TransitionKernel
    x_0 : torch.Tensor, shape (n, N, D), float64
        Samples of the system.
    lowest, highest : float
    seed : int

    Returns
    -------
    tuple of float
        At equidistant ln sigma from the lowest to the highest; see `noise_grid`.
    """
    n = max(math.ceil(math.log(highest / lowest) / FINE), SPAN) + 1
    sigma = np.geomspace(lowest, highest, n).tolist()
    generator = torch.Generator().manual_seed(seed)
    lost = np.zeros(n - SPAN)
    for chunk in x_0.split(batch_size(*x_0.shape[1:])):
        x = chunk + sigma[0] * standard_normal(chunk.shape, generator, device=chunk.device)
        evaluations = [kernel.evaluate(x, sigma[0])]
        for low, high in zip(sigma, sigma[1:]):
            x = x + math.sqrt(high**2 - low**2) * standard_normal(x.shape, generator, device=x.device)
            evaluations.append(kernel.evaluate(x, high))
        short = np.array([_gain(kernel, *pair) for pair in zip(evaluations, evaluations[1:])])
        long = np.array([_gain(kernel, *pair) for pair in zip(evaluations, evaluations[SPAN:])])
        if not np.isfinite([*short, *long]).all():  # the network overflows now and then
            return (1.0,) * n
        lost += long - np.convolve(short, np.ones(SPAN), "valid")
    # Each belongs to the middle of its span; beyond the first and last middle it is as there.
    c = np.pad(np.maximum(lost, 0.0), (SPAN // 2, SPAN - SPAN // 2), mode="edge")
    if c.max() < NOTHING * len(x_0):
        return (1.0,) * n
    return tuple(np.maximum(np.sqrt(c / c.max()), LEAST).tolist())


def _gain(kernel: TransitionKernel, low: Evaluation, high: Evaluation) -> float:
    """log up - log down of a step between two evaluations, summed over their samples."""
    up = kernel.up(low, high.sigma).log_density(high.x)
    return float((up - kernel.down(high, low.sigma).log_density(low.x)).sum())
