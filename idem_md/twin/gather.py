"""Where energy calls for a twin are made: chains of the real potential, and where chains of the twin go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..chains import MALA, ChainState, Move, Torsion, WithTrials, equilibrate, first_step, geometry_start, noise_start
from ..energies import Energy, Twin
from ..seeds import draw_seed
from ..systems import System

__all__ = ["explore", "gather"]

# Inverse temperatures of the chains of the real potential, relative to the system's own, which comes first.
BETAS = (1.0, 0.8, 0.6)
# Chains at each of them, steps between two tunings of their size, and noise of their start in units of the extent.
WALKERS, STEPS, NOISE = 10, 9, 0.02
# Rounds of steps of the twin's chains, which cost little and have to go as far as those of a training on it will; and
# steps by which noise is relaxed.
ROUNDS, ROUND_STEPS, RELAXING = 20, 60, 150


def _moves(system: System, beta: float) -> Callable[[float], Move]:
    """Langevin steps of a size, after a rotation about a bond if there is one that turns: no short chain goes from one
    conformer to the next."""
    bonds, contacts = system.rotations

    def move(step: float) -> Move:
        steps = MALA(step, beta=beta)
        return WithTrials(steps, Torsion(bonds, beta, contacts), 1) if bonds else steps

    return move


def least_calls() -> int:
    """Energy calls of the shortest chains that make sense."""
    return len(BETAS) * WALKERS * (1 + 3 * (STEPS + 1))


def gather(energy: Energy, system: System, calls: int, seed: int) -> ChainState:
    """Chains of the real potential from the geometry of the system, at several temperatures, for about so many energy
    calls; returns where those at the system's own were in their second half."""
    generator = torch.Generator().manual_seed(seed)
    geometry = torch.tensor(system.geometry, dtype=torch.float64)
    trials = 1 if system.rotations.bonds else 0
    rounds = max((calls // (len(BETAS) * WALKERS) - 1) // (STEPS + 1 + trials), 1)
    seen: list[ChainState] = []
    for beta in BETAS:
        start = geometry_start(energy, geometry, NOISE * system.sigma_data, WALKERS, generator)
        note = seen.append if beta == BETAS[0] else lambda _: None
        next_seed, move = partial(draw_seed, generator), _moves(system, beta)
        step = first_step(system.sigma_data) / beta
        last, _ = equilibrate(energy, start, step, rounds, STEPS, next_seed, gain=1.0, on_round=note, move=move)
        note(last)
    late = seen[len(seen) // 2 :]
    return ChainState(*(torch.cat([getattr(state, name) for state in late]) for name in ("x", "u", "f")))


def explore(twin: Twin, system: System, start: torch.Tensor, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where chains of the twin go, float32: (n, N, D) at the temperature of the system, from any of ``start``; and half
    as many that are hotter or began as noise, where holes of the fit would be found."""
    generator = torch.Generator().manual_seed(seed)
    next_seed, step = partial(draw_seed, generator), first_step(system.sigma_data)
    rows = torch.randint(len(start), (n,), generator=generator)
    ends = []
    for beta, count in ((1.0, n), (BETAS[-1], n // 4)):
        move = _moves(system, beta)
        state = move(step).init(twin, start[rows[:count]].float())
        state, _ = equilibrate(twin, state, step / beta, ROUNDS, ROUND_STEPS, next_seed, gain=1.0, move=move)
        ends.append(state.x)
    noise = noise_start(twin, system.sigma_data, n // 4, RELAXING, generator)
    noise, _ = equilibrate(twin, noise, step, ROUNDS, ROUND_STEPS, next_seed, gain=1.0)
    return ends[0], torch.cat([ends[1], noise.x])
