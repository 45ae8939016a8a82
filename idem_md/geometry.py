"""Geometry of the mean-free subspace: projection, noise, Gaussian densities.

A cluster of N atoms in D dimensions lives on the subspace of vanishing centroid, of dimension (N-1) D. Every
Gaussian here is isotropic on that subspace, and every density is taken with respect to its volume. One atom alone is no
cluster but a point in a field (a mixture of Gaussians, say): it stays where it is, in all D dimensions.
"""

from __future__ import annotations

import math

import torch

__all__ = [
    "centred",
    "cubic_lattice",
    "gaussian_log_density",
    "normal",
    "standard_normal",
    "subspace_dimension",
    "uniform",
]


def centred(x: torch.Tensor) -> torch.Tensor:
    """Positions (B, N, D) with the centroid of each configuration moved to the origin; a single atom stays."""
    return x - x.mean(dim=1, keepdim=True) if x.shape[1] > 1 else x


def cubic_lattice(n_atoms: int, n_dims: int) -> torch.Tensor:
    """The first ``n_atoms`` points (N, D), float64, of the smallest cubic lattice of unit spacing that has so many."""
    side = 1
    while side**n_dims < n_atoms:
        side += 1
    axis = torch.arange(float(side), dtype=torch.float64)
    return torch.stack(torch.meshgrid(*[axis] * n_dims, indexing="ij"), -1).reshape(-1, n_dims)[:n_atoms]


def subspace_dimension(n_atoms: int, n_dims: int) -> int:
    """(N-1) D for clusters, D for a single atom."""
    return max(n_atoms - 1, 1) * n_dims


def normal(shape, generator: torch.Generator, dtype: torch.dtype, device) -> torch.Tensor:
    """Standard normal numbers, drawn where the generator is and then moved: the same ones on every device."""
    return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device).to(device)


def uniform(shape, generator: torch.Generator, dtype: torch.dtype, device) -> torch.Tensor:
    """Numbers between 0 and 1, likewise."""
    return torch.rand(shape, generator=generator, dtype=dtype, device=generator.device).to(device)


def standard_normal(shape, generator: torch.Generator, dtype=torch.float64, device="cpu") -> torch.Tensor:
    """Standard normal noise of ``shape`` (B, N, D), projected on the mean-free subspace."""
    return centred(normal(shape, generator, dtype, device))


def gaussian_log_density(x: torch.Tensor, mean: torch.Tensor, variance) -> torch.Tensor:
    """Log density of an isotropic Gaussian on the mean-free subspace.

    log N = -|x - mean|^2 / (2 v) - d/2 log(2 pi v), with d = (N-1) D.

    Parameters
    ----------
    x, mean : torch.Tensor, shape (B, N, D)
        Both mean-free.
    variance : float or torch.Tensor broadcastable to (B,)
        Variance per coordinate of the subspace; positive.

    Returns
    -------
    torch.Tensor, shape (B,)
    """
    d = subspace_dimension(x.shape[1], x.shape[2])
    v = torch.as_tensor(variance, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) ** 2).sum((1, 2)) / v - 0.5 * d * torch.log(2 * math.pi * v)
