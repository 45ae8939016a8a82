"""Rotations about the bonds of a molecule, which small steps hardly ever make over high barriers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UsageError
from ..geometry import centred, uniform
from .trial import TrialMove

__all__ = ["Torsion"]


@dataclass(frozen=True)
class Torsion(TrialMove):
    """The move that turns one side of a bond about it by any angle, each as often, of one bond of several; see
    `TrialMove`. The proposal is symmetric and preserves volume.

    Parameters
    ----------
    rotations : sequence of (int, int, sequence of int)
        The two atoms of each bond, and the atoms that turn.
    contacts : array, shape (N, N), optional
        Proposals in which two atoms are nearer to each other, on which codes fail, are rejected; so are all from
        positions with such an overlap.
    beta : float or torch.Tensor broadcastable to (C,)
        Inverse temperature relative to kT = 1.

    Raises
    ------
    UsageError
        No bond.
    """

    rotations: Sequence[tuple[int, int, Sequence[int]]]
    beta: float | torch.Tensor = 1.0
    contacts: Any = None

    def __post_init__(self):
        if not self.rotations:
            raise UsageError("rotations: expected at least one bond that turns, got none")

    def propose(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See `TrialMove`."""
        which = torch.randint(len(self.rotations), (len(x),), generator=generator, device="cpu").to(x.device)
        angle = 2 * math.pi * uniform(len(x), generator, x.dtype, x.device)
        y = x.clone()
        for k, (a, b, atoms) in enumerate(self.rotations):
            rows = (which == k).nonzero()[:, 0]
            axis = torch.nn.functional.normalize(x[rows, b] - x[rows, a], dim=-1)[:, None]
            r = x[rows][:, list(atoms)] - x[rows, b][:, None]
            along = (r * axis).sum(-1, keepdim=True) * axis
            sine, cosine = torch.sin(angle[rows])[:, None, None], torch.cos(angle[rows])[:, None, None]
            turned = along + cosine * (r - along) + sine * torch.linalg.cross(axis.expand_as(r), r)
            y[rows[:, None], torch.tensor(list(atoms), device=x.device)] = turned + x[rows, b][:, None]
        if self.contacts is not None:
            least = torch.as_tensor(self.contacts, dtype=x.dtype, device=x.device)
            overlap = (torch.stack([torch.cdist(y, y), torch.cdist(x, x)]) < least).flatten(2).any(2).any(0)
            y = torch.where(overlap[:, None, None], x, y)  # as the way back would be
        return centred(y)
