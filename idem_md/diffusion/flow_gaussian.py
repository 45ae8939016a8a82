"""Gaussians of noise that the probability flow has taken up; see `nets.flow_covariance`."""

from __future__ import annotations

import math

import torch

from ..geometry import centred, normal, subspace_dimension
from .elastic import Precision, cholesky
from .gaussians import Gaussian

__all__ = ["FlowGaussian"]


class FlowGaussian(Gaussian):
    """N(mean, v A B^-1) with A = I + r^2 S and B = I + S, which commute, on the mean-free subspace.

    Parameters
    ----------
    mean : torch.Tensor, shape (B, N, D)
        Mean-free.
    covariance : Precision
        S, with eigenvalues above -1 / r^2; translations have its ``floor``.
    variance : float
        v.
    ratio : float or torch.Tensor, shape (B,)
        r >= 1.
    """

    def __init__(self, mean: torch.Tensor, covariance: Precision, variance: float, ratio: float | torch.Tensor):
        self.mean, self.covariance, self.variance = mean, covariance, variance
        self._squared = torch.as_tensor(ratio, dtype=mean.dtype, device=mean.device).reshape(-1) ** 2

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """See `Gaussian`."""
        shape, matrix = self.mean.shape, self.covariance.matrix
        ok = torch.isfinite(matrix).flatten(1).all(1)[:, None, None]
        identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        values, vectors = torch.linalg.eigh(torch.where(ok, matrix, identity))
        z = normal(shape, generator, matrix.dtype, matrix.device).flatten(1)
        scale = torch.sqrt(self.variance * (1 + self._squared[:, None] * values) / (1 + values))
        y = torch.where(ok, vectors, torch.nan) @ (scale * z)[..., None]
        return self.mean + centred(y.reshape(shape))

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """See `Gaussian`."""
        n, d = y.shape[1:]
        r2, matrix, floor = self._squared, self.covariance.matrix, self.covariance.floor
        identity = torch.eye(n * d, dtype=matrix.dtype, device=matrix.device)
        above, below = cholesky(identity + r2[:, None, None] * matrix), cholesky(identity + matrix)
        log_det = 2 * (torch.log(above.diagonal(dim1=1, dim2=2)) - torch.log(below.diagonal(dim1=1, dim2=2))).sum(1)
        if n > 1:  # a single point keeps its place, in all dimensions
            log_det = log_det - d * (torch.log1p(r2 * floor) - torch.log1p(floor))
        r = (y - self.mean).flatten(1)[..., None]
        quadratic = ((r + matrix @ r) * torch.cholesky_solve(r, above)).sum((1, 2)) / self.variance
        return -0.5 * (quadratic + log_det + subspace_dimension(n, d) * math.log(2 * math.pi * self.variance))
