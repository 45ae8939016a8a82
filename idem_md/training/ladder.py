"""A replay buffer of several temperatures: ladders of replicas that exchange places, the samples of all of which train
one network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..chains import MALA, ChainState, Move, Tempering
from ..energies import Energy
from ..errors import UsageError
from ..systems import System
from .config import TrainingConfig
from .ranks import Ranks

__all__ = ["Ladder", "first_ladder", "respaced"]

# Rungs to begin with at most, and ladders at least.
FIRST_RUNGS, LEAST_LADDERS = 8, 4
# Share of swaps between neighbours that are rejected; at one half replicas climb fastest (Syed et al., JRSS B 84, 321,
# 2022).
REJECTED = 0.5
REJECTION_SAMPLES = 1000


@dataclass(frozen=True)
class Ladder:
    """Rungs of temperatures. Samples lie in the order of rungs, the coldest first, one ladder after the other.

    Attributes
    ----------
    betas : tuple of float
        Inverse temperatures relative to the system's own; they fall.
    moves : int
        Langevin steps between two swaps, about.
    """

    betas: tuple[float, ...]
    moves: int

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def own(self) -> int:
        """The rung whose temperature is nearest to the system's own."""
        return min(range(len(self)), key=lambda rung: abs(math.log(self.betas[rung])))

    def rounds(self, n_steps: int) -> tuple[int, int]:
        """How many rounds of how many Langevin steps make ``n_steps`` or few more. Rounds are an even number, or one
        half of the pairs of rungs would be tried less often."""
        rounds = 2 * max(round(n_steps / (2 * self.moves)), 1)
        return rounds, max(-(-n_steps // rounds), 1)

    def whole(self, n: int) -> int:
        """The largest number up to ``n`` of samples that are whole ladders."""
        return n // len(self) * len(self)

    def beta(self, samples: torch.Tensor) -> torch.Tensor:
        """Inverse temperatures of samples by their index, float32."""
        betas = torch.tensor(self.betas, dtype=torch.float32, device=samples.device)
        return betas[samples % len(self)]

    def move(self, step: float) -> Move:
        """Rounds of replica exchange with a Langevin step that suits an inverse temperature of one."""
        return _Replicas(step, self)


@dataclass(frozen=True)
class _Replicas:
    """`chains.Tempering` on samples in the order of a `Ladder`."""

    step_size: float
    ladder: Ladder

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return MALA(self.step_size).init(energy, x)

    def step(self, energy: Energy, state: ChainState, n: int, seed: int):
        """See `Move`; see `Ladder.rounds` for how many Langevin steps are made and between which swaps."""
        ladder = self.ladder
        betas = torch.tensor(ladder.betas, dtype=state.x.dtype, device=state.x.device)
        shape = len(state.x) // len(ladder), len(ladder)
        by_rung = ChainState(*(a.reshape(*shape, *a.shape[1:]) for a in (state.x, state.u, state.f)))
        rounds, moves = ladder.rounds(n)
        end, run = Tempering(self.step_size / betas, betas, moves).step(energy, by_rung, rounds, seed)
        return ChainState(*(a.flatten(0, 1) for a in (end.x, end.u, end.f))), run


def first_ladder(config: TrainingConfig, system: System, walkers: int) -> Ladder | None:
    """Rungs to begin with for so many walkers, evenly spaced in the logarithm; None for a single temperature.

    Raises
    ------
    UsageError
        The system's own temperature is none of those of the training.
    """
    if config.ladder is None:
        return None
    low, high, own = config.ladder.coldest, config.ladder.hottest, system.units.temperature_kelvin
    if not low * (1 - 1e-9) <= own <= high * (1 + 1e-9):
        raise UsageError(
            f"temperatures: expected a range that has the system's own {own:g} K in it, got {low:g} to {high:g}"
        )
    rungs = max(min(FIRST_RUNGS, walkers // LEAST_LADDERS), 2)
    return Ladder(tuple(np.geomspace(own / low, own / high, rungs).tolist()), config.ladder.moves)


def respaced(ladder: Ladder, state: ChainState, ranks: Ranks) -> tuple[Ladder, ChainState]:
    """Space rungs so that swaps are rejected equally often between all neighbours: about as often as `REJECTED` says,
    if the samples suffice for so many rungs. The coldest and the hottest rung stay.

    Parameters
    ----------
    state : ChainState
        In the order of the ladder. The new state takes the samples of each rung from the nearest old one.
    ranks : Ranks
        All have the same ladder.
    """
    rungs, betas = len(ladder), np.array(ladder.betas)
    u = state.u.double().cpu().reshape(-1, rungs)
    rejected = ranks.means(*(_rejected(u[:, k], u[:, k + 1], betas[k] - betas[k + 1]) for k in range(rungs - 1)))
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejected, 1e-3))])
    most = max(len(state.u) // LEAST_LADDERS, 2)
    count = min(max(math.ceil(barrier[-1] / REJECTED), 1) + 1, most)
    log_betas = np.interp(np.linspace(0.0, barrier[-1], count), barrier, np.log(betas))
    log_betas[0], log_betas[-1] = np.log(betas[[0, -1]])
    new = Ladder(tuple(np.exp(log_betas).tolist()), ladder.moves)
    return new, _dealt(state, rungs, [int(np.abs(np.log(betas) - log_beta).argmin()) for log_beta in log_betas])


def _rejected(cold: torch.Tensor, hot: torch.Tensor, gap: float) -> float:
    """Mean rejection of swaps of two rungs, over all pairs of `REJECTION_SAMPLES` of each."""
    cold, hot = (u[:: max(len(u) // REJECTION_SAMPLES, 1)] for u in (cold, hot))
    log_ratio = gap * (cold[:, None] - hot[None])
    return float((1 - log_ratio.clamp(max=0.0).exp()).mean())


def _dealt(state: ChainState, rungs: int, sources: Sequence[int]) -> ChainState:
    """Samples of new rungs from those of old ones, ``sources``, in whole ladders. New rungs that share an old one take
    different samples of it, as far as there are any."""
    ladders = len(state.u) // rungs
    wanted = len(state.u) // len(sources)
    rows = torch.arange(wanted, device=state.u.device)
    columns = []
    for k, source in enumerate(sources):
        others, place = sources.count(source), sources[:k].count(source)
        columns.append((rows * others + place) % ladders * rungs + source)
    index = torch.stack(columns, 1).flatten()
    return ChainState(state.x[index], state.u[index], state.f[index])
