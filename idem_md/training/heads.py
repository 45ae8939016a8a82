"""Fitting a small head on a frozen network by maximum likelihood."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..errors import FileFormatError, IdemError
from ..tensor_files import read_tensors, write_tensors
from .optimisers import load_optimizers, optimizer_tensors, update_average

__all__ = ["FitState", "fit_head"]

KEPT_EVERY = 5.0  # seconds


class FitState:
    """A fit of a head that may be interrupted, in a file.

    Parameters
    ----------
    path : Path
    key : str
        Stands for all that decides what comes out; a file with another one is left alone until it is replaced.
    generator : torch.Generator
        The source of randomness of the loss.
    """

    def __init__(self, path: Path, key: str, generator: torch.Generator):
        self.path, self.key, self.generator = path, key, generator
        self._kept = self._start = time.monotonic()
        self.earlier = 0.0  # seconds before an interruption

    def load(self, head: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put everything where it was; returns the steps that are done."""
        try:
            tensors, header = read_tensors(self.path, "head")
        except FileFormatError:  # none, or one that was damaged
            return 0
        if header.get("key") != self.key:
            return 0
        for name, module in (("head.", head), ("average.", average)):
            module.load_state_dict({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)})
        load_optimizers([optimizer], tensors)
        self.generator.set_state(tensors["generator"])
        self.earlier = float(header["seconds"])
        return int(header["step"])

    def keep(self, step: int, head: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write it down, if that is long ago."""
        if (now := time.monotonic()) - self._kept < KEPT_EVERY:
            return
        self._kept = now
        tensors = {f"head.{k}": v for k, v in head.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
        tensors |= optimizer_tensors([optimizer]) | {"generator": self.generator.get_state()}
        write_tensors(
            self.path, "head", tensors, {"key": self.key, "step": step, "seconds": self.earlier + now - self._start}
        )


def fit_head(
    name: str,
    head: nn.Module,
    loss: Callable[[int], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema: float,
    on_step: Callable[[int], None] = lambda _: None,
    state: FitState | None = None,
) -> nn.Module:
    """Averaged weights of a head after so many steps of Adam, 50 of warming up and a cosine decay.

    Parameters
    ----------
    name : str
        For error messages.
    head : nn.Module
        Is trained.
    loss : callable (step) -> torch.Tensor, shape (B,)
        Of the head as it is.
    steps : int
    learning_rate, ema : float
    on_step : callable (step)
    state : FitState, optional
        Where to keep what there is now and then, and to go on from.

    Raises
    ------
    IdemError
        The training diverged.
    """
    average = copy.deepcopy(head).requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
    first = 0 if state is None else state.load(head, average, optimizer)
    for step in range(first):
        on_step(step)
    for step in range(first, steps):
        share = min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        value = loss(step).mean()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), 10.0)
        if not bool(torch.isfinite(norm)):
            raise IdemError(f"training of {name} diverged: the gradient of step {step} is not finite")
        optimizer.step()
        update_average(average, head, ema, step)
        on_step(step)
        if state is not None:
            state.keep(step + 1, head, average, optimizer)
    return average.eval()
