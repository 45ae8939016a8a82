"""What the denoiser is trained towards: estimates of E[x_0 | x_t] from the energy alone.

All targets are given as denoiser values D (a score S becomes D = x_t + sigma^2 S). Names:

- ``dem``: self-normalised importance sampling of the score from K draws around x_t (Akhound-Sadegh et al., ICML
  2024). Needs no x_0. Its noise grows without bound where few draws have weight.
- ``mixed``: the same draws, mixed with their Stein-equivalent sum w eps/sigma by least variance.
- ``buffer``: from the x_0 that x_t was made of and its stored force, (1-c) x_0 + c (x_t + sigma^2 f(x_0)) with
  c = s^2/(s^2 + sigma^2) (denoising and target score matching; De Bortoli et al., 2024). No energy calls.
- ``posterior``: the same, averaged over MALA chains that sample exp(-u(x) - |x - x_t|^2 / 2 sigma^2) from x_0. If x_0
  is an equilibrium sample it already is a draw of that posterior, so the average has the same mean and, as the
  chains forget x_0, a fraction of the noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .checks import UsageError, check_float, check_int
from .energies import Energy

__all__ = ["PosteriorMean", "buffer_target", "importance_target", "posterior_mala", "posterior_target"]


def buffer_target(x_t, sigma, x_0, f_0, force_scale: float) -> torch.Tensor:
    """Denoising/target-score mix from stored samples.

    Parameters
    ----------
    x_t, x_0, f_0 : torch.Tensor, shape (B, N, D)
        Noised and clean positions, forces at the clean ones.
    sigma : torch.Tensor, shape (B,)
    force_scale : float
        s = <f^2>^(-1/2) per coordinate, the stiffness length of the potential.
    """
    s = sigma[:, None, None]
    c = force_scale**2 / (force_scale**2 + s**2)
    return (1 - c) * x_0 + c * (x_t + s**2 * f_0)


def importance_target(energy: Energy, x_t, sigma, n_samples: int, seed: int, mix: bool, max_norm: float | None = None):
    """``dem`` and ``mixed``: (B, N, D) denoiser targets from ``n_samples`` energy calls each.

    Parameters
    ----------
    mix : bool
        Mix the two estimators by least variance; otherwise the paper's.
    max_norm : float, optional
        Bound on the norm of the score of an atom; larger ones are scaled down to it, as the paper's code does.
    """
    s_tsi, s_dsi, alpha, _, _ = energy.dem_scores(x_t, sigma, n_samples, seed)
    score = s_tsi
    if mix:
        a = alpha[:, None, None]
        score = a * s_tsi + (1 - a) * s_dsi
    if max_norm is not None:
        score = score * (max_norm / score.norm(dim=-1, keepdim=True).clamp(min=max_norm))
    return x_t + sigma[:, None, None] ** 2 * score


class PosteriorMean(NamedTuple):
    """What `posterior_mala` returns.

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


def posterior_mala(energy: Energy, x_t, sigma, x_0, step: float, chains: int, n_steps: int, seed: int) -> PosteriorMean:
    """Averages over MALA chains on -u(x) - |x - x_t|^2 / 2 sigma^2, the posterior of x_0 given x_t, started at x_0.

    The first half of each chain is let go: it is as unbiased as the second if x_0 is an equilibrium sample, but it
    still remembers x_0, whose deviation from the posterior mean is the noise to be averaged away.

    Parameters
    ----------
    x_t, x_0 : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    step : float
        MALA step that suits the energy alone; shortened here where the restraint is the stiffer part.
    chains, n_steps : int
        Costs about chains (n_steps + 2) energy calls a configuration.
    seed : int

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
    spread = lambda a: a.repeat_interleave(chains, dim=0)  # noqa: E731
    # A d-dimensional Gaussian of width sigma wants h of about 1.36 d^(-1/3) sigma^2; 0.4 at d = 36.
    h = spread(1 / (1 / step + 1 / (0.4 * sigma**2)))
    restraint = dict(centre=spread(x_t), stiffness=spread(sigma**-2))
    half = max(n_steps // 2, 1)
    x, *_ = energy.mala(spread(x_0), h, half, seed, **restraint)
    *_, acceptance, mean_x, mean_f = energy.mala(x, h, half, seed + 1, averages=True, **restraint)
    by_chain = lambda a: a.reshape(b, chains, *x_t.shape[1:])  # noqa: E731
    variance = by_chain(mean_x).var(1, correction=1).sum((1, 2)) if chains > 1 else x_t.new_full((b,), torch.nan)
    return PosteriorMean(by_chain(mean_x).mean(1), by_chain(mean_f).mean(1), acceptance.reshape(b, chains).mean(1),
                         variance / chains)


def posterior_target(energy: Energy, x_t, sigma, x_0, force_scale: float, step: float, chains: int, n_steps: int, seed: int):
    """``posterior``: the mix of `buffer_target` with x_0 and its force averaged by `posterior_mala`.

    Returns
    -------
    target : torch.Tensor, shape (B, N, D)
    acceptance : float
    """
    p = posterior_mala(energy, x_t, sigma, x_0, step, chains, n_steps, seed)
    return buffer_target(x_t, sigma, p.mean, p.force, force_scale), float(p.acceptance.mean())
