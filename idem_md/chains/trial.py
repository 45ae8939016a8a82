"""Moves that small steps never make, tried one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..energies import Energy
from ..geometry import uniform
from ..seeds import draw_seed
from ..torch_state import own_torch
from .move import ChainState, Move, chain_numbers

__all__ = ["TrialMove", "TrialRun", "WithTrials"]


class TrialRun(NamedTuple):
    """What became of trial moves.

    Attributes
    ----------
    acceptance : torch.Tensor, shape (C,)
        NaN without steps.
    """

    acceptance: torch.Tensor


class TrialMove(ABC):
    """A move whose proposals are as likely as their way back, accepted with probability min(1, exp[-beta (u' - u)]).

    Attributes
    ----------
    beta : float or torch.Tensor broadcastable to (C,)
        Inverse temperature relative to kT = 1.
    """

    beta: float | torch.Tensor

    @abstractmethod
    def propose(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """New positions (C, N, D) from others; random numbers by the generator, which is on the CPU."""

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return ChainState(x, *energy(x))

    @own_torch
    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, TrialRun]:
        """See `Move`."""
        x, generator = state.x, torch.Generator().manual_seed(seed)
        accepted = x.new_zeros(len(x))
        energy.afford(len(x) * (n + 1))
        u, f = energy(x)
        beta = chain_numbers("beta", self.beta, len(x), x).to(u.dtype)
        for _ in range(n):
            y = self.propose(x, generator)
            u_y, f_y = energy(y)
            take = torch.log(uniform(len(x), generator, u.dtype, x.device)) < beta * (u - u_y)
            x, f = (torch.where(take[:, None, None], new, old) for new, old in ((y, x), (f_y, f)))
            u = torch.where(take, u_y, u)
            accepted += take
        return ChainState(x, u, f), TrialRun(accepted / n if n else accepted * torch.nan)


@dataclass(frozen=True)
class WithTrials:
    """Another move after some trials.

    Parameters
    ----------
    move : Move
    trial : TrialMove
    attempts : int
        Trials before the steps of the other move.
    """

    move: Move[Any]
    trial: TrialMove
    attempts: int

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return self.move.init(energy, x)

    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, Any]:
        """See `Move`; what happened is that of the other move."""
        seeds = torch.Generator().manual_seed(seed)
        state, _ = self.trial.step(energy, state, self.attempts, draw_seed(seeds))
        return self.move.step(energy, state, n, draw_seed(seeds))
