"""What training still gains: the divergence of paths from equilibrium that a falling loss takes away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..diffusion import Denoiser
from .config import TrainingConfig

__all__ = ["Gain", "enough", "gain", "how_it_ended"]

# Outer iterations before which nothing is said: steps sizes are still large, and losses noisy.
LEAST_ITERATIONS = 18
# Nats from which a longer training is advised.
STILL_GAINING = 0.3


class Gain(NamedTuple):
    """Nats that the last third of the iterations gained over the third before, and the standard error."""

    nats: float
    error: float


def gain(log: Sequence[Mapping[str, Any]], denoiser: Denoiser, numbers: int) -> Gain:
    """What the loss says of the divergence KL(equilibrium | paths) in the last third of the iterations and in the third
    before.

    An error of the denoiser of e^2 a coordinate at the noise level sigma adds ``numbers`` e^2 / sigma^2 d ln sigma to
    the divergence (Song et al., NeurIPS 2021, theorem 1). The loss is e^2 / c_out^2 and a constant that the samples of
    the buffer bring, which cancels as long as the buffer is in equilibrium.

    Parameters
    ----------
    log : sequence of dict
        Entries of ``log.jsonl``, one an outer iteration, six at least.
    denoiser : Denoiser
    numbers : int
        Coordinates less those of the centroid.
    """
    losses = np.array([entry["loss_by_sigma"] for entry in log])
    log_edges = np.log(log[0]["sigma_edges"])
    sigma = torch.from_numpy(np.exp((log_edges[1:] + log_edges[:-1]) / 2))
    weights = numbers * np.diff(log_edges) * (denoiser.c_out(sigma) / sigma).numpy() ** 2
    third = len(log) // 3
    nats = [losses[-2 * third : -third] @ weights, losses[-third:] @ weights]
    error = math.hypot(*(part.std() / math.sqrt(third) for part in nats))
    return Gain(float(nats[0].mean() - nats[1].mean()), float(error))


def enough(found: Gain, least: float) -> bool:
    """Whether that is less than ``least`` nats, if there is a least, and not the growing loss of a buffer that still
    changes."""
    return least > 0 and -2 * found.error < found.nats < least


def how_it_ended(log: Sequence[Mapping[str, Any]], config: TrainingConfig) -> str | None:
    """A sentence on why a run that is complete ended, and whether more training would have been worth it; None if there
    is nothing to say.

    Parameters
    ----------
    log : sequence of dict
        All entries of ``log.jsonl``.
    config : TrainingConfig
    """
    total, wanted = log[-1]["planned"], config.optimizer.iterations
    before = log[: math.floor((1 - config.optimizer.decay_fraction) * total + 1e-9)]
    if len(log) < total:
        return None
    budget = f"the budget ended training after {total} of {wanted} iterations"
    if not before or before[-1].get("gain") is None:
        return f"{budget}, too few to say what more would gain" if total < wanted else None
    found = Gain(before[-1]["gain"], before[-1]["gain_err"])
    if enough(found, config.least_gain) and total < wanted:
        return f"training ended after {total} of {wanted} iterations, as it gained hardly anything more"
    if found.nats >= max(STILL_GAINING, 2 * found.error):
        so_far = f"{found.nats:.1f} nats within a third of {len(before)} iterations"
        return (
            f"{budget if total < wanted else 'training ended as planned'}, still gaining when its step size began to "
            f"fall ({so_far}): a longer one should give more effective samples"
        )
    return f"{budget}, when it gained hardly anything more" if total < wanted else None
