"""Gaussians on the mean-free subspace: what kernels are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ..geometry import gaussian_log_density, standard_normal

__all__ = ["Gaussian", "Isotropic"]


class Gaussian(ABC):
    """A batch of Gaussian densities on the mean-free subspace, one a sample."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One draw of each, shape (B, N, D)."""

    @abstractmethod
    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """Log density of each at its row of ``y`` (B, N, D), with respect to the volume of the subspace; shape (B,)."""


class Isotropic(Gaussian):
    """N(mean, variance) with one variance per coordinate of the subspace.

    Parameters
    ----------
    mean : torch.Tensor, shape (B, N, D)
    variance : float
    """

    def __init__(self, mean: torch.Tensor, variance: float):
        self.mean, self.variance = mean, variance

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """See `Gaussian`."""
        noise = standard_normal(self.mean.shape, generator, self.mean.dtype, self.mean.device)
        return self.mean + self.variance**0.5 * noise

    def log_density(self, y: torch.Tensor) -> torch.Tensor:
        """See `Gaussian`."""
        return gaussian_log_density(y, self.mean, self.variance)
