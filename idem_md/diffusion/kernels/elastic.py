"""Reverse steps with the elastic covariance of the denoiser's error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch

from ...errors import UsageError
from ...nets import ELASTIC_NETWORK
from ..elastic import Elastic, Precision
from ..gaussians import Gaussian
from .base import Denoise, DiffusionKernel, Evaluation, has_head, levels, register_kernel

__all__ = ["ElasticEvaluation", "ElasticKernel", "HasElasticNetwork"]


class HasElasticNetwork(Protocol):
    """A denoiser that also tells how its error is spread: x_0 given x_t is about N(D, sigma^2 P^-1)."""

    @property
    def heads(self) -> Mapping[str, Any]: ...

    def with_precision(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Precision]:
        """D (B, N, D) and P, from one network evaluation."""
        ...

    def precision(self, x: torch.Tensor, denoised: torch.Tensor, features: Any, sigma: torch.Tensor) -> Precision:
        """P from D and the features of an evaluation."""
        ...


@dataclass(frozen=True)
class ElasticEvaluation(Evaluation):
    """An evaluation that keeps the precision P."""

    precision: Precision

    def posterior(self) -> Gaussian:
        """N(D, sigma^2 P^-1)."""
        return Elastic(self.denoised, self.precision, self.sigma**2)


@register_kernel("elastic")
class ElasticKernel(DiffusionKernel):
    """Covariance v I + (1-a)^2 t^2 P^-1, with v that of `Ddpm` and P from the elastic network of the checkpoint.

    Raises
    ------
    UsageError
        The denoiser has none.
    """

    needs: ClassVar[str] = "an elastic network; see idem-md tune"
    preference: ClassVar[int] = 2

    @classmethod
    def suits(cls, denoise: Any) -> bool:
        """See `TransitionKernel`: one with an elastic network."""
        return has_head(denoise, ELASTIC_NETWORK)

    def __init__(self, denoise: Any, mse: Callable[[float], float]):
        if not self.suits(denoise):
            raise UsageError(
                "kernel: expected another than 'elastic', the checkpoint has no elastic network; see idem-md tune"
            )
        super().__init__(cast(Denoise, denoise), mse)
        self._denoiser = cast(HasElasticNetwork, denoise)

    def evaluate(self, x: torch.Tensor, sigma: float) -> ElasticEvaluation:
        """See `TransitionKernel`."""
        denoised, precision = self._denoiser.with_precision(x, levels(x, sigma))
        return ElasticEvaluation(x, sigma, denoised, self.mse(sigma), precision)

    def evaluation_of(self, x: torch.Tensor, sigma: float, denoised: torch.Tensor, features: Any) -> ElasticEvaluation:
        """See `TransitionKernel`."""
        precision = self._denoiser.precision(x, denoised, features, levels(x, sigma))
        return ElasticEvaluation(x, sigma, denoised, self.mse(sigma), precision)

    def variance(self, t: float, s: float) -> float:
        """See `DiffusionKernel`: v, without what the elastic network adds."""
        return self.noise_variance(t, s)

    def down(self, evaluation: Evaluation, s: float) -> Gaussian:
        """See `TransitionKernel`."""
        assert isinstance(evaluation, ElasticEvaluation)
        a = s**2 / evaluation.sigma**2
        mean = a * evaluation.x + (1 - a) * evaluation.denoised
        return Elastic(
            mean, evaluation.precision, (1 - a) ** 2 * evaluation.sigma**2, self.variance(evaluation.sigma, s)
        )
