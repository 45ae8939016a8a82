"""Importance-sampled scores: the DEM estimator (Akhound-Sadegh et al., ICML 2024) and its Stein-equivalent
companion."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field

from ..checks import check_int, check_positions
from ..energies import DemScores, Energy, NativeDemScores
from ..errors import UsageError
from ..geometry import standard_normal
from ..seeds import draw_seed
from ..torch_state import own_torch
from .base import Batch, Target, TargetOptions, register_target

__all__ = ["DemTarget", "dem_scores", "dem_scores_reference"]

# For the plain route: enough for vectorisation, few enough for the caches.
CONFIGURATIONS_AT_ONCE = 16_384


@own_torch
def dem_scores(energy: Energy, x: torch.Tensor, sigma: torch.Tensor, n_samples: int, seed: int) -> DemScores:
    """Importance-sampled scores at noised positions, K = ``n_samples`` energy calls each.

    x_k = x + sigma eps_k, w = softmax(-u(x_k)); see `DemScores`. Streams over the batch; float32 runs in native code
    where the energy has it.

    Parameters
    ----------
    energy : Energy
    x : torch.Tensor, shape (B, N, D)
        Noised positions x_t, mean-free.
    sigma : torch.Tensor, shape (B,)
    n_samples, seed : int
    """
    check_positions("x", x, energy.n_atoms, energy.n_dims)
    check_int("n_samples", n_samples, 1)
    if sigma.shape != x.shape[:1] or not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise UsageError(f"sigma: expected {len(x)} finite positive numbers, got {sigma.tolist()}"[:300])
    if x.dtype == torch.float32 and isinstance(energy, NativeDemScores):
        energy.count(len(x) * n_samples)
        return energy.native_dem_scores(x, sigma.float(), n_samples, seed)
    energy.afford(len(x) * n_samples)
    generator = torch.Generator().manual_seed(seed)
    size = max(CONFIGURATIONS_AT_ONCE // n_samples, 1)
    parts = []
    for x_b, sigma_b in zip(x.split(size), sigma.split(size)):
        eps = standard_normal((len(x_b) * n_samples, *x.shape[1:]), generator, x.dtype, x.device)
        parts.append(dem_scores_reference(energy, x_b, sigma_b, eps.reshape(len(x_b), n_samples, *x.shape[1:])))
    return DemScores(*(torch.cat(column) for column in zip(*parts)))


def dem_scores_reference(energy, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor) -> DemScores:
    """`dem_scores` in plain torch, for given noise: any energy, O(B K N D) memory.

    Parameters
    ----------
    energy : callable, (B, N, D) -> (u, f)
    x : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    eps : torch.Tensor, shape (B, K, N, D)
        Standard normal noise, mean-free.

    Returns
    -------
    DemScores
    """
    b, k, n, d = eps.shape
    if x.shape != (b, n, d):
        raise UsageError(
            f"eps: expected shape (B, K, {n}, {d}) for x of shape {tuple(x.shape)}, got {tuple(eps.shape)}"
        )
    s = sigma.reshape(-1, 1, 1, 1)
    u, f = energy((x[:, None] + s * eps).reshape(b * k, n, d))
    u, f = u.reshape(b, k), f.reshape(b, k, n, d)
    empty = torch.isinf(u).all(1)
    w = (torch.softmax(-u.masked_fill(empty[:, None], 0.0), dim=1) * ~empty[:, None]).to(f.dtype)
    f = f.masked_fill((w == 0)[..., None, None], 0.0)
    g = eps / s

    def mean(a):
        return (w[..., None, None] * a).sum(1)

    def dot(a, c):
        return (w * (a * c).sum((2, 3))).sum(1)

    s_tsi, s_dsi = mean(f), mean(g)
    v_t = dot(f, f) - (s_tsi**2).sum((1, 2))
    v_d = dot(g, g) - (s_dsi**2).sum((1, 2))
    c = dot(f, g) - (s_tsi * s_dsi).sum((1, 2))
    den = v_t + v_d - 2 * c
    alpha = torch.where(torch.isfinite(den) & (den > 0), (v_d - c) / den, 0.0).clamp(0, 1)
    log_mean_exp = torch.logsumexp(-u, 1) - math.log(k)
    ess = torch.where(empty, 0.0, 1 / (w**2).sum(1).clamp(min=1e-300))
    return DemScores(s_tsi, s_dsi, alpha, log_mean_exp, ess)


@register_target("dem")
class DemTarget(Target):
    """The score S_T of `dem_scores`, as a denoiser value.

    Its noise grows without bound where few draws have weight.
    """

    class Options(TargetOptions):
        """``n_samples`` (K), and a bound on the norm of the score of an atom: larger ones are scaled down to it."""

        n_samples: int = Field(1000, ge=1, le=10**8)
        max_score_norm: float | None = Field(None, gt=0)

    options: Options
    needs_samples: ClassVar[bool] = False

    def score(self, scores: DemScores) -> torch.Tensor:
        """Which score is learnt, shape (B, N, D)."""
        return scores.tsi

    def __call__(self, energy: Energy, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """See `Target`."""
        score = self.score(dem_scores(energy, batch.x_t, batch.sigma, self.options.n_samples, draw_seed(generator)))
        bound = self.options.max_score_norm
        if bound is not None:
            score = score * (bound / score.norm(dim=-1, keepdim=True).clamp(min=bound))
        return batch.x_t + batch.sigma[:, None, None] ** 2 * score
