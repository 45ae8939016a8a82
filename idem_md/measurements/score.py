"""How good is a network? Its error for equal wall time, and its distance from the exact denoiser with no reference set.

For x_0 at equilibrium and x_t = x_0 + sigma eps, x_0 is a draw of the posterior exp(-u(x) - |x - x_t|^2 / 2 sigma^2),
so Markov chains that start there are stationary at once, and their averages tend to the exact denoiser. What is left,

    |D - E[x_0 | x_t]|^2 / sigma^2  in nats per unit of ln sigma,

integrates over ln sigma to the Kullback-Leibler divergence of the paths, which no number of sampling steps removes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..baselines import ENGINES
from ..chains import posterior_mean, tune_step
from ..checks import check_float, check_int
from ..diffusion.kernels import Denoise
from ..energies import Energy
from ..errors import UsageError
from ..geometry import standard_normal
from ..sampler import Sampler
from ..seeds import draw_seed

__all__ = ["SIGMAS", "MeterReading", "measure_score", "read_meter"]

SIGMAS = (0.02, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class MeterReading:
    """One row of the score-error meter.

    Attributes
    ----------
    sigma : float
    error, standard_error : float
        |D - D_exact|^2 / sigma^2, mean over configurations, in nats per unit of ln sigma. Unbiased if the chains have
        forgotten their start; too large if they have not.
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
def read_meter(
    denoise: Denoise,
    energy: Energy,
    x_0: torch.Tensor,
    sigma: float,
    step: float,
    chains: int = 16,
    n_steps: int = 4000,
    seed: int = 0,
) -> MeterReading:
    """The meter at one noise level.

    Two independent averages m_1, m_2 over ``chains`` each give (D - m_1).(D - m_2), whose mean is |D - E[x_0|x_t]|^2
    without the square of the averages' noise.

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
    one, two = (posterior_mean(energy, x_t, level, x_0, step, chains, n_steps, draw_seed(generator)) for _ in range(2))
    d = denoise(x_t, level).double()
    m = 0.5 * (one.mean + two.mean).double()
    product = ((d - one.mean) * (d - two.mean)).sum((1, 2)) / sigma**2
    size = ((x_t - m) ** 2).sum((1, 2)) / sigma**2
    noise = ((one.mean - two.mean).double() ** 2).sum((1, 2)) / 2 / sigma**2
    return MeterReading(
        sigma,
        float(product.mean()),
        float(product.std() / math.sqrt(len(x_0))),
        float(size.mean()),
        float(noise.mean()),
        float(0.5 * (one.acceptance.mean() + two.acceptance.mean())),
    )


def measure_score(
    sampler: Sampler,
    sigmas: Sequence[float] = SIGMAS,
    n: int = 512,
    seed: int = 0,
    chains: int = 16,
    n_steps: int = 4000,
) -> list[dict[str, Any]]:
    """The meter on a checkpoint: what ``idem-md bench score`` prints.

    Parameters
    ----------
    sampler : Sampler
    sigmas : sequence of float
        Noise levels in reduced length.
    n : int
        Configurations, from Markov chains of the true energy (the engine ``mala``).
    seed, chains, n_steps : int

    Returns
    -------
    list of dict
        A `MeterReading` a level, and what it was measured on.
    """
    n = check_int("samples", n, 2)
    highest = 1000 * sampler.checkpoint.noise_range[1]
    sigmas = [check_float("sigma", s, above=0.0, below=highest) for s in sigmas]
    chains, n_steps = check_int("chains", chains, 2), check_int("steps", n_steps, 2)
    reference = ENGINES["mala"].run(sampler.system, n, seed=seed)
    energy, denoiser = sampler.system.energy(), sampler.checkpoint.denoiser
    x_0 = torch.tensor(reference.positions)
    step = tune_step(reference.provenance["step"], reference.provenance["acceptance"])
    head = {
        "bench": "score",
        "system": sampler.system.name,
        "checkpoint": sampler.checkpoint.digest,
        "samples": n,
        "chains": 2 * chains,
        "steps": n_steps,
        "seed": seed,
    }
    readings = (read_meter(denoiser, energy, x_0, s, step, chains, n_steps, seed + k) for k, s in enumerate(sigmas))
    return [head | asdict(reading) for reading in readings]
