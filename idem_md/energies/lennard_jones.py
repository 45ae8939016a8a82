"""Lennard-Jones clusters: the native kernel and, beside it, the same formula in plain torch."""

from __future__ import annotations

import torch

from .. import kernels
from ..checks import UsageError, check_float, check_int
from ..geometry import centred
from .base import Energy

__all__ = ["LennardJones", "dem_scores_reference", "lennard_jones_reference"]

# The kernels' threshold on (r/r_m)^2 below which the energy is +inf (see src/lennard_jones.hpp).
OVERLAP = 1e-5


class LennardJones(Energy):
    """Lennard-Jones cluster in a weak harmonic trap about its centroid.

    u = epsilon * sum_{i<j} [(r_m/r_ij)^12 - 2 (r_m/r_ij)^6] + trap/2 * sum_i |x_i - mean(x)|^2

    ============ ===============================================
    symbol       argument
    ============ ===============================================
    epsilon      ``epsilon``, well depth in kT
    r_m          ``r_min``, distance of the minimum
    trap         ``trap``, stiffness in kT / length^2
    ============ ===============================================

    The literature's LJ-13 and LJ-55 sampling benchmarks are epsilon=2, r_min=1, trap=1 (Köhler, Klein & Noé,
    ICML 2020, whose double sum counts every pair twice).

    Parameters
    ----------
    n_atoms : int
        2 to 1000.
    epsilon, r_min, trap : float
        ``trap`` may be 0 for a bare energy; such a cluster evaporates and cannot be sampled.
    n_dims : int
        2 or 3.

    Raises
    ------
    UsageError
        A parameter out of range.
    """

    def __init__(self, n_atoms: int, epsilon: float = 1.0, r_min: float = 1.0, trap: float = 1.0, n_dims: int = 3):
        super().__init__(check_int("n_atoms", n_atoms, 2, 1000), check_int("n_dims", n_dims, 2, 3))
        self.epsilon = check_float("epsilon", epsilon, above=0.0)
        self.r_min = check_float("r_min", r_min, above=0.0)
        self.trap = check_float("trap", trap, minimum=0.0)

    @property
    def parameters(self) -> dict[str, float]:
        """epsilon, r_min and trap, as the kernels take them."""
        return {"epsilon": self.epsilon, "r_min": self.r_min, "trap": self.trap}

    def evaluate(self, x):
        """See `Energy.evaluate`; runs the native kernel in the dtype of ``x``."""
        return kernels.lj_energy_forces(x, **self.parameters)

    def mala(self, x, step, n_steps: int, seed: int, beta=None, centre=None, stiffness=None, averages=False):
        """Metropolis-adjusted Langevin chains run wholly in native code; see `kernels.mala`.

        Counts one energy call a chain and step, and one more a chain for the start.

        Raises
        ------
        UsageError
            Wrong shapes.
        EnergyError
            NaN positions, or a chain that starts at an infinite energy.
        """
        check_positions("x", x, self.n_atoms, self.n_dims)
        step = torch.as_tensor(step, dtype=torch.float32)
        beta = torch.ones(()) if beta is None else torch.as_tensor(beta, dtype=torch.float32)
        self.calls += x.shape[0] * (n_steps + 1)
        return kernels.mala(x.float(), step, beta, n_steps, seed, centre=centre, stiffness=stiffness,
                            averages=averages, **self.parameters)

    def dem_scores(self, x, sigma, n_samples: int, seed: int):
        """Importance-sampled scores at noised positions, fused and streamed; see `kernels.dem_target`."""
        check_positions("x", x, self.n_atoms, self.n_dims)
        self.calls += x.shape[0] * n_samples
        return kernels.dem_target(x.float(), torch.as_tensor(sigma, dtype=torch.float32), n_samples, seed,
                                  **self.parameters)


def lennard_jones_reference(x: torch.Tensor, epsilon: float, r_min: float, trap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`LennardJones` in plain torch, forces by the closed form; the reference that the kernels are tested against."""
    b, n, _ = x.shape
    dx = x[:, :, None] - x[:, None]
    s2 = (dx**2).sum(-1) / r_min**2
    self_pair = torch.eye(n, dtype=torch.bool)
    overlap = ((s2 < OVERLAP) & ~self_pair).flatten(1).any(1)
    inv6 = s2.clamp(min=OVERLAP).masked_fill(self_pair, torch.inf) ** -3
    y = x - x.mean(1, keepdim=True)
    u = 0.5 * epsilon * (inv6 * (inv6 - 2)).sum((1, 2)) + 0.5 * trap * (y**2).sum((1, 2))
    g = 12 * epsilon / r_min**2 * inv6 * (inv6 - 1) / s2.clamp(min=OVERLAP)
    f = (g[..., None] * dx).sum(2) - trap * y
    return u.masked_fill(overlap, torch.inf), f


def dem_scores_reference(energy, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor):
    """The streamed target in plain torch, for given noise: any energy, O(B K N D) memory.

    Parameters
    ----------
    energy : callable, (B, N, D) -> (u, f)
    x : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    eps : torch.Tensor, shape (B, K, N, D)
        Standard normal noise, mean-free.

    Returns
    -------
    s_tsi, s_dsi, alpha, log_mean_exp, ess
        As `kernels.dem_target`.
    """
    b, k, n, d = eps.shape
    if x.shape != (b, n, d):
        raise UsageError(f"eps: expected shape (B, K, {n}, {d}) for x of shape {tuple(x.shape)}, got {tuple(eps.shape)}")
    s = sigma.reshape(-1, 1, 1, 1)
    u, f = energy((x[:, None] + s * eps).reshape(b * k, n, d))
    u, f = u.reshape(b, k), f.reshape(b, k, n, d)
    empty = torch.isinf(u).all(1)
    w = torch.softmax(-u.masked_fill(empty[:, None], 0.0), dim=1) * ~empty[:, None]
    f = f.masked_fill((w == 0)[..., None, None], 0.0)
    g = eps / s
    mean = lambda a: (w[..., None, None] * a).sum(1)  # noqa: E731
    s_tsi, s_dsi = mean(f), mean(g)
    dot = lambda a, c: (w * (a * c).sum((2, 3))).sum(1)  # noqa: E731
    v_t = dot(f, f) - (s_tsi**2).sum((1, 2))
    v_d = dot(g, g) - (s_dsi**2).sum((1, 2))
    c = dot(f, g) - (s_tsi * s_dsi).sum((1, 2))
    den = v_t + v_d - 2 * c
    alpha = torch.where(den > 0, (v_d - c) / den, 0.5).clamp(0, 1)
    log_mean_exp = torch.logsumexp(-u, 1) - torch.log(torch.tensor(float(k), dtype=u.dtype))
    ess = torch.where(empty, 0.0, 1 / (w**2).sum(1).clamp(min=1e-300))
    return s_tsi, s_dsi, alpha, log_mean_exp, ess


def mean_free_noise(shape, generator: torch.Generator, dtype=torch.float64) -> torch.Tensor:
    """Noise (B, K, N, D) for `dem_scores_reference`."""
    eps = torch.randn(shape, generator=generator, dtype=dtype)
    return centred(eps.flatten(0, 1)).reshape(shape)
