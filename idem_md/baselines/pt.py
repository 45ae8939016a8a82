"""Parallel tempering from noise: the reference sets that everything is measured against."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..chains import ChainState, Tempering
from ..energies import Energy
from ..errors import UsageError
from ..seeds import draw_seed
from ..systems import System
from .base import Draws, Engine, register_engine, tuned_chains

__all__ = ["TemperingEngine"]

# Inverse temperatures of the rungs: neighbours of LJ-55 swap about every fourth time, those of smaller systems more
# often.
BETAS = (1.0, 0.92, 0.85, 0.78, 0.72)
MOVES = 10
LADDERS = 1000
TUNING_STEPS = 2000


@register_engine("pt")
class TemperingEngine(Engine):
    """Samples from the coldest rungs of up to 1000 ladders of replicas; see `chains.run_tempering`.

    Each ladder runs ``n_steps`` MALA steps a replica, ten between swaps, from relaxed noise. Its first half is let go;
    from the second come its samples, equally spaced. Samples of one ladder may be correlated: more steps, or fewer
    samples, set them further apart. The provenance has the acceptance of the chains, that of the swaps, and round trips
    a ladder between the coldest and the hottest rung.
    """

    minimum_steps: ClassVar[int] = 1000

    def draw(self, system: System, energy: Energy, n: int, n_steps: int, generator: torch.Generator) -> Draws:
        """See `Engine`."""
        ladders = min(n, LADDERS)
        draws = -(-n // ladders)
        rounds = n_steps // 2 // MOVES
        if rounds < draws:
            raise UsageError(
                f"steps: expected at least {2 * MOVES * draws} for {draws} samples a ladder, got {n_steps}"
            )
        chains, step = tuned_chains(system, energy, ladders * len(BETAS), TUNING_STEPS, generator)
        beta = torch.tensor(BETAS)
        kernel = Tempering(step / beta, beta, MOVES)
        shape = (ladders, len(BETAS))
        state = ChainState(*(a.reshape(*shape, *a.shape[1:]) for a in (chains.x, chains.u, chains.f)))
        state, run = kernel.step(energy, state, rounds, draw_seed(generator))
        samples, trips = [], torch.zeros(ladders)
        for k in range(draws):
            # Whole rounds that add up to the second half.
            part = rounds * (k + 1) // draws - rounds * k // draws
            state, run = kernel.step(energy, state, part, draw_seed(generator))
            trips += run.round_trips
            samples.append(state.x[:, 0].clone())
        facts = {
            "betas": list(BETAS),
            "ladders": ladders,
            "step": kernel.step_size.tolist(),
            "acceptance": float(run.acceptance.mean()),
            "swaps": run.swaps.nanmean(0).tolist(),
            "round_trips": float(trips.mean()),
        }
        return Draws(torch.cat(samples)[:n], facts)
