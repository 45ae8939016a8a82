"""The extension point of Markov chains: a move is a frozen description, its state is three tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from ..energies import Energy
from ..errors import UsageError

__all__ = ["Move", "ChainState", "chain_numbers"]


@dataclass(frozen=True)
class ChainState:
    """Where a batch of chains is.

    Attributes
    ----------
    x, u, f : torch.Tensor, shapes (..., N, D), (...), (..., N, D)
        Positions, mean-free; energies and forces there.
    """

    x: torch.Tensor
    u: torch.Tensor
    f: torch.Tensor


def chain_numbers(name: str, value, n: int, like: torch.Tensor) -> torch.Tensor:
    """One positive number for all of ``n`` chains or rungs, or one for each; in the dtype and on the device of
    ``like``.

    Raises
    ------
    UsageError
        Another shape, or numbers that are not finite and positive.
    """
    numbers = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if numbers.shape not in ((), (1,), (n,)):
        raise UsageError(f"{name}: expected one number or {n}, got shape {tuple(numbers.shape)}")
    bad = numbers[~(torch.isfinite(numbers) & (numbers > 0))]
    if len(bad):
        raise UsageError(f"{name}: expected finite positive numbers, got {bad[0].item()}")
    return numbers


Info = TypeVar("Info", covariant=True)


class Move(Protocol[Info]):
    """What moves chains and leaves their target invariant.

    The energy is an argument and not part of the state: a state is data, to be saved and compared.
    """

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """The state at given positions, for one energy call a configuration."""
        ...

    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, Info]:
        """``n`` steps; what happened comes with at least ``acceptance``."""
        ...
