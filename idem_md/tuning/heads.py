"""The extension point of heads that are trained when a checkpoint is tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..checkpoint import Checkpoint
from ..registry import Registry

__all__ = ["HEAD_TRAININGS", "HeadTraining", "TrainHead", "register_head_training"]


@dataclass(frozen=True)
class HeadTraining:
    """Settings of the training of heads: Adam with a cosine decay; weights are averaged.

    Attributes
    ----------
    steps, batch : int
    learning_rate, ema : float
    seed : int
    options : dict of dict
        Options of heads by name; by default their own.
    state : tuple of Path and str, optional
        A file in which to keep a fit that may be interrupted, and a key of its input; see `training.heads.FitState`.
    """

    steps: int = 3000
    batch: int = 128
    learning_rate: float = 3e-3
    ema: float = 0.995
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    state: tuple[Path, str] | None = field(default=None, compare=False, repr=False)


# (checkpoint, samples (n, N, D) float32, settings, on_step) -> the checkpoint with the head, and a record of its
# training, with ``seconds``, in ``provenance["heads"]``.
TrainHead = Callable[[Checkpoint, torch.Tensor, HeadTraining, Callable[[int], None]], Checkpoint]

HEAD_TRAININGS: Registry[TrainHead] = Registry("head")

TrainHeadType = TypeVar("TrainHeadType", bound=TrainHead)


def register_head_training(name: str) -> Callable[[TrainHeadType], TrainHeadType]:
    """Decorator of a `TrainHead`: trains the head of that name, see `nets.register_head`, in `tune`."""
    return HEAD_TRAININGS.register(name)
