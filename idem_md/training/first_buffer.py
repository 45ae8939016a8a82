"""What the first replay buffer takes, and what an outer iteration does."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..energies import COVALENT
from ..errors import UsageError
from ..systems import System
from .config import TrainingConfig
from .ladder import Ladder, first_ladder
from .ranks import Ranks

__all__ = ["FirstBuffer", "calls_an_iteration", "starts_at_geometry"]

WARMUP_ROUNDS = 20


def starts_at_geometry(config: TrainingConfig, system: System) -> bool:
    """Whether walkers start at the geometry of the system.

    Raises
    ------
    UsageError
        They are to, and it has none.
    """
    start = config.buffer.start
    if start == "geometry" and system.geometry is None:
        raise UsageError(f"buffer.start: expected 'noise' for {system.name!r}, which has no geometry, got 'geometry'")
    molecule = system.geometry is not None and not COVALENT.isdisjoint(system.elements)
    return start == "geometry" or (start == "auto" and molecule and config.ladder is not None)


class FirstBuffer(NamedTuple):
    """How the first buffer of one process is made.

    Attributes
    ----------
    size, walkers : int
        Samples that fit in, and chains.
    ladder : Ladder, optional
        Rungs to begin with.
    at_geometry : bool
        Whether chains start at the geometry.
    legs : tuple of int
        Rounds; rungs are set anew between one leg and the next.
    steps_a_round : int
        Langevin steps; a ladder rounds them up, see `Ladder.rounds`.
    calls : int
        Energy calls of all that.
    """

    size: int
    walkers: int
    ladder: Ladder | None
    at_geometry: bool
    legs: tuple[int, ...]
    steps_a_round: int
    calls: int

    @classmethod
    def of(cls, config: TrainingConfig, system: System, ranks: Ranks) -> FirstBuffer:
        """Raises `UsageError` where temperatures or the start do not suit the system."""
        b = config.buffer
        size, walkers = ranks.part(b.size), ranks.part(b.walkers or b.size)
        rounds = WARMUP_ROUNDS if b.warmup_steps else 0
        steps_a_round = max(b.warmup_steps // WARMUP_ROUNDS, 1)
        ladder, at_geometry = first_ladder(config, system, walkers), starts_at_geometry(config, system)
        legs: tuple[int, ...] = (rounds,)
        steps = steps_a_round
        if ladder is not None:
            # Rungs are set anew where a third and two thirds of the rounds are done.
            legs = (rounds // 3, rounds // 3, rounds - 2 * (rounds // 3))
            walkers = ladder.whole(walkers)
            steps = math.prod(ladder.rounds(steps_a_round))  # that are made of those that are asked for
        steps += b.torsions + (b.torsions > 0)
        calls = walkers * ((0 if at_geometry else b.relax_steps) + 1 + rounds * (steps + 1))
        return cls(size, walkers, ladder, at_geometry, legs, steps_a_round, calls)


def calls_an_iteration(config: TrainingConfig, walkers: int) -> int:
    """Energy calls of an outer iteration after the first buffer, at most, without those of targets."""
    b, beyond = config.buffer, 1 if config.ladder is None else config.ladder.moves  # what rounds may add
    refinement = walkers * (b.refine_steps + beyond if b.refine_steps else 0)
    relaxed = b.fresh * (b.relax_steps + 2)
    fresh = b.weighted + max(walkers if b.walkers else b.fresh, relaxed) if b.weighted else relaxed
    trials = b.exchanges + (b.exchanges > 0) + b.torsions + (b.torsions > 0)
    return refinement + fresh + walkers * trials
