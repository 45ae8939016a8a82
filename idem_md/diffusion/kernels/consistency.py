"""Steps along the probability flow: consistency models as transition kernels (arXiv 2409.07323)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch

from ...checks import check_float
from ...errors import ResultError, UsageError
from ...geometry import standard_normal, subspace_dimension
from ...nets import FLOW_MAP
from ..elastic import Precision
from ..flow_gaussian import FlowGaussian
from ..gaussians import Gaussian, Isotropic
from .base import (
    KERNELS,
    Denoise,
    DiffusionKernel,
    Evaluation,
    TransitionKernel,
    batch_size,
    best_kernel,
    has_head,
    levels,
    register_kernel,
)

__all__ = ["Consistency", "ConsistencyEvaluation", "IsotropicConsistency", "HasFlowMap"]


# u / s that are tried when steps are fitted.
ETAS = 0.9, 0.97, 0.99


class HasFlowMap(Protocol):
    """A denoiser that also knows where the flow leads from a point, and what covariance it makes of noise there."""

    @property
    def heads(self) -> Mapping[str, Any]: ...

    def featured(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """D (B, N, D) and the features, from one network evaluation."""
        ...

    def mapped(
        self, x: torch.Tensor, denoised: torch.Tensor, features: Any, t: torch.Tensor, s: torch.Tensor
    ) -> torch.Tensor:
        """g(x_t, t -> s)."""
        ...

    def covariance(
        self,
        x: torch.Tensor,
        denoised: torch.Tensor,
        features: Any,
        target: torch.Tensor,
        s: torch.Tensor,
        t: torch.Tensor,
    ) -> Precision:
        """S of the step up from x_s to the target at level t."""
        ...


@dataclass(frozen=True)
class ConsistencyEvaluation(Evaluation):
    """An evaluation that keeps what the flow map takes, and makes that of a diffusion kernel when it is asked for."""

    features: Any
    as_diffusion: Callable[[], Evaluation]

    @cached_property
    def diffusion(self) -> Evaluation:
        """The evaluation of the diffusion kernel, which steps of the flow map do not take and which is not free."""
        return self.as_diffusion()

    def posterior(self) -> Gaussian:
        """See `Evaluation`."""
        return self.diffusion.posterior()


class IsotropicConsistency(TransitionKernel):
    """Down: the flow map to u = eta s, then noise, N(g(x_t, t -> u), s^2 - u^2): marginals are those of the flow.

    Up: where the point below came from, N(g(x_s, s -> eta t), c (s^2 - u^2)). Any eta and c leave weights unbiased;
    what is likeliest on paths up from samples makes them good. Below the lowest level of the flow map
    steps are those of diffusion, by the best kernel that the denoiser has what it takes for.

    Parameters
    ----------
    denoise : HasFlowMap
    mse : callable (sigma) -> float
    sigma, eta, scale : sequence of float
        eta, between 0 and 1, and c of steps whose lower level is s = ``sigma``, ascending, interpolated in ln s.

    Raises
    ------
    UsageError
        The denoiser has no flow map, or options out of range.
    """

    method: ClassVar[str] = "consistency"
    needs: ClassVar[str] = "a flow map; see idem-md distill"
    few_evaluations: ClassVar[bool] = True
    tuned: ClassVar[bool] = False
    nfes: ClassVar[tuple[int, ...]] = (4, 6, 10, 16, 25)
    densities: ClassVar[tuple[tuple[float, ...] | None, ...]] = (None, (1.0, 1.0))

    @classmethod
    def suits(cls, denoise: Any) -> bool:
        """See `TransitionKernel`: one with a flow map."""
        return has_head(denoise, FLOW_MAP)

    @classmethod
    def fitted(
        cls,
        denoise: Any,
        mse: Callable[[float], float],
        levels: Sequence[float],
        x_0: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        """See `TransitionKernel`: eta and c of largest likelihood, step by step, on samples that are noised."""
        found = []
        tried = [cls(denoise, mse, eta=(eta,)) for eta in ETAS]
        for t, s in zip(levels, levels[1:]):
            able = [kernel for kernel in tried if kernel.maps_to(s)]
            if able:
                x = x_0 + t * standard_normal(x_0.shape, generator, device=x_0.device)
                evaluations = [tried[0].evaluate(chunk, t) for chunk in x.split(batch_size(*x.shape[1:]))]
                noise = [standard_normal(each.x.shape, generator, device=each.x.device) for each in evaluations]
                losses = [(*kernel._loss(evaluations, noise, s), kernel.eta(s)) for kernel in able]
                finite = [loss for loss in losses if math.isfinite(loss[0])]
                if not finite:
                    raise ResultError(f"kernel: no step from {t:.3g} to {s:.3g} has a likelihood, whatever eta")
                _, scale, eta = min(finite)
                found.append((s, eta, scale))
        if not found:
            return {}
        return dict(zip(("sigma", "eta", "scale"), map(list, zip(*reversed(found)))))

    def _loss(
        self, evaluations: Sequence[ConsistencyEvaluation], noise: Sequence[torch.Tensor], s: float
    ) -> tuple[float, float]:
        """Mean of log down - log up of steps from points that have been evaluated, with c near the likeliest, and c."""
        d, t, variance = subspace_dimension(*evaluations[0].x.shape[1:]), evaluations[0].sigma, self.variance(s)
        lost, quadratic = [], []
        for above, z in zip(evaluations, noise):
            down = self._map_down(above, s)
            y = down.mean + math.sqrt(variance) * z
            below = self.evaluate(y, s)
            mean = self.flow_map(below, self.eta(s) * t)
            once, twice = (self.spread(below, mean, t, c * variance).log_density(above.x) for c in (1.0, 2.0))
            # log up = -(quadratic / c + d ln c) / 2 + what does not depend on c.
            quadratic.append(4 * (twice - once) + 2 * d * math.log(2))
            lost.append(down.log_density(y) - once)
        q = float(torch.cat(quadratic).mean())
        # Shrunk towards one by what chance alone makes of it: many steps would add up their errors.
        log_c, chance = math.log(q / d), 2 / (d * sum(len(z) for z in noise))
        c = math.exp(log_c * max(1 - chance / log_c**2, 0.0)) if log_c else 1.0
        return float(torch.cat(lost).mean()) + 0.5 * (q / c - q + d * math.log(c)), c

    def __init__(
        self,
        denoise: Any,
        mse: Callable[[float], float],
        sigma: Sequence[float] = (1.0,),
        eta: Sequence[float] = (0.98,),
        scale: Sequence[float] = (1.0,),
    ):
        if not self.suits(denoise):
            raise UsageError(
                "kernel: expected one that takes no flow map, the checkpoint has none; see idem-md distill"
            )
        super().__init__(cast(Denoise, denoise), mse)
        self._denoiser = cast(HasFlowMap, denoise)
        self._diffusion = KERNELS[best_kernel(denoise, DiffusionKernel.method)](denoise, mse)
        self._lowest = float(denoise.heads[FLOW_MAP].options.lowest)
        if not len(sigma) == len(eta) == len(scale) >= 1 or list(sigma) != sorted(set(sigma)):
            raise UsageError(f"sigma: expected ascending levels, one for each eta and scale, got {list(sigma)}")
        self._at = np.log([check_float("sigma", s, above=0.0) for s in sigma])
        # In ln(1 - eta), which has no bounds to run into.
        self._log_rest = np.log([1 - check_float("eta", e, above=0.0, below=1.0) for e in eta])
        self._log_scale = np.log([check_float("scale", c, above=0.0) for c in scale])

    def eta(self, s: float) -> float:
        """The eta of steps down to level ``s``."""
        return 1 - math.exp(np.interp(math.log(s), self._at, self._log_rest))

    def variance(self, s: float) -> float:
        """s^2 - u^2 of steps down to level ``s``."""
        return s**2 * (1 - self.eta(s) ** 2)

    def evaluate(self, x: torch.Tensor, sigma: float) -> ConsistencyEvaluation:
        """See `TransitionKernel`."""
        at, mse = levels(x, sigma), self.mse(sigma)
        denoised, features = self._denoiser.featured(x, at)

        def as_diffusion() -> Evaluation:
            return self._diffusion.evaluation_of(x, sigma, denoised, features)

        return ConsistencyEvaluation(x, sigma, denoised, mse, features, as_diffusion)

    def flow_map(self, evaluation: ConsistencyEvaluation, s: float) -> torch.Tensor:
        """g(x_t, t -> s) from an evaluation at level t, shape (B, N, D)."""
        x = evaluation.x
        return self._denoiser.mapped(
            x, evaluation.denoised, evaluation.features, levels(x, evaluation.sigma), levels(x, s)
        )

    def extrapolate(self, evaluation: Evaluation, s: float, generator: torch.Generator) -> Evaluation:
        """See `TransitionKernel`: the average of the denoiser on the way down is the best guess of what it is there."""
        assert isinstance(evaluation, ConsistencyEvaluation)
        if not self.maps_to(s):
            raise UsageError(
                f"nfe: expected at least 2 with a last step from {s:.3g}, below the lowest level of the flow map, got 1"
            )
        down, ratio = self._map_down(evaluation, s), self.eta(s) * s / evaluation.sigma
        return Evaluation(down.sample(generator), s, (down.mean - ratio * evaluation.x) / (1 - ratio), self.mse(s))

    def maps_to(self, s: float) -> bool:
        """Whether steps down to level ``s``, and up from it, are by the flow map."""
        return self.eta(s) * s >= self._lowest

    def down(self, evaluation: Evaluation, s: float) -> Gaussian:
        """See `TransitionKernel`."""
        assert isinstance(evaluation, ConsistencyEvaluation)
        if not self.maps_to(s):
            return self._diffusion.down(evaluation.diffusion, s)
        return self._map_down(evaluation, s)

    def _map_down(self, evaluation: ConsistencyEvaluation, s: float) -> Isotropic:
        return Isotropic(self.flow_map(evaluation, self.eta(s) * s), self.variance(s))

    def up(self, evaluation: Evaluation, t: float) -> Gaussian:
        """See `TransitionKernel`."""
        assert isinstance(evaluation, ConsistencyEvaluation)
        s = evaluation.sigma
        if not self.maps_to(s):
            return self._diffusion.up(evaluation.diffusion, t)
        scale = math.exp(np.interp(math.log(s), self._at, self._log_scale))
        return self.spread(evaluation, self.flow_map(evaluation, self.eta(s) * t), t, scale * self.variance(s))

    def spread(self, evaluation: ConsistencyEvaluation, mean: torch.Tensor, t: float, variance: float) -> Gaussian:
        """What noise of the given variance around the point of the evaluation has become at level ``t``."""
        return Isotropic(mean, variance)


@register_kernel("consistency")
class Consistency(IsotropicConsistency):
    """Steps up with the covariance that the flow makes of the noise: c (s^2 - u^2) (I + r^2 S)(I + S)^-1,
    r = t/s.

    See `nets.FlowCovariance` for S, which is learnt with the flow map.
    """

    preference: ClassVar[int] = 1
    tuned: ClassVar[bool] = True

    def spread(self, evaluation: ConsistencyEvaluation, mean: torch.Tensor, t: float, variance: float) -> Gaussian:
        """See `IsotropicConsistency`."""
        x, s = evaluation.x, evaluation.sigma
        covariance = self._denoiser.covariance(
            x, evaluation.denoised, evaluation.features, mean, levels(x, s), levels(x, t)
        )
        return FlowGaussian(mean, covariance, variance, t / s)


register_kernel("isotropic-consistency")(IsotropicConsistency)
