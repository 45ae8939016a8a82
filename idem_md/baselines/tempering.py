"""Parallel tempering from noise: the reference sets that everything is measured against."""

from __future__ import annotations

import time

import torch

from ..checks import UsageError, check_int
from ..ensemble import WeightedEnsemble
from ..geometry import centred
from ..systems import System, get_system
from .common import draw_seed, equilibrate, finished, noise_chains

__all__ = ["run_tempering"]

# Inverse temperatures of the rungs: neighbours of LJ-55 swap about every fourth time, those of smaller systems more often.
BETAS = (1.0, 0.92, 0.85, 0.78, 0.72)
STEPS_A_ROUND = 10
LADDERS = 1000


def run_tempering(system: str | System, n: int, n_steps: int = 20_000, seed: int = 0) -> WeightedEnsemble:
    """Equilibrium samples from the coldest rungs of up to 1000 ladders of replicas.

    Each ladder runs ``n_steps`` MALA steps a replica, ten between swaps, from relaxed noise. Its first half is let go;
    from the second come its samples, equally spaced. Samples of one ladder may be correlated: more ``n_steps``, or fewer samples, set them
    further apart. `Energy.parallel_tempering` has the algorithm.

    Parameters
    ----------
    system : str or System
    n, n_steps, seed : int

    Returns
    -------
    WeightedEnsemble
        Its provenance has the acceptance of the chains, that of the swaps, and round trips a ladder between the coldest and the hottest
        rung.

    Raises
    ------
    UsageError
        Unknown system, a number out of range, or too few steps for so many samples.
    """
    n, n_steps = check_int("n", n, 1), check_int("steps", n_steps, 1000)
    seed = check_int("seed", seed, 0, 2**31 - 1)
    target = get_system(system)
    energy = target.energy()
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    ladders = min(n, LADDERS)
    draws = -(-n // ladders)
    rounds = n_steps // 2 // STEPS_A_ROUND
    if rounds < draws:
        raise UsageError(f"steps: expected at least {2 * STEPS_A_ROUND * draws} for {draws} samples a ladder, got {n_steps}")
    chains = noise_chains(energy, target, ladders * len(BETAS), generator)
    beta = torch.tensor(BETAS)
    step = equilibrate(energy, chains, 1e-3 * target.sigma_data**2, 2000, generator) / beta
    x = chains.x.reshape(ladders, len(BETAS), *chains.x.shape[1:])

    def run(x, n_rounds):
        x, _, _, acceptance, swaps, trips, _ = energy.parallel_tempering(x, step, beta, n_rounds, STEPS_A_ROUND, draw_seed(generator))
        # Thousands of rounds in single precision would let the centroid drift.
        return centred(x.flatten(0, 1)).reshape(x.shape), acceptance, swaps, trips

    x, *_ = run(x, rounds)
    samples, trips = [], torch.zeros(ladders)
    for k in range(draws):
        # Whole rounds that add up to the second half.
        x, acceptance, swaps, new = run(x, rounds * (k + 1) // draws - rounds * k // draws)
        trips += new
        samples.append(x[:, 0].clone())
    return finished(target, energy, torch.cat(samples)[:n], start, method="pt", seed=seed, steps=n_steps, betas=list(BETAS),
                    ladders=ladders, step=step.tolist(), acceptance=float(acceptance.mean()),
                    swaps=swaps.nanmean(0).tolist(), round_trips=float(trips.mean()))
