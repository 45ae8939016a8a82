"""Exchanges of unlike atoms, which small steps never make in a solid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import UsageError
from .trial import TrialMove

__all__ = ["Exchange"]


@dataclass(frozen=True)
class Exchange(TrialMove):
    """The move that puts two atoms of different kinds in each other's place: any such pair, each as often; see
    `TrialMove`.

    Parameters
    ----------
    kinds : sequence of int
        The kind of each atom; at least two differ.
    beta : float or torch.Tensor broadcastable to (C,)
        Inverse temperature relative to kT = 1.

    Raises
    ------
    UsageError
        Atoms that are all of one kind.
    """

    kinds: Sequence[int]
    beta: float | torch.Tensor = 1.0

    def __post_init__(self):
        if len(set(self.kinds)) < 2:
            raise UsageError(f"kinds: expected atoms of at least two kinds, got {tuple(self.kinds)}")

    def propose(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See `TrialMove`."""
        kinds = torch.tensor(self.kinds, device="cpu")
        first, second = torch.nonzero(kinds[:, None] < kinds[None], as_tuple=True)
        chains = torch.arange(len(x), device=x.device)
        pair = torch.randint(len(first), (len(chains),), generator=generator, device="cpu")
        a, b = first[pair].to(x.device), second[pair].to(x.device)
        y = x.clone()
        y[chains, a], y[chains, b] = x[chains, b], x[chains, a]
        return y
