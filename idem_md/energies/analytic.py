"""Potentials with closed forms: double-well particles, harmonic clusters, mixtures of Gaussians."""

from __future__ import annotations

import math

import torch

from ..checks import check_float, check_int
from ..errors import UsageError
from ..geometry import subspace_dimension
from .base import Energy

__all__ = ["DoubleWell", "GaussianMixture", "Harmonic"]


class DoubleWell(Energy):
    """Particles with a pairwise double well (DW-4 of Köhler, Klein & Noé, ICML 2020, each pair counted once).

    u = sum_{i<j} a (d_ij - d0)^4 + b (d_ij - d0)^2

    Parameters
    ----------
    n_atoms, n_dims : int
    a, b, d0 : float
        Quartic and quadratic coefficients in kT, and the distance of the barrier.
    """

    users_code = False

    def __init__(self, n_atoms: int = 4, n_dims: int = 2, a: float = 0.9, b: float = -4.0, d0: float = 4.0):
        super().__init__(check_int("n_atoms", n_atoms, 2), check_int("n_dims", n_dims, 1))
        self.a, self.b, self.d0 = check_float("a", a, above=0.0), check_float("b", b), check_float("d0", d0)

    @property
    def parameters(self) -> dict[str, float]:
        """a, b and d0."""
        return {"a": self.a, "b": self.b, "d0": self.d0}

    def evaluate(self, x):
        """See `Energy.evaluate`."""
        i, j = torch.triu_indices(self.n_atoms, self.n_atoms, offset=1, device=x.device)
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
    """Atoms tied to their centroid by harmonic springs: a Gaussian on the mean-free subspace, log Z in closed form.

    u = k/2 sum_i |x_i - mean(x)|^2

    Parameters
    ----------
    n_atoms, n_dims : int
    k : float
        Stiffness in kT / length^2.
    """

    users_code = False

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


class GaussianMixture(Energy):
    """Equal isotropic Gaussians; one "atom" whose position is the point, translation not removed. log Z = 0.

    u = -log (1/M) sum_m N(x; mean_m, sd^2)

    Parameters
    ----------
    means : torch.Tensor, shape (M, D), optional
        By default those of GMM-40 (Midgley et al., ICLR 2023): 40 in the square (-40, 40)^2, from torch seed 0.
    sd : float
        Standard deviation in each direction; GMM-40 has softplus(1).
    """

    users_code = False

    def __init__(self, means: torch.Tensor | None = None, sd: float = math.log1p(math.e)):
        if means is None:
            seeded = torch.Generator().manual_seed(0)  # other numbers in another dtype
            means = (torch.rand((40, 2), generator=seeded, dtype=torch.float32, device="cpu") - 0.5) * 80
        if (
            not isinstance(means, torch.Tensor)
            or means.dim() != 2
            or not len(means)
            or not bool(torch.isfinite(means).all())
        ):
            raise UsageError(f"means: expected a finite tensor of shape (M, D), got {means!r}")
        super().__init__(1, means.shape[1])
        self.means = means.detach().double().clone()  # the caller's may change
        self.sd = check_float("sd", sd, above=0.0)

    @property
    def parameters(self) -> dict:
        """Number of components and their width."""
        return {"components": len(self.means), "sd": self.sd}

    def evaluate(self, x):
        """See `Energy.evaluate`."""
        # Matrix products instead of differences: a tenth of the memory traffic. Near the origin of the means they
        # cancel least.
        means = self.means.to(x)
        y = x[:, 0]
        log_p = (y @ means.T - 0.5 * (means**2).sum(-1)) / self.sd**2
        top = torch.logsumexp(log_p, 1)
        constant = self.n_dims * math.log(self.sd * math.sqrt(2 * math.pi)) + math.log(len(means))
        f = (torch.exp(log_p - top[:, None]) @ means - y) / self.sd**2
        return 0.5 * (y**2).sum(-1) / self.sd**2 - top + constant, f[:, None]

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """``n`` exact samples, shape (n, 1, D), float64."""
        which = torch.randint(len(self.means), (n,), generator=generator)
        return (self.means[which] + self.sd * torch.randn(n, self.n_dims, generator=generator, dtype=torch.float64))[
            :, None
        ]
