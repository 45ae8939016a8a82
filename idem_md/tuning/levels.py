"""The plan for expensive potentials: where paths want their noise levels if no annealing follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..checkpoint import Checkpoint
from ..diffusion import KERNELS, PathSampler, SamplingPlan, TransitionKernel, level_density
from ..diffusion.kernels import batch_size
from ..diffusion.last_step import log_ratio
from ..diffusion.levels import SPAN
from ..energies import Energy
from ..geometry import standard_normal

__all__ = ["tune_expensive_plan"]

# Network evaluations for which the lowest level is chosen; the best one hardly depends on it.
NFE = 25


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
