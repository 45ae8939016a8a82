"""What carries the walkers of the replay buffer on."""

from __future__ import annotations

import torch

from ..chains import MALA, Exchange, Move, Torsion, WithTrials
from ..systems import System
from .config import TrainingConfig
from .ladder import Ladder
from .state import TrainingState

__all__ = ["langevin", "refinement"]


def langevin(
    torsions: int, system: System, ladder: Ladder | None, n: int, device: torch.device | str, step: float
) -> Move:
    """Langevin steps or replica exchange of ``n`` walkers, after so many rotations about bonds."""
    move = MALA(step) if ladder is None else ladder.move(step)
    if not torsions:
        return move
    rotations, contacts = system.rotations
    return WithTrials(move, Torsion(rotations, _betas(ladder, n, device), contacts), torsions)


def refinement(config: TrainingConfig, state: TrainingState) -> Move:
    """What carries the walkers of the buffer on between two iterations."""
    b, n = config.buffer, state.buffer.walkers
    move = langevin(b.torsions, state.system, state.ladder, n, state.device, state.mala_step)
    if not b.exchanges:
        return move
    return WithTrials(move, Exchange(state.system.kinds, _betas(state.ladder, n, state.device)), b.exchanges)


def _betas(ladder: Ladder | None, n: int, device: torch.device | str) -> float | torch.Tensor:
    """Inverse temperatures of so many walkers."""
    return 1.0 if ladder is None else ladder.beta(torch.arange(n, device=device))
