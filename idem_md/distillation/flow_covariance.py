"""Training of flow covariances, from trajectories: the covariance of consistency steps up."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from ..diffusion import Denoiser
from ..diffusion.flow_gaussian import FlowGaussian
from ..geometry import standard_normal
from ..nets import FlowCovariance, build_flow_covariance
from ..training.heads import fit_head
from .trajectories import Pool, draw_trajectories

__all__ = ["train_flow_covariance"]

BATCH, LEARNING_RATE, EMA = 128, 3e-3, 0.995
# Trajectories, how many of them are replaced at a time, and after how many steps.
POOL_SIZE, RENEWED_TRAJECTORIES, STEPS_BETWEEN_RENEWALS = 2048, 256, 100
# u = eta s of the steps down that it is learnt for; S hardly depends on it.
ETAS = 0.94, 0.99
# Levels of a step up are at least so far apart.
LEAST_RATIO = 1.05


def train_flow_covariance(
    denoiser: Denoiser,
    shape: tuple[int, int],
    levels: tuple[int, float, float],
    steps: int,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> FlowCovariance:
    """The head that makes x_t likeliest, given a point x_s to which a consistency step has led down from there.

    Parameters
    ----------
    denoiser : Denoiser
        With a flow map.
    shape : tuple
        (N, D).
    levels : tuple
        Number of levels of a trajectory, the lowest and the highest.
    steps, seed : int
    on_step : callable (step)
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_flow_covariance({}, denoiser.net, denoiser.sigma_data, denoiser.heads)
    pool = Pool(lambda n: draw_trajectories(denoiser, (n, *shape), *levels, generator), POOL_SIZE, RENEWED_TRAJECTORIES)
    pool.fill()

    def loss(step: int) -> torch.Tensor:
        if step and step % STEPS_BETWEEN_RENEWALS == 0:
            pool.renew(step // STEPS_BETWEEN_RENEWALS)
        pairs = pool.pairs(BATCH, generator)
        top = pairs.sigma.argmax(1)
        row = torch.arange(BATCH)
        t, u, x_t, x_u = pairs.sigma[row, top], pairs.sigma[row, 1 - top], pairs.x[row, top], pairs.x[row, 1 - top]
        low, high = ETAS
        eta = low + (high - low) * torch.rand(BATCH, generator=generator, dtype=torch.float32)
        s = u / eta
        noise = torch.sqrt(s**2 - u**2)[:, None, None]
        x_s = x_u + noise * standard_normal(x_u.shape, generator, x_u.dtype)
        far = t > LEAST_RATIO * s
        return _negative_log_likelihood(denoiser, head, *(part[far] for part in (x_s, s, x_t, t, eta)))

    return cast(FlowCovariance, fit_head("the flow covariance", head, loss, steps, LEARNING_RATE, EMA, on_step))


def _negative_log_likelihood(denoiser: Denoiser, head: FlowCovariance, x_s, s, x_t, t, eta) -> torch.Tensor:
    """-log N(x_t; g(x_s, s -> eta t), (s^2 - u^2) (I + r^2 S)(I + S)^-1), but for constants; shape (B,)."""
    denoised, features = denoiser.featured(x_s, s)
    with torch.no_grad():
        mean = denoiser.mapped(x_s, denoised, features, s, eta * t)
    # In double precision: the stiffest directions are some ten thousand times stiffer than the softest.
    spread = denoiser.covariance(x_s.double(), denoised.double(), features, mean.double(), s, t, head)
    v = torch.sqrt(s**2 * (1 - eta**2)).double()[:, None, None]
    return -FlowGaussian(mean / v, spread, 1.0, (t / s).double()).log_density(x_t / v)
