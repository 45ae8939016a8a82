"""Gaussians with the covariance of an elastic network; see `nets.elastic_network` for the precision P."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..geometry import centred, normal, standard_normal, subspace_dimension
from .gaussians import Gaussian

__all__ = ["Elastic", "Precision", "cholesky"]


@dataclass(frozen=True)
class Precision:
    """A batch of elastic precisions P, in units of 1 / sigma^2.

    Attributes
    ----------
    matrix : torch.Tensor, shape (B, N D, N D)
        On all coordinates; the translations of the cluster have the eigenvalue ``floor``.
    floor : torch.Tensor, shape (B,)
    """

    matrix: torch.Tensor
    floor: torch.Tensor

    @classmethod
    def of(cls, along: torch.Tensor, across: torch.Tensor, floor: torch.Tensor, positions: torch.Tensor) -> Precision:
        """The precision of spring constants.

        P = b I + sum_{i<j} (e_i - e_j)(e_i - e_j)^T (x) (k_ij rr^T + q_ij I)

        Parameters
        ----------
        along, across : torch.Tensor, shape (B, P)
            k and q of the pairs i > j, in the order of `torch.tril_indices`.
        floor : torch.Tensor, shape (B,)
            b.
        positions : torch.Tensor, shape (B, N, D)
            Where the directions r, and the dtype, are taken from.
        """
        along, across, floor = (part.to(positions.dtype) for part in (along, across, floor))
        b, n, d = positions.shape
        i, j = torch.tril_indices(n, n, -1, device=positions.device)
        dx = positions[:, i] - positions[:, j]
        unit = dx / dx.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        eye = torch.eye(d, dtype=dx.dtype, device=dx.device)
        block = along[..., None, None] * unit[..., :, None] * unit[..., None, :] + across[..., None, None] * eye
        blocks = dx.new_zeros(b, n, n, d, d)
        blocks[:, i, j] = block
        blocks[:, j, i] = block
        rows = blocks.sum(2) + floor[:, None, None, None] * eye
        blocks = torch.diag_embed(rows.permute(0, 2, 3, 1), dim1=1, dim2=2) - blocks
        return cls(blocks.transpose(2, 3).reshape(b, n * d, n * d), floor)


def cholesky(matrix: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of matrices (B, M, M), NaN where there is none.

    The precision of what a failed path has become is not finite, and rounding can make a matrix of vast eigenvalues
    indefinite: that path fails, the others go on.
    """
    ok = torch.isfinite(matrix).flatten(1).all(1)
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    factor, info = torch.linalg.cholesky_ex(torch.where(ok[:, None, None], matrix, identity))
    return torch.where((ok & (info == 0))[:, None, None], factor, torch.nan)


class Elastic(Gaussian):
    """N(mean, v I + c P^-1) on the mean-free subspace.

    With M = v P + c I the covariance is M P^-1: log det = log det M - log det P, and r^T (M P^-1)^-1 r = (P r)^T M^-1
    r; translations, of which P has the eigenvalue b, are left out of the determinants.

    Parameters
    ----------
    mean : torch.Tensor, shape (B, N, D)
        Mean-free.
    precision : Precision
    scale : float
        c > 0.
    variance : float
        v >= 0.
    """

    def __init__(self, mean: torch.Tensor, precision: Precision, scale: float, variance: float = 0.0):
        self.mean, self.precision, self.scale, self.variance = mean, precision, scale, variance
        self._factor = cholesky(precision.matrix)

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """See `Gaussian`: sqrt(v) z_1 + sqrt(c) P^(-T/2) z_2."""
        shape, dtype, device = self.mean.shape, self.mean.dtype, self.mean.device
        z = normal(shape, generator, dtype, device).flatten(1)[..., None]
        scaled = torch.linalg.solve_triangular(self._factor.mT, z, upper=True).reshape(shape)
        y = self.mean + math.sqrt(self.scale) * centred(scaled)
        if self.variance:
            y = y + math.sqrt(self.variance) * standard_normal(shape, generator, dtype, device)
        return y

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """See `Gaussian`."""
        n, d = y.shape[1:]
        r = (y - self.mean).flatten(1)[..., None]
        pulled = (self.precision.matrix @ r)[..., 0]
        v, c, b = self.variance, self.scale, self.precision.floor
        log_det = -2 * torch.log(self._factor.diagonal(dim1=1, dim2=2)).sum(1)
        of_translation = -torch.log(b)
        if v:
            identity = torch.eye(n * d, dtype=y.dtype, device=y.device)
            factor = cholesky(v * self.precision.matrix + c * identity)
            log_det = log_det + 2 * torch.log(factor.diagonal(dim1=1, dim2=2)).sum(1)
            of_translation = of_translation + torch.log(v * b + c)
            r = torch.cholesky_solve(r, factor)
        else:
            log_det, of_translation = log_det + n * d * math.log(c), of_translation + math.log(c)
            r = r / c
        if n > 1:  # a single atom keeps its place, in all dimensions
            log_det = log_det - d * of_translation
        quadratic = (pulled * r[..., 0]).sum(1)
        return -0.5 * quadratic - 0.5 * log_det - 0.5 * subspace_dimension(n, d) * math.log(2 * math.pi)
