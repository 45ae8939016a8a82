"""Training of elastic networks on a frozen denoiser: by how likely x_0 is given x_t. No energy calls."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..checkpoint import Checkpoint
from ..checks import check_int
from ..diffusion import Denoiser, DenoiserAccuracy, Elastic, stratified_log_uniform
from ..geometry import gaussian_log_density, standard_normal
from ..nets import ELASTIC_NETWORK, build_elastic_network
from ..training.heads import FitState, fit_head
from .heads import HeadTraining, register_head_training

__all__ = ["add_elastic_network", "elastic_network_gain"]

LEVELS = 8


def _negative_log_likelihood(denoiser: Denoiser, x_0: torch.Tensor, x_t: torch.Tensor, sigma: torch.Tensor):
    """-log N(x_0; D, sigma^2 P^-1), shape (B,), and D; lengths are divided by sigma, which shifts it by a constant."""
    denoised, precision = denoiser.with_precision(x_t, sigma)
    s = sigma[:, None, None]
    return -Elastic(denoised / s, precision, 1.0).log_density(x_0 / s), denoised


def _noised(x: torch.Tensor, lo: float, hi: float, n: int, generator: torch.Generator):
    """``n`` of the samples x_0, noised to stratified levels: x_0, x_t, sigma; and which."""
    drawn = torch.randint(len(x), (n,), generator=generator)
    x_0, sigma = x[drawn], stratified_log_uniform(n, lo, hi, generator)
    return (x_0, x_0 + sigma[:, None, None] * standard_normal(x_0.shape, generator, x_0.dtype), sigma), drawn


@register_head_training(ELASTIC_NETWORK)
def add_elastic_network(
    checkpoint: Checkpoint,
    samples: torch.Tensor,
    settings: HeadTraining | None = None,
    on_step: Callable[[int], None] = lambda _: None,
) -> Checkpoint:
    """The checkpoint with an elastic network, learnt from samples of the system.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its network is not changed.
    samples : torch.Tensor, shape (n, N, D), float32
        A tenth is held out, to measure the gain. For a range of temperatures give those of all rungs in turn.
    settings : HeadTraining, optional
    on_step : callable (step)

    Returns
    -------
    Checkpoint
        Its provenance has the settings, seconds and the gain by noise level.

    Raises
    ------
    UsageError
        A network without features.
    IdemError
        The training diverged.
    """
    settings = settings or HeadTraining()
    check_int("steps", settings.steps, 1)
    start = time.perf_counter()
    denoiser = copy.deepcopy(checkpoint.denoiser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        options = settings.options.get(ELASTIC_NETWORK, {})
        network = build_elastic_network(options, denoiser.net, denoiser.sigma_data)
    denoiser.heads[ELASTIC_NETWORK] = network
    generator = torch.Generator().manual_seed(settings.seed)
    rungs = max(len(checkpoint.rungs), 1)
    held = max(len(samples) // rungs // 10, 1) * rungs
    held_out, seen = samples[:held], samples[held:]
    lo, hi = checkpoint.noise_range

    def loss(_: int) -> torch.Tensor:
        noised, drawn = _noised(seen, lo, hi, settings.batch, generator)
        here = denoiser if not checkpoint.rungs else denoiser.at(checkpoint.log_betas[drawn % rungs])
        return _negative_log_likelihood(here, *noised)[0]

    rate, ema = settings.learning_rate, settings.ema
    state = None if settings.state is None else FitState(*settings.state, generator)
    fitted = fit_head("the elastic network", network, loss, settings.steps, rate, ema, on_step, state)
    denoiser.heads[ELASTIC_NETWORK] = fitted
    denoiser.eval().requires_grad_(False)
    record: dict[str, Any] = {
        "steps": settings.steps,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "samples": len(samples),
        "gain_nats": elastic_network_gain(
            denoiser, checkpoint.accuracy, held_out[checkpoint.own_rung :: rungs], lo, hi, settings.seed + 1
        ),
        "seconds": time.perf_counter() - start + (0.0 if state is None else state.earlier),
    }
    return replace(
        checkpoint, denoiser=denoiser, provenance=checkpoint.with_head_record(ELASTIC_NETWORK, record), digest=""
    )


@torch.no_grad()
def elastic_network_gain(
    denoiser: Denoiser, accuracy: DenoiserAccuracy, x: torch.Tensor, lo: float, hi: float, seed: int, n: int = 512
) -> list[float]:
    """Measure by how much x_0 is likelier with the elastic network than with the isotropic Gaussian of the denoiser's
    measured error, in nats, by eighth of ln sigma."""
    generator = torch.Generator().manual_seed(seed)
    gains = []
    for k in range(LEVELS):
        low, high = (lo * (hi / lo) ** ((k + share) / LEVELS) for share in (0, 1))
        x_0, x_t, sigma = (a.double() for a in _noised(x, low, high, n, generator)[0])
        elastic, denoised = _negative_log_likelihood(denoiser, x_0, x_t, sigma)
        s = sigma[:, None, None]
        variance = torch.tensor([accuracy(float(level)) for level in sigma], dtype=sigma.dtype) / sigma**2
        gains.append(float((-gaussian_log_density(x_0 / s, denoised / s, variance) - elastic).mean()))
    return gains
