"""Metropolis-adjusted Langevin from noise: the reference that needs no network."""

from __future__ import annotations

import time

import torch

from ..checks import check_int
from ..ensemble import WeightedEnsemble
from ..systems import System, get_system
from .common import draw_seed, equilibrate, finished, noise_chains

__all__ = ["run_mala"]


def run_mala(system: str | System, n: int, n_steps: int = 20_000, seed: int = 0) -> WeightedEnsemble:
    """Equilibrium samples from ``n`` independent chains of ``n_steps`` each, the last state of every chain kept.

    The first fifth of the steps, in 50 rounds, tunes the step size; relaxed noise starts the chains. The samples are independent,
    so no statistical inefficiency applies; whether the chains are long enough is for the caller to see, by doubling.

    Parameters
    ----------
    system : str or System
    n, n_steps, seed : int

    Raises
    ------
    UsageError
        Unknown system, or a number out of range.
    """
    n, n_steps = check_int("n", n, 1), check_int("steps", n_steps, 250)
    seed = check_int("seed", seed, 0, 2**31 - 1)
    target = get_system(system)
    energy = target.energy()
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    chains = noise_chains(energy, target, n, generator)
    step = equilibrate(energy, chains, 1e-3 * target.sigma_data**2, n_steps // 5, generator)
    acceptance = chains.refine(energy, step, n_steps - n_steps // 5, draw_seed(generator))
    return finished(target, energy, chains.x, start, method="mala", seed=seed, steps=n_steps, step=step, acceptance=acceptance)
