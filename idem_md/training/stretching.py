"""How the flow stretches noise on its way up, learnt from trajectories: the covariance of consistency steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from ..checkpoint import build_stretch
from ..diffusion import Denoiser
from ..diffusion.stretched import Stretched
from ..geometry import standard_normal
from ..nets import Jump, SpringsOptions, Stretch
from .heads import fit_head
from .trajectories import Pool, draw_trajectories

__all__ = ["learn_stretch"]

BATCH, LEARNING_RATE, EMA = 128, 3e-3, 0.995
# Trajectories, how many of them are replaced at a time, and after how many steps.
SIZE, RENEWED, EVERY = 2048, 256, 100
# u = eta s of the steps down that it is learnt for; S hardly depends on it.
ETAS = 0.94, 0.99
# Levels of a step up are at least so far apart.
LEAST_RATIO = 1.05


def learn_stretch(
    denoiser: Denoiser,
    shape: tuple[int, int],
    levels: tuple[int, float, float],
    steps: int,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> Stretch:
    """The head that makes x_t likeliest, given a point x_s to which a consistency step has led down from there.

    Parameters
    ----------
    denoiser : Denoiser
        With jumps.
    shape : tuple
        (N, D).
    levels : tuple
        Number of levels of a trajectory, the lowest and the highest.
    steps, seed : int
    on_step : callable (step)
    """
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(denoiser.jump, Jump)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stretch = build_stretch(SpringsOptions(), denoiser.jump)
    pool = Pool(lambda n: draw_trajectories(denoiser, (n, *shape), *levels, generator), SIZE, RENEWED)
    pool.fill()

    def loss(step: int) -> torch.Tensor:
        if step and step % EVERY == 0:
            pool.renew(step // EVERY)
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
        return _negative_log_likelihood(denoiser, stretch, *(part[far] for part in (x_s, s, x_t, t, eta)))

    return cast(Stretch, fit_head("the stretch", stretch, loss, steps, LEARNING_RATE, EMA, on_step))


def _negative_log_likelihood(denoiser: Denoiser, stretch: Stretch, x_s, s, x_t, t, eta) -> torch.Tensor:
    """-log N(x_t; g(x_s, s -> eta t), (s^2 - u^2) (I + r^2 S)(I + S)^-1), but for constants; shape (B,)."""
    denoised, features = denoiser.featured(x_s, s)
    with torch.no_grad():
        mean = denoiser.jumped(x_s, denoised, features, s, eta * t)
    # In double precision: the stiffest directions are some ten thousand times stiffer than the softest.
    spread = denoiser.stretching(x_s.double(), denoised.double(), features, mean.double(), s, t, stretch)
    v = torch.sqrt(s**2 * (1 - eta**2)).double()[:, None, None]
    return -Stretched(mean / v, spread, 1.0, (t / s).double()).log_density(x_t / v)
