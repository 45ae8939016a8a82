"""The plan for expensive potentials: where paths want their noise levels if no annealing follows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ..checkpoint import Checkpoint
from ..diffusion import KERNELS, Evaluation, PathSampler, SamplingPlan, TransitionKernel
from ..diffusion.kernels import batch_size
from ..diffusion.last_step import log_ratio
from ..energies import Energy
from ..geometry import standard_normal

__all__ = ["level_density", "tune_expensive_plan"]

# Ratio of neighbouring levels on the fine grid, its logarithm, and steps of it that are compared with one.
FINE, SPAN = 0.125, 4
# Share of the largest density that is the least: where hardly anything is lost, losses are measured worst.
LEAST = 0.1
# Loss of a long step, in nats, that is rounding.
NOTHING = 1e-6
# Network evaluations for which the lowest level is chosen; the best one hardly depends on it.
NFE = 25


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
        x = chunk + sigma[0] * standard_normal(chunk.shape, generator)
        evaluations = [kernel.evaluate(x, sigma[0])]
        for low, high in zip(sigma, sigma[1:]):
            x = x + math.sqrt(high**2 - low**2) * standard_normal(x.shape, generator)
            evaluations.append(kernel.evaluate(x, high))
        short = np.array([_gain(kernel, *pair) for pair in zip(evaluations, evaluations[1:])])
        long = np.array([_gain(kernel, *pair) for pair in zip(evaluations, evaluations[SPAN:])])
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


def tune_expensive_plan(
    checkpoint: Checkpoint, samples: torch.Tensor, energy: Energy, candidates: int = 1, seed: int = 0
) -> Checkpoint:
    """The checkpoint with a plan of few energy calls a sample, for any number of network evaluations.

    Parameters
    ----------
    checkpoint : Checkpoint
    samples : torch.Tensor, shape (n, N, D)
        Of the system, in equilibrium; a few hundred.
    energy : Energy
        Of the system. Not called if there is one candidate.
    candidates : int
        Energy calls a sample of the plan; see `NestedLastStep`. The more there are, the higher the level that they can
        bridge. To find it takes about six times as many calls for each of the samples.
    seed : int
    """
    x_0 = samples.double()
    plain = replace(replace(checkpoint, expensive=None).frugal_plan(), options={"candidates": candidates}, nfe=NFE)
    kernel = KERNELS[plain.kernel](checkpoint.denoiser, checkpoint.accuracy)
    lowest, highest = checkpoint.noise_range
    density = level_density(kernel, x_0, lowest, highest, seed)
    sigma = np.geomspace(lowest, highest, len(density)).tolist()
    plans = [replace(plain, sigma_1=sigma[k], density=density[k:]) for k in range(0, len(density) // 2, SPAN)]
    # The mean of log w on the way up is log Z plus the divergence.
    best = min(plans, key=lambda plan: _mean_log_weight(checkpoint, kernel, plan, x_0, energy, seed + 1))
    return replace(checkpoint, expensive=replace(best, nfe=None), digest="")


@torch.no_grad()
def _mean_log_weight(
    checkpoint: Checkpoint, kernel: TransitionKernel, plan: SamplingPlan, x_0, energy: Energy, seed: int
) -> float:
    """The mean log weight of paths up from samples; without their own energies if there is one candidate."""
    assert plan.sigma_1 is not None
    generator = torch.Generator().manual_seed(seed)
    x = x_0 + plan.sigma_1 * standard_normal(x_0.shape, generator)
    last_step = plan.build_last_step()
    paths = PathSampler(kernel, last_step, plan.levels(*checkpoint.noise_range), checkpoint.system.sigma_data)
    total = float(paths.forward_above(x, generator).sum())
    batch = batch_size(*x.shape[1:])
    for start, end in zip(x.split(batch), x_0.split(batch)):
        evaluation = kernel.evaluate(start, plan.sigma_1)
        if plan.options["candidates"] == 1:
            total += float(log_ratio(evaluation, evaluation.posterior(), end).sum())
        else:
            total += float(last_step.retrace(energy, evaluation, end, generator).sum())
    return total / len(x_0)
