"""Reverse steps with the elastic covariance of the denoiser's error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch

from ...errors import UsageError
from ..elastic import Elastic, Precision
from ..gaussians import Gaussian
from .base import Denoise, Look, levels, register_proposal
from .ddpm import Ddpm

__all__ = ["ElasticLook", "ElasticProposal", "KnowsItsError"]


@runtime_checkable
class KnowsItsError(Protocol):
    """A denoiser that also tells how its error is spread: x_0 given x_t is about N(D, sigma^2 P^-1)."""

    @property
    def has_springs(self) -> bool: ...

    def with_precision(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Precision]:
        """D (B, N, D) and P, from one network evaluation."""
        ...


@dataclass(frozen=True)
class ElasticLook(Look):
    """A look that keeps the precision P."""

    precision: Precision

    def posterior(self) -> Gaussian:
        """N(D, sigma^2 P^-1)."""
        return Elastic(self.denoised, self.precision, self.sigma**2)


@register_proposal("elastic")
class ElasticProposal(Ddpm):
    """Covariance v I + (1-a)^2 t^2 P^-1, with v that of `Ddpm` and P from the springs of the checkpoint.

    Raises
    ------
    UsageError
        The denoiser has none.
    """

    @classmethod
    def suits(cls, denoise: Any) -> bool:
        """See `Proposal`: one with springs."""
        return isinstance(denoise, KnowsItsError) and denoise.has_springs

    def __init__(self, denoise: Any, mse: Callable[[float], float]):
        if not self.suits(denoise):
            raise UsageError("kernel: expected another than 'elastic', the checkpoint has no springs; see idem-md tune")
        super().__init__(cast(Denoise, denoise), mse)
        self._denoiser = denoise

    def look(self, x: torch.Tensor, sigma: float) -> ElasticLook:
        """See `Proposal`."""
        denoised, precision = self._denoiser.with_precision(x, levels(x, sigma))
        return ElasticLook(x, sigma, denoised, self.mse(sigma), precision)

    def down(self, look: Look, s: float) -> Gaussian:
        """See `Proposal`."""
        assert isinstance(look, ElasticLook)
        a = s**2 / look.sigma**2
        mean = a * look.x + (1 - a) * look.denoised
        return Elastic(mean, look.precision, (1 - a) ** 2 * look.sigma**2, self.variance(look.sigma, s))
