"""Error of the denoiser by noise level."""

from __future__ import annotations

import math

import torch

from ..diffusion import DenoiserAccuracy
from ..geometry import standard_normal, subspace_dimension
from .config import TrainingConfig
from .state import TrainingState

__all__ = ["measure_accuracy"]


@torch.no_grad()
def measure_accuracy(
    config: TrainingConfig, state: TrainingState, levels: int = 33, samples: int = 256, rung: int = 0
) -> DenoiserAccuracy:
    """Mean squared error of the averaged denoiser on noised buffer samples, per coordinate, by noise level; at the
    temperature of one rung, if there are several.

    Uses a generator of its own, so that measuring does not change the training that may follow. Rare samples on which
    the network overflows are left out, as in training.
    """
    generator = torch.Generator().manual_seed(config.seed + 1)
    lowest, highest = math.log(config.noise.sigma_min), math.log(config.noise.sigma_max)
    grid = torch.exp(torch.linspace(lowest, highest, levels, dtype=torch.float32, device="cpu"))
    mse, denoiser = [], state.average_at(rung)
    for sigma in grid:
        x_0 = state.buffer.samples.x[state.drawn(samples, rung, generator)]
        x_t = x_0 + sigma * standard_normal(x_0.shape, generator, torch.float32, x_0.device)
        d = denoiser(x_t, sigma.expand(samples).to(x_0.device))
        squared = ((d - x_0).double() ** 2).sum((1, 2))
        mse.append(float(squared[torch.isfinite(squared)].mean() / subspace_dimension(*x_0.shape[1:])))
    return DenoiserAccuracy(tuple(grid.tolist()), tuple(mse))
