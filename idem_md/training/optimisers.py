"""Optimisers and their step-size schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..diffusion import Denoiser
from ..nets import NoiseEmbedding
from .config import OptimizerConfig

__all__ = ["make_optimizers", "schedule"]


def make_optimizers(config: OptimizerConfig, denoiser: Denoiser) -> tuple[torch.optim.Optimizer, ...]:
    """The configured optimisers, each with its full step size as ``initial_lr`` in its groups."""
    parameters = dict(denoiser.named_parameters())
    matrices = {}
    if config.name == "muon":
        # Embeddings and rows of one have no spectrum worth evening out.
        embeddings = tuple(
            f"{k}." for k, m in denoiser.named_modules() if isinstance(m, (nn.Embedding, NoiseEmbedding))
        )
        matrices = {
            name: p
            for name, p in parameters.items()
            if p.dim() == 2 and min(p.shape) > 1 and not name.startswith(embeddings)
        }
    rest = [p for name, p in parameters.items() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=config.learning_rate)]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices.values(), lr=config.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return tuple(optimizers)


def schedule(config: OptimizerConfig, total: int, step: int) -> float:
    """Share of the full step size: linear warm-up, constant, then a cosine to 1% over the last ``decay_fraction`` of
    ``total`` iterations."""
    last = total * config.inner_steps
    start = (1 - config.decay_fraction) * last
    decay = 1.0
    if step > start:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((step - start) / (last - start), 1.0)))
    return min(1.0, (step + 1) / max(config.warmup, 1)) * decay
