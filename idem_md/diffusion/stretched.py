"""Gaussians that the probability flow has stretched: a power of an elastic precision as covariance."""

from __future__ import annotations

import math

import torch

from ..geometry import centred, subspace_dimension
from .elastic import Precision
from .gaussians import Gaussian

__all__ = ["Spectrum", "Stretched"]


class Spectrum:
    """Eigenvalues and eigenvectors of a batch of elastic precisions P, found when they are first asked for.

    Parameters
    ----------
    precision : Precision
    """

    def __init__(self, precision: Precision):
        self.precision = precision
        self._found: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Shapes (B, N D) and (B, N D, N D)."""
        if self._found is None:
            # Rows that are not finite are paths that have failed; they stay so.
            matrix = self.precision.matrix
            ok = torch.isfinite(matrix).flatten(1).all(1)[:, None, None]
            values, vectors = torch.linalg.eigh(torch.where(ok, matrix, torch.eye(matrix.shape[1], dtype=matrix.dtype)))
            self._found = torch.where(ok[:, 0], values, torch.nan), vectors
        return self._found


class Stretched(Gaussian):
    """N(mean, v r^(2 kappa (I - 1/P))) on the mean-free subspace.

    From noise level s to r s the flow stretches a direction in which the posterior has the variance s^2 / p by about
    r^(1 - 1/p); kappa = 1 if P stayed what it is at s.

    Parameters
    ----------
    mean : torch.Tensor, shape (B, N, D)
        Mean-free.
    spectrum : Spectrum
        Of P.
    variance, ratio, kappa : float
        v and r, positive, and kappa.
    """

    def __init__(self, mean: torch.Tensor, spectrum: Spectrum, variance: float, ratio: float, kappa: float):
        values, self._vectors = spectrum()
        self.mean = mean
        power = 2 * kappa * math.log(ratio)
        self._variances = variance * torch.exp(power * (1 - 1 / values))
        # Translations have the eigenvalue b of P, and are not there.
        floor = spectrum.precision.floor
        self._of_translation = math.log(variance) + power * (1 - 1 / floor)

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """See `Gaussian`."""
        shape = self.mean.shape
        z = torch.randn(shape, generator=generator, dtype=self.mean.dtype).flatten(1)
        y = self._vectors @ (self._variances.sqrt() * z)[..., None]
        return self.mean + centred(y.reshape(shape))

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """See `Gaussian`."""
        n, d = y.shape[1:]
        r = (self._vectors.mT @ (y - self.mean).flatten(1)[..., None])[..., 0]
        log_det = torch.log(self._variances).sum(1)
        if n > 1:  # a single point keeps its place, in all dimensions
            log_det = log_det - d * self._of_translation
        return -0.5 * ((r**2 / self._variances).sum(1) + log_det + subspace_dimension(n, d) * math.log(2 * math.pi))
