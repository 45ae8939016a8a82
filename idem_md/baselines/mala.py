"""Metropolis-adjusted Langevin from noise: the reference that needs no network."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import numpy as np
import torch

from ..checks import check_int
from ..ensemble import WeightedEnsemble
from ..geometry import standard_normal
from ..systems import System, get_system
from ..training.buffer import Buffer, relax
from ..training.loop import tune_step

__all__ = ["ENGINES", "run_mala"]

ENGINES = ("mala",)


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
    x = (target.sigma_data * standard_normal((n, energy.n_atoms, energy.n_dims), generator)).float()
    chains = Buffer.of(energy, relax(energy, x, 200))
    step, rounds = 1e-3 * target.sigma_data**2, 50
    for _ in range(rounds):
        acceptance = chains.refine(energy, step, max(n_steps // 5 // rounds, 1), int(torch.randint(2**62, (), generator=generator)))
        step = tune_step(step, acceptance)
    acceptance = chains.refine(energy, step, n_steps - n_steps // 5, int(torch.randint(2**62, (), generator=generator)))
    positions = chains.x.double()
    u, _ = energy(positions)
    provenance = {
        "system": target.name, "parameters": energy.parameters, "method": "mala", "seed": seed, "steps": n_steps, "step": step,
        "acceptance": acceptance, "energy_calls": energy.calls, "seconds": time.perf_counter() - start,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads", "log_z_known": False,
        "versions": {name: version(name) for name in ("idem-md", "torch", "numpy", "mdtraj")},
    }
    return WeightedEnsemble(positions.numpy(), u.numpy(), np.zeros(n), target, provenance)
