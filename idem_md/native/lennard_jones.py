"""Lennard-Jones energies and score targets as torch ops, on the CPU and on CUDA.

All take the same four parameters: ``epsilon`` (well depth in kT) and ``r_min`` (distance of the minimum), one number
each or, with ``species``, the four of a symmetric 2 x 2 matrix, row by row; ``trap`` (stiffness in kT / length^2);
``species``, a uint8 tensor (N,) of 0 and 1 on the CPU, or None.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_int
from .module import check_batch, check_device, native, place
from .parameters import DEVICES, FLOATS, chain_numbers, parameters, run, species_on

__all__ = ["count_flop", "lj_dem_scores", "lj_energy_forces", "noise"]


@torch.library.custom_op("idem_md::lj_energy_forces", mutates_args=(), device_types=DEVICES)
def lj_energy_forces(
    x: Tensor,
    epsilon: Sequence[float],
    r_min: Sequence[float],
    trap: float,
    species: Tensor | None = None,
    isa: str = "",
) -> tuple[Tensor, Tensor]:
    """Energies and forces of Lennard-Jones clusters in a harmonic trap about the centroid.

    u = sum_{i<j} epsilon_ij [(r_ij^min/r_ij)^12 - 2 (r_ij^min/r_ij)^6] + trap/2 * sum_i |x_i - mean(x)|^2

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D), float32 or float64, D = 2 or 3
    epsilon, r_min, trap, species
        See the module.
    isa : str
        Instruction set; empty picks the fastest available.

    Returns
    -------
    u : torch.Tensor, shape (B,)
        Energies in kT; +inf where a pair is closer than 0.00316 r_min.
    f : torch.Tensor, shape (B, N, D)
        Forces -grad u; finite for every finite input in the range of the dtype.
    """
    check_batch(x, FLOATS)
    x = x.detach().contiguous()
    b, n, d = x.shape
    species = species_on(species, n, x.device)
    u, f = x.new_empty(b), torch.empty_like(x)
    native.energy_forces(
        parameters(n, d, epsilon, r_min, trap, species),
        b,
        x.dtype == torch.float64,
        x.data_ptr(),
        u.data_ptr(),
        f.data_ptr(),
        place(x.device, isa),
    )
    return u, f


@lj_energy_forces.register_fake
def _(x, epsilon, r_min, trap, species=None, isa=""):
    return x.new_empty(x.shape[0]), x.new_empty(x.shape)


@torch.library.custom_op("idem_md::lj_dem_scores", mutates_args=(), device_types=DEVICES)
def lj_dem_scores(
    x: Tensor,
    sigma: Tensor,
    n_samples: int,
    seed: int,
    epsilon: Sequence[float],
    r_min: Sequence[float],
    trap: float,
    species: Tensor | None = None,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Importance-sampled scores of the noised Boltzmann density, streamed over the samples.

    x_k = x + sigma eps_k, w = softmax(-u(x_k)): S_T = sum_k w_k f(x_k) (Akhound-Sadegh et al., ICML 2024, the
    DEM estimator) and S_D = sum_k w_k eps_k / sigma. On the CPU memory is O(B N); K x N x D is never formed. On
    CUDA the samples in flight come on top: nothing for 13 atoms, at most 256 MiB otherwise.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D), float32
        Noised positions x_t, mean-free.
    sigma : torch.Tensor, shape (B,) or one element
    n_samples, seed : int
        K and the seed; eps_k of x_b is row b K + k of `noise` for the same seed, device and generator.
    epsilon, r_min, trap, species
        See the module.

    Returns
    -------
    s_tsi, s_dsi : torch.Tensor, shape (B, N, D)
    alpha : torch.Tensor, shape (B,)
        Weight of S_T in the mix of least variance, in [0, 1].
    log_mean_exp : torch.Tensor, shape (B,)
        log (1/K) sum_k exp(-u(x_k)); -inf where every sample overlaps (then the scores are 0).
    ess : torch.Tensor, shape (B,)
        (sum w)^2 / sum w^2; 0 where every sample overlaps.
    """
    check_batch(x)
    check_int("n_samples", n_samples, 1)
    check_int("seed", seed, 0, 2**63 - 1)
    x = x.detach().contiguous()
    b, n, d = x.shape
    sigma = chain_numbers("sigma", sigma, b, x)
    species = species_on(species, n, x.device)
    s_tsi, s_dsi = torch.empty_like(x), torch.empty_like(x)
    alpha, log_mean_exp, ess = (x.new_empty(b) for _ in range(3))
    run(
        native.dem_scores,
        place(x.device, isa),
        x,
        parameters(n, d, epsilon, r_min, trap, species),
        b,
        n_samples,
        seed,
        *(t.data_ptr() for t in (x, sigma, s_tsi, s_dsi, alpha, log_mean_exp, ess)),
    )
    return s_tsi, s_dsi, alpha, log_mean_exp, ess


@lj_dem_scores.register_fake
def _(x, sigma, n_samples, seed, epsilon, r_min, trap, species=None, isa=""):
    b = x.shape[0]
    return x.new_empty(x.shape), x.new_empty(x.shape), *(x.new_empty(b) for _ in range(3))


def noise(n_samples: int, n_atoms: int, n_dims: int, seed: int, isa: str = "", device="cpu") -> Tensor:
    """The mean-free standard normal noise that `lj_dem_scores` draws for the same seed, row by row.

    Returns
    -------
    torch.Tensor, shape (n_samples, n_atoms, n_dims), float32
    """
    check_int("n_samples", n_samples, 0)
    check_int("n_atoms", n_atoms, 1)
    check_int("n_dims", n_dims, 2, 3)
    check_int("seed", seed, 0, 2**63 - 1)
    device = check_device("device", device)
    eps = torch.empty(n_samples, n_atoms, n_dims, dtype=torch.float32, device=device)
    native.noise(n_atoms, n_dims, n_samples, seed, eps.data_ptr(), place(device, isa))
    return eps


def count_flop(n_atoms: int, n_dims: int, epsilon, r_min, trap: float, species: Tensor | None = None) -> int:
    """Operations (+ - * /) of one energy with forces, counted by running the kernels' own code on a counting number."""
    species = species_on(species, n_atoms, torch.device("cpu"))
    check_int("n_atoms", n_atoms, 2)
    check_int("n_dims", n_dims, 2, 3)
    return native.count_flop(parameters(n_atoms, n_dims, epsilon, r_min, trap, species))
