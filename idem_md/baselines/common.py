"""What the engines share: starting chains, and the ensemble at the end with its provenance."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import numpy as np
import torch

from ..energies import Energy
from ..ensemble import WeightedEnsemble
from ..geometry import standard_normal
from ..systems import System
from ..training.buffer import Buffer, relax
from ..training.loop import tune_step


def noise_chains(energy: Energy, system: System, n: int, generator: torch.Generator) -> Buffer:
    """``n`` configurations of noise of the system's extent, relaxed."""
    x = (system.sigma_data * standard_normal((n, energy.n_atoms, energy.n_dims), generator)).float()
    return Buffer.of(energy, relax(energy, x, 200))


def equilibrate(energy: Energy, chains: Buffer, step: float, n_steps: int, generator: torch.Generator, rounds: int = 50) -> float:
    """MALA in ``rounds``, tuning the step in between; returns the step."""
    for _ in range(rounds):
        acceptance = chains.refine(energy, step, max(n_steps // rounds, 1), draw_seed(generator))
        step = tune_step(step, acceptance)
    return step


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a native stream."""
    return int(torch.randint(2**62, (), generator=generator))


def finished(system: System, energy: Energy, x: torch.Tensor, start: float, **facts) -> WeightedEnsemble:
    """Equally weighted samples, energies evaluated in double precision, with what they cost since ``start``."""
    x = x.double()
    u, _ = energy(x)
    provenance = {
        "system": system.name, "parameters": energy.parameters, **facts, "energy_calls": energy.calls,
        "seconds": time.perf_counter() - start, "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "log_z_known": False, "versions": {name: version(name) for name in ("idem-md", "torch", "numpy", "mdtraj")},
    }
    return WeightedEnsemble(x.numpy(), u.numpy(), np.zeros(len(x)), system, provenance)
