"""Chains on the posterior of x_0 given x_t, exp(-u(x) - |x - x_t|^2 / 2 sigma^2)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..checks import check_float, check_int
from ..energies import Energy
from ..errors import UsageError
from .mala import MALA, Restraint, run_mala

__all__ = ["PosteriorMean", "posterior_mala", "posterior_mean"]


class PosteriorMean(NamedTuple):
    """What `posterior_mean` returns.

    Attributes
    ----------
    mean, force : torch.Tensor, shape (B, N, D)
        Averages of x and of the bare force f(x): estimates of E[x_0 | x_t] and E[f(x_0) | x_t].
    acceptance : torch.Tensor, shape (B,)
    spread : torch.Tensor, shape (B,)
        Between-chain estimate of E|mean - E[x_0 | x_t]|^2, summed over coordinates; divided by sigma^2 it is the
        target's noise in the units of the score-error meter. All chains start at one x_0: what they still share of it
        does not show, so this is a lower bound until they have forgotten it. NaN for a single chain.
    """

    mean: torch.Tensor
    force: torch.Tensor
    acceptance: torch.Tensor
    spread: torch.Tensor


def posterior_mala(x_t: torch.Tensor, sigma: torch.Tensor, step: float, beta: float | torch.Tensor = 1.0) -> MALA:
    """MALA on the posterior of x_0 given ``x_t`` (B, N, D) and ``sigma`` (B,), one chain each, at inverse temperatures
    ``beta``, one or (B,).

    ``step`` suits the energy alone at an inverse temperature of one, and is shortened at a lower temperature and where
    the restraint is the stiffer part: a d-dimensional Gaussian of width sigma wants h of about 1.36 d^(-1/3) sigma^2;
    0.4 at d = 36.
    """
    return MALA(1 / (beta / step + 1 / (0.4 * sigma**2)), beta, Restraint(x_t, sigma**-2))


def posterior_mean(
    energy: Energy,
    x_t: torch.Tensor,
    sigma: torch.Tensor,
    x_0: torch.Tensor,
    step: float,
    chains: int,
    n_steps: int,
    seed: int,
    beta: torch.Tensor | None = None,
) -> PosteriorMean:
    """Averages over MALA chains on the posterior of x_0 given x_t, started at x_0.

    The first half of each chain is let go: it is as unbiased as the second if x_0 is an equilibrium sample, but it
    still remembers x_0, whose deviation from the posterior mean is the noise to be averaged away.

    Parameters
    ----------
    x_t, x_0 : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    step : float
        MALA step that suits the energy alone.
    chains, n_steps : int
        Costs about chains (n_steps + 2) energy calls a configuration.
    seed : int
    beta : torch.Tensor, shape (B,), optional
        Inverse temperature of each configuration, by default one.

    Raises
    ------
    UsageError
        Shapes that differ, numbers out of range.
    """
    b = x_t.shape[0]
    if x_0.shape != x_t.shape:
        raise UsageError(f"x_0: expected shape {tuple(x_t.shape)} as x_t, got {tuple(x_0.shape)}")
    step = check_float("step", step, above=0.0)
    chains, n_steps = check_int("chains", chains, 1), check_int("n_steps", n_steps, 1)

    def spread(a):
        return a.repeat_interleave(chains, dim=0)

    def by_chain(a):
        return a.reshape(b, chains, *x_t.shape[1:])

    move = posterior_mala(spread(x_t), spread(sigma), step, 1.0 if beta is None else spread(beta))
    half = max(n_steps // 2, 1)
    h, chain_beta, restraint = move.step_size, move.beta, move.restraint
    first = run_mala(energy, spread(x_0), h, half, seed, beta=chain_beta, restraint=restraint)
    run = run_mala(energy, first.x, h, half, seed + 1, beta=chain_beta, restraint=restraint, averages=True)
    means = by_chain(run.mean_x)
    variance = means.var(1, correction=1).sum((1, 2)) if chains > 1 else x_t.new_full((b,), torch.nan)
    acceptance = run.acceptance.reshape(b, chains).mean(1)
    return PosteriorMean(means.mean(1), by_chain(run.mean_f).mean(1), acceptance, variance / chains)
