"""Exchanges of unlike atoms, which small steps never make in a solid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..energies import Energy
from ..errors import UsageError
from ..geometry import uniform
from ..seeds import draw_seed
from ..torch_state import own_torch
from .move import ChainState, Move, chain_numbers

__all__ = ["Exchange", "ExchangeRun", "WithExchanges"]


class ExchangeRun(NamedTuple):
    """What became of exchanges.

    Attributes
    ----------
    acceptance : torch.Tensor, shape (C,)
        NaN without steps.
    """

    acceptance: torch.Tensor


@dataclass(frozen=True)
class Exchange:
    """The move that puts two atoms of different kinds in each other's place: any such pair, each as often, accepted
    with probability min(1, exp[-beta (u' - u)]).

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

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return ChainState(x, *energy(x))

    @own_torch
    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, ExchangeRun]:
        """See `Move`."""
        kinds = torch.tensor(self.kinds, device="cpu")
        first, second = torch.nonzero(kinds[:, None] < kinds[None], as_tuple=True)
        x, generator = state.x, torch.Generator().manual_seed(seed)
        chains, accepted = torch.arange(len(x), device=x.device), x.new_zeros(len(x))
        energy.afford(len(x) * (n + 1))
        u, f = energy(x)
        beta = chain_numbers("beta", self.beta, len(x), x).to(u.dtype)
        for _ in range(n):
            pair = torch.randint(len(first), (len(chains),), generator=generator, device="cpu")
            a, b = first[pair].to(x.device), second[pair].to(x.device)
            y = x.clone()
            y[chains, a], y[chains, b] = x[chains, b], x[chains, a]
            u_y, f_y = energy(y)
            take = torch.log(uniform(len(chains), generator, u.dtype, x.device)) < beta * (u - u_y)
            x, f = (torch.where(take[:, None, None], new, old) for new, old in ((y, x), (f_y, f)))
            u = torch.where(take, u_y, u)
            accepted += take
        return ChainState(x, u, f), ExchangeRun(accepted / n if n else accepted * torch.nan)


@dataclass(frozen=True)
class WithExchanges:
    """Another move after some exchanges.

    Parameters
    ----------
    move : Move
    exchange : Exchange
    attempts : int
        Exchanges before the steps of the other move.
    """

    move: Move[Any]
    exchange: Exchange
    attempts: int

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return self.move.init(energy, x)

    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, Any]:
        """See `Move`; what happened is that of the other move."""
        seeds = torch.Generator().manual_seed(seed)
        state, _ = self.exchange.step(energy, state, self.attempts, draw_seed(seeds))
        return self.move.step(energy, state, n, draw_seed(seeds))
