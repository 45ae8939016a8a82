"""Weights of paths that go up from samples."""

from __future__ import annotations

import numpy as np
import torch

from ..checks import check_int
from ..diffusion import PathSampler, TwinPaths
from ..ensemble import ForwardWeights, WeightedEnsemble
from ..errors import UsageError
from ..systems import System

__all__ = ["forward_weights"]


def forward_weights(
    paths: PathSampler | TwinPaths, system: System, samples: WeightedEnsemble, seed: int, n: int, device: torch.device
) -> ForwardWeights:
    """See `Sampler.forward`."""
    shape = system.n_atoms, system.n_dims
    if samples.system.name != system.name or samples.positions.shape[1:] != shape:
        raise UsageError(f"samples: expected some of {system.name!r}, got {samples.system.name!r}")
    known = samples if samples.kind == "equilibrium" else samples.resample(seed=seed)
    x = known.positions[known.alive]
    order = np.random.default_rng(seed).permutation(len(x))[: check_int("n", n, 2)]
    log_w = paths.forward(
        system.energy(),
        torch.from_numpy(x[order]).to(device),
        torch.Generator().manual_seed(check_int("seed", seed, 0, 2**32 - 1)),
    )
    return ForwardWeights(log_w.cpu().numpy(), samples.ess)
