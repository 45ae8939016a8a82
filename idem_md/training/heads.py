"""Fitting a small head on a frozen network by maximum likelihood."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from ..errors import IdemError
from .optimisers import update_average

__all__ = ["fit_head"]


def fit_head(
    name: str,
    head: nn.Module,
    loss: Callable[[int], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema: float,
    on_step: Callable[[int], None] = lambda _: None,
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

    Raises
    ------
    IdemError
        The training diverged.
    """
    average = copy.deepcopy(head).requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=learning_rate)
    for step in range(steps):
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
    return average.eval()
