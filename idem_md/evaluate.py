"""How good is a network? Its error for equal wall time, and its distance from the exact denoiser with no reference set.

For x_0 at equilibrium and x_t = x_0 + sigma eps, x_0 is a draw of the posterior exp(-u(x) - |x - x_t|^2 / 2 sigma^2), so
Markov chains that start there are stationary at once, and their averages tend to the exact denoiser. What is left,

    |D - E[x_0 | x_t]|^2 / sigma^2  in nats per unit of ln sigma,

integrates over ln sigma to the Kullback-Leibler divergence of the paths, which no number of sampling steps removes.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass

import torch

from .baselines import run_mala
from .checks import UsageError, check_float, check_int
from .diffusion import Denoiser, stratified_log_uniform
from .energies import Energy
from .geometry import standard_normal, subspace_dimension
from .sampler import load_sampler
from .systems import get_system
from .targets import posterior_mala
from .training import preset
from .training.buffer import Buffer
from .training.config import TargetConfig
from .training.loop import init, outer_iteration, tune_step

__all__ = ["ScoreError", "compare_networks", "held_out_error", "measure_score", "score_error"]


@dataclass(frozen=True)
class ScoreError:
    """One row of the meter.

    Attributes
    ----------
    sigma : float
    error, standard_error : float
        |D - D_exact|^2 / sigma^2, mean over configurations, in nats per unit of ln sigma. Unbiased if the chains have forgotten
        their start; too large if they have not.
    size : float
        |x_t - D_exact|^2 / sigma^2, what a network that does nothing would have.
    target_noise : float
        What the chains' own scatter would add if one average were compared instead of two multiplied.
    acceptance : float
    """

    sigma: float
    error: float
    standard_error: float
    size: float
    target_noise: float
    acceptance: float


@torch.no_grad()
def score_error(denoise, energy: Energy, x_0, sigma: float, step: float, chains: int = 16, n_steps: int = 4000, seed: int = 0) -> ScoreError:
    """The meter at one noise level.

    Two independent averages m_1, m_2 over ``chains`` each give (D - m_1).(D - m_2), whose mean is |D - E[x_0|x_t]|^2 without
    the square of the averages' noise.

    Parameters
    ----------
    denoise : callable (x (B,N,D), sigma (B,)) -> (B,N,D)
    energy : Energy
    x_0 : torch.Tensor, shape (B, N, D)
        Equilibrium samples, two or more.
    sigma : float
    step : float
        MALA step that suits the energy alone.
    chains, n_steps, seed : int
        About 2 chains n_steps energy calls a configuration.
    """
    sigma = check_float("sigma", sigma, above=0.0)
    if len(x_0) < 2:
        raise UsageError(f"x_0: expected two samples or more, got {len(x_0)}")
    generator = torch.Generator().manual_seed(seed)
    x_0 = x_0.float()
    x_t = x_0 + sigma * standard_normal(x_0.shape, generator, torch.float32)
    level = x_0.new_full((len(x_0),), sigma)
    one, two = (posterior_mala(energy, x_t, level, x_0, step, chains, n_steps, int(torch.randint(2**62, (), generator=generator)))
                for _ in range(2))
    d = denoise(x_t, level).double()
    m = 0.5 * (one.mean + two.mean).double()
    product = ((d - one.mean) * (d - two.mean)).sum((1, 2)) / sigma**2
    size = ((x_t - m) ** 2).sum((1, 2)) / sigma**2
    noise = ((one.mean - two.mean).double() ** 2).sum((1, 2)) / 2 / sigma**2
    return ScoreError(sigma, float(product.mean()), float(product.std() / math.sqrt(len(x_0))), float(size.mean()), float(noise.mean()),
                      float(0.5 * (one.acceptance.mean() + two.acceptance.mean())))


def measure_score(source, sigmas=(0.02, 0.05, 0.1, 0.15, 0.2), n: int = 512, seed: int = 0, chains: int = 16, n_steps: int = 4000) -> list[dict]:
    """The meter on a checkpoint: what ``idem-md bench score`` prints.

    Parameters
    ----------
    source : str, path or Sampler
        As for `load_sampler`.
    sigmas : sequence of float
        Noise levels in reduced length.
    n : int
        Configurations, from Markov chains of the true energy (`run_mala`).
    seed, chains, n_steps : int

    Returns
    -------
    list of dict
        A `ScoreError` a level, and what it was measured on.
    """
    n = check_int("samples", n, 2)
    sampler = load_sampler(source) if not hasattr(source, "checkpoint") else source
    reference = run_mala(sampler.system, n, seed=seed)
    energy = sampler.system.energy()
    x_0 = torch.from_numpy(reference.positions)
    step = tune_step(reference.provenance["step"], reference.provenance["acceptance"])
    head = {"bench": "score", "system": sampler.system.name, "checkpoint": sampler.checkpoint.digest, "samples": n, "chains": 2 * chains,
            "steps": n_steps, "seed": seed}
    return [head | asdict(score_error(sampler.checkpoint.denoiser, energy, x_0, s, step, chains, n_steps, seed + k))
            for k, s in enumerate(sigmas)]


def held_out_error(denoiser: Denoiser, x_0, lo: float, hi: float, sigma_data: float, seed: int = 0) -> tuple[float, float]:
    """Denoising error on samples that were not trained on, with its standard error.

    Mean of |D - x_0|^2 (sigma^2 + s^2)/(sigma^2 s^2) per coordinate, s = ``sigma_data``, over log-uniform levels in [lo, hi]. Most
    of it is the scatter of x_0 given x_t, which is the same for every network fed the same noise: compare differences.
    """
    generator = torch.Generator().manual_seed(seed)
    sigma = stratified_log_uniform(len(x_0), lo, hi, generator)
    x_t = x_0 + sigma[:, None, None] * standard_normal(x_0.shape, generator, torch.float32)
    parts = [denoiser(x, s) for x, s in zip(x_t.split(256), sigma.split(256))]
    error = ((torch.cat(parts) - x_0).double() ** 2).sum((1, 2)) / subspace_dimension(*x_0.shape[1:])
    error = error * (sigma_data**-2 + sigma.double() ** -2)
    return float(error.mean()), float(error.std() / math.sqrt(len(x_0)))


def compare_networks(system: str = "lj13", seconds: float = 60.0, seed: int = 0, n: int = 8192, n_steps: int = 10_000) -> list[dict]:
    """Our network and optimiser beside the iDEM paper's, trained for equal wall time on one buffer with one target.

    Both learn from stored samples and forces (target ``buffer``) at the noise levels of our preset, so network, optimiser,
    precision and batch alone differ. What ``idem-md bench network`` prints.

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
    x = torch.from_numpy(run_mala(target, n, n_steps, seed=seed + 1).positions).float()
    held_out = torch.from_numpy(run_mala(target, n, n_steps, seed=seed + 2).positions).float()
    rows = []
    for name, theirs in (("ours", ours), ("idem", preset(target, "idem", seed))):
        buffer = ours.buffer.model_copy(update={"size": 16, "fresh": 1, "relax_steps": 0, "warmup_steps": 0, "refine_steps": 0,
                                                "sampling_steps": 2})
        optimizer = theirs.optimizer.model_copy(update={"inner_steps": 10})
        config = theirs.model_copy(update={"buffer": buffer, "optimizer": optimizer, "noise": ours.noise,
                                           "target": TargetConfig(name="buffer")})
        energy = target.energy()
        state = init(config, target, energy)
        outer_iteration(config, energy, state)  # once before the clock runs: memory, threads
        state = init(config, target, energy)
        state.buffer = Buffer.of(energy, x)
        state.total = 10**6  # so far away that the step size stays constant until it is set below
        times: list[float] = []
        # The last 40% of the time with a falling step size, as in training.
        decay = config.optimizer.decay_fraction or None
        while sum(times) < seconds:
            if decay and state.total == 10**6 and sum(times) >= (1 - decay) * seconds:
                state.total = math.ceil(state.iteration / (1 - decay))
            start = time.perf_counter()
            outer_iteration(config, energy, state)
            times.append(time.perf_counter() - start)
        net = state.ema if config.optimizer.ema else state.denoiser
        error, deviation = held_out_error(net.eval().requires_grad_(False), held_out, ours.noise.sigma_min, ours.noise.sigma_max,
                                          target.sigma_data)
        rows.append({"bench": "network", "system": target.name, "settings": name, "network": config.network.name,
                     "optimizer": config.optimizer.name, "precision": config.optimizer.precision, "batch": optimizer.batch,
                     "milliseconds_per_sample": 1e3 * statistics.median(times) / (10 * optimizer.batch), "steps": 10 * len(times),
                     "seconds": sum(times), "held_out_error": error, "standard_error": deviation})
    return rows
