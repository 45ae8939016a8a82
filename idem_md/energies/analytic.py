"""Potentials with closed forms: double-well particles and harmonic clusters."""

from __future__ import annotations

import math

import torch

from ..checks import check_float, check_int
from ..geometry import subspace_dimension
from .base import Energy

__all__ = ["DoubleWell", "Harmonic"]


class DoubleWell(Energy):
    """Particles with a pairwise double well (DW-4 of Köhler, Klein & Noé, ICML 2020, each pair counted once).

    u = sum_{i<j} a (d_ij - d0)^4 + b (d_ij - d0)^2

    Parameters
    ----------
    n_atoms, n_dims : int
    a, b, d0 : float
        Quartic and quadratic coefficients in kT, and the distance of the barrier.
    """

    def __init__(self, n_atoms: int = 4, n_dims: int = 2, a: float = 0.9, b: float = -4.0, d0: float = 4.0):
        super().__init__(check_int("n_atoms", n_atoms, 2), check_int("n_dims", n_dims, 1))
        self.a, self.b, self.d0 = check_float("a", a, above=0.0), check_float("b", b), check_float("d0", d0)

    @property
    def parameters(self) -> dict[str, float]:
        """a, b and d0."""
        return {"a": self.a, "b": self.b, "d0": self.d0}

    def evaluate(self, x):
        """See `Energy.evaluate`."""
        i, j = torch.triu_indices(self.n_atoms, self.n_atoms, offset=1)
        dx = x[:, i] - x[:, j]
        r = dx.norm(dim=-1)
        t = r - self.d0
        u = (self.a * t**4 + self.b * t**2).sum(1)
        # At r = 0 the direction is undefined; zero keeps the force finite and the set has no measure.
        g = -(4 * self.a * t**3 + 2 * self.b * t) / r.clamp(min=torch.finfo(r.dtype).tiny)
        pair = g[..., None] * dx
        f = torch.zeros_like(x).index_add(1, i, pair).index_add(1, j, -pair)
        return u, f


class Harmonic(Energy):
    """Atoms tied to their centroid by springs: a Gaussian on the mean-free subspace, log Z in closed form.

    u = k/2 sum_i |x_i - mean(x)|^2

    Parameters
    ----------
    n_atoms, n_dims : int
    k : float
        Stiffness in kT / length^2.
    """

    def __init__(self, n_atoms: int, n_dims: int = 3, k: float = 1.0):
        super().__init__(check_int("n_atoms", n_atoms, 2), check_int("n_dims", n_dims, 1))
        self.k = check_float("k", k, above=0.0)

    @property
    def parameters(self) -> dict[str, float]:
        """k."""
        return {"k": self.k}

    @property
    def log_z(self) -> float:
        """log of the integral of exp(-u) over the mean-free subspace."""
        return 0.5 * subspace_dimension(self.n_atoms, self.n_dims) * math.log(2 * math.pi / self.k)

    def evaluate(self, x):
        """See `Energy.evaluate`."""
        y = x - x.mean(1, keepdim=True)
        return 0.5 * self.k * (y**2).sum((1, 2)), -self.k * y
