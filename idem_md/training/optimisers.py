"""Optimisers and their step-size schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..nets import NoiseEmbedding
from .config import OptimizerConfig
from .muon import Float32Muon, has_bfloat16_units
from .ranks import ALONE, Ranks

__all__ = ["load_optimizers", "make_optimizers", "optimizer_tensors", "schedule", "take_step", "update_average"]


def make_optimizers(config: OptimizerConfig, module: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """The configured optimisers, each with its full step size as ``initial_lr`` in its groups."""
    parameters = dict(module.named_parameters())
    matrices = {}
    if config.name == "muon":
        # Embeddings and rows of one have no spectrum worth evening out.
        embeddings = tuple(f"{k}." for k, m in module.named_modules() if isinstance(m, (nn.Embedding, NoiseEmbedding)))
        matrices = {
            name: p
            for name, p in parameters.items()
            if p.dim() == 2 and min(p.shape) > 1 and not name.startswith(embeddings)
        }
    rest = [p for name, p in parameters.items() if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=config.learning_rate)]
    if matrices:
        reduced = next(module.parameters()).is_cuda or has_bfloat16_units()
        muon = torch.optim.Muon if reduced else Float32Muon
        optimizers.append(
            muon(matrices.values(), lr=config.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return tuple(optimizers)


def take_step(optimizers: Sequence[torch.optim.Optimizer], share: float, ranks: Ranks = ALONE) -> None:
    """One step of each, with that share of its full step size.

    Steps of matrices, which take a seventh of the time of LJ-13's training, are dealt out to the processes.
    """
    matrices = [p for optimizer in optimizers[1:] for group in optimizer.param_groups for p in group["params"]]
    for k, p in enumerate(matrices):
        if not ranks.mine(k):
            p.grad = None
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        optimizer.step()
    if matrices:
        ranks.exchange(matrices)


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, ema: float, step: int) -> None:
    """Exponential moving average of the weights after ``step`` earlier ones.

    It starts short, or the first weights would linger in it.
    """
    decay = min(ema, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), module.parameters()):
        a.lerp_(p, 1 - decay)


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], ranks: Ranks = ALONE) -> dict[str, torch.Tensor]:
    """What `load_optimizers` needs, by names that begin with "optimizer."; of matrices, those that are this
    process's."""
    return {
        f"optimizer.{n}.{i}.{k}": v
        for n, optimizer in enumerate(optimizers)
        for i, slots in optimizer.state_dict()["state"].items()
        if (ranks.mine(i) if n else ranks.first)
        for k, v in slots.items()
    }


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]) -> None:
    """Put fresh optimisers into the state that `optimizer_tensors` wrote."""
    for n, optimizer in enumerate(optimizers):
        prefix, slots = f"optimizer.{n}.", dict[int, dict[str, torch.Tensor]]()
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, name = key[len(prefix) :].split(".")
                slots.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def schedule(config: OptimizerConfig, total: int, step: int) -> float:
    """Share of the full step size: linear warm-up, constant, then a cosine to 1% over the last ``decay_fraction`` of
    ``total`` iterations."""
    last = total * config.inner_steps
    start = (1 - config.decay_fraction) * last
    decay = 1.0
    if step > start:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((step - start) / (last - start), 1.0)))
    return min(1.0, (step + 1) / max(config.warmup, 1)) * decay
