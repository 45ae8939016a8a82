"""Networks and optimisers beside each other, for equal wall time on one buffer."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch

from idem_md.baselines import ENGINES
from idem_md.chains import finite_start
from idem_md.checks import check_float
from idem_md.diffusion import stratified_log_uniform
from idem_md.diffusion.kernels import Denoise
from idem_md.geometry import standard_normal, subspace_dimension
from idem_md.systems import System, get_system
from idem_md.targets import BufferTarget
from idem_md.training import TrainingConfig, preset
from idem_md.training.loop import init, outer_iteration
from idem_md.training.ring import RingBuffer

__all__ = ["compare_networks", "held_out_error"]

# So far away that the step size stays constant until the decay is scheduled.
FAR = 10**6


def held_out_error(
    denoiser: Denoise, x_0: torch.Tensor, lo: float, hi: float, sigma_data: float, seed: int = 0
) -> tuple[float, float]:
    """Denoising error on samples that were not trained on, with its standard error.

    Mean of |D - x_0|^2 (sigma^2 + s^2)/(sigma^2 s^2) per coordinate, s = ``sigma_data``, over log-uniform levels in
    [lo, hi]. Most of it is the scatter of x_0 given x_t, which is the same for every network fed the same noise:
    compare differences.
    """
    generator = torch.Generator().manual_seed(seed)
    sigma = stratified_log_uniform(len(x_0), lo, hi, generator)
    x_t = x_0 + sigma[:, None, None] * standard_normal(x_0.shape, generator, torch.float32)
    parts = [denoiser(x, s) for x, s in zip(x_t.split(256), sigma.split(256))]
    error = ((torch.cat(parts) - x_0).double() ** 2).sum((1, 2)) / subspace_dimension(*x_0.shape[1:])
    error = error * (sigma_data**-2 + sigma.double() ** -2)
    return float(error.mean()), float(error.std() / math.sqrt(len(x_0)))


def _trained(config: TrainingConfig, target: System, x: torch.Tensor, seconds: float):
    """A denoiser after ``seconds`` of optimiser steps on the samples ``x``, and the time of each outer iteration."""
    energy = target.energy()
    state = init(config, target, energy)
    outer_iteration(config, energy, state)  # once before the clock runs: memory, threads
    state = init(config, target, energy)
    state.buffer = RingBuffer(finite_start(energy, x))
    state.total = FAR
    times: list[float] = []
    # The last part of the time with a falling step size, as in training.
    decay = config.optimizer.decay_fraction
    while sum(times) < seconds:
        if decay and state.total == FAR and sum(times) >= (1 - decay) * seconds:
            state.total = math.ceil(state.iteration / (1 - decay))
        start = time.perf_counter()
        outer_iteration(config, energy, state)
        times.append(time.perf_counter() - start)
    net = state.ema if config.optimizer.ema else state.denoiser
    return net.eval().requires_grad_(False), times


def compare_networks(
    system: str = "lj13", seconds: float = 60.0, seed: int = 0, n: int = 8192, n_steps: int = 10_000
) -> list[dict[str, Any]]:
    """Our network and optimiser beside the iDEM paper's, trained for equal wall time on one buffer with one target.

    Both learn from stored samples and forces (target ``buffer``) at the noise levels of our preset, so network,
    optimiser, precision and batch alone differ. What ``python -m idem_bench network`` prints.

    Parameters
    ----------
    system : str
        One that both presets know, of two atoms or more.
    seconds : float
        Of optimiser steps, for each.
    seed : int
    n, n_steps : int
        Samples to learn from, and as many held out; steps of the Markov chains that made them.

    Returns
    -------
    list of dict
        network, milliseconds_per_sample (forward, backward and update), steps, held_out_error and its standard_error.
    """
    seconds = check_float("seconds", seconds, above=0.0)
    target = get_system(system)
    ours = preset(target, "refined", seed)
    x, held_out = (
        torch.tensor(ENGINES["mala"].run(target, n, n_steps, seed=seed + k).positions).float() for k in (1, 2)
    )
    small = {"size": 16, "fresh": 1, "relax_steps": 0, "warmup_steps": 0, "refine_steps": 0, "sampling_steps": 2}
    rows = []
    for name, theirs in (("ours", ours), ("idem", preset(target, "idem", seed))):
        config = theirs.model_copy(
            update={
                "buffer": ours.buffer.model_copy(update=small),
                "optimizer": theirs.optimizer.model_copy(update={"inner_steps": 10}),
                "noise": ours.noise,
                "target": BufferTarget.Options(name="buffer"),
            }
        )
        denoiser, times = _trained(config, target, x, seconds)
        noise = config.noise
        error, deviation = held_out_error(denoiser, held_out, noise.sigma_min, noise.sigma_max, target.sigma_data)
        o = config.optimizer
        rows.append(
            {
                "bench": "network",
                "system": target.name,
                "settings": name,
                "network": config.network.name,
                "optimizer": o.name,
                "precision": o.precision,
                "batch": o.batch,
                "milliseconds_per_sample": 1e3 * statistics.median(times) / (10 * o.batch),
                "steps": 10 * len(times),
                "seconds": sum(times),
                "held_out_error": error,
                "standard_error": deviation,
            }
        )
    return rows
