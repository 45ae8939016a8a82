"""Steps by jumps along the probability flow: consistency models as proposals (arXiv 2409.07323)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from ...checks import check_float
from ...errors import ResultError, UsageError
from ...geometry import standard_normal, subspace_dimension
from ..elastic import Precision
from ..gaussians import Gaussian, Isotropic
from ..stretched import Stretched
from .analytic import Analytic
from .base import Denoise, Look, Proposal, batch_size, levels, register_proposal
from .elastic import ElasticLook, ElasticProposal

__all__ = ["Consistency", "ConsistencyLook", "IsotropicConsistency", "KnowsJumps"]


# u / s that are tried when steps are fitted.
ETAS = 0.9, 0.97, 0.99


@runtime_checkable
class KnowsJumps(Protocol):
    """A denoiser that also knows where the flow leads from a point that it has looked at, and how it stretches."""

    # Properties, as submodules are not what Python 3.12 counts as members of a protocol.
    @property
    def has_jumps(self) -> bool: ...

    @property
    def has_springs(self) -> bool: ...

    def featured(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """D (B, N, D) and the features, from one network evaluation."""
        ...

    def jumped(
        self, x: torch.Tensor, denoised: torch.Tensor, features: Any, t: torch.Tensor, s: torch.Tensor
    ) -> torch.Tensor:
        """g(x_t, t -> s)."""
        ...

    def stretching(
        self,
        x: torch.Tensor,
        denoised: torch.Tensor,
        features: Any,
        target: torch.Tensor,
        s: torch.Tensor,
        t: torch.Tensor,
    ) -> Precision:
        """S of the jump up from x_s to the target at level t."""
        ...

    def precision(self, x: torch.Tensor, denoised: torch.Tensor, features: Any, sigma: torch.Tensor) -> Precision:
        """P of x_0 given x_t."""
        ...


@dataclass(frozen=True)
class ConsistencyLook(Look):
    """A look that keeps what jumps from there need, and knows how to get what diffusion steps do."""

    features: Any
    as_diffusion: Callable[[], Look]

    @cached_property
    def diffusion(self) -> Look:
        """As the diffusion kernel looks at it: not wanted for jumps, and not free."""
        return self.as_diffusion()

    def posterior(self) -> Gaussian:
        """See `Look`."""
        return self.diffusion.posterior()


class IsotropicConsistency(Proposal):
    """Down: a jump to u = eta s, then noise, N(g(x_t, t -> u), s^2 - u^2), so that marginals are those of the flow.

    Up: where the point below came from, N(g(x_s, s -> eta t), c (s^2 - u^2)). Any eta and c leave weights unbiased;
    what is likeliest on paths up from samples makes them good. Below the lowest level of the jumps steps are those of
    diffusion, ``elastic`` if there are springs.

    Parameters
    ----------
    denoise : KnowsJumps
    mse : callable (sigma) -> float
    sigma, eta, scale : sequence of float
        eta, between 0 and 1, and c of steps whose lower level is s = ``sigma``, ascending, interpolated in ln s.

    Raises
    ------
    UsageError
        The denoiser has no jumps, or options out of range.
    """

    method = "consistency"
    densities = (None, (1.0, 1.0))

    @classmethod
    def suits(cls, denoise: Any) -> bool:
        """See `Proposal`: one with jumps."""
        return isinstance(denoise, KnowsJumps) and denoise.has_jumps

    @classmethod
    def fitted(
        cls,
        denoise: Any,
        mse: Callable[[float], float],
        levels: Sequence[float],
        x_0: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        """See `Proposal`: eta and c by maximum likelihood, step by step, on samples noised to the upper level."""
        found = []
        tried = [cls(denoise, mse, eta=(eta,)) for eta in ETAS]
        for t, s in zip(levels, levels[1:]):
            able = [proposal for proposal in tried if proposal.jumps_to(s)]
            if able:
                x = x_0 + t * standard_normal(x_0.shape, generator, device=x_0.device)
                looks = [tried[0].look(chunk, t) for chunk in x.split(batch_size(*x.shape[1:]))]
                noise = [standard_normal(look.x.shape, generator, device=look.x.device) for look in looks]
                losses = [(*proposal._loss(looks, noise, s), proposal.eta(s)) for proposal in able]
                finite = [loss for loss in losses if math.isfinite(loss[0])]
                if not finite:
                    raise ResultError(f"kernel: no step from {t:.3g} to {s:.3g} has a likelihood, whatever eta")
                _, scale, eta = min(finite)
                found.append((s, eta, scale))
        if not found:
            return {}
        return dict(zip(("sigma", "eta", "scale"), map(list, zip(*reversed(found)))))

    def _loss(self, looks: Sequence[ConsistencyLook], noise: Sequence[torch.Tensor], s: float) -> tuple[float, float]:
        """Mean of log down - log up of steps from points that have been looked at, with c near the likeliest, and c."""
        d, t, variance = subspace_dimension(*looks[0].x.shape[1:]), looks[0].sigma, self.variance(s)
        lost, quadratic = [], []
        for above, z in zip(looks, noise):
            down = self._jump_down(above, s)
            y = down.mean + math.sqrt(variance) * z
            below = self.look(y, s)
            mean = self.jump(below, self.eta(s) * t)
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
            raise UsageError("kernel: expected one without jumps, the checkpoint has none; see idem-md distill")
        super().__init__(cast(Denoise, denoise), mse)
        self._denoiser = denoise
        self._diffusion = ElasticProposal(denoise, mse) if denoise.has_springs else Analytic(self.denoise, mse)
        self._lowest = float(denoise.jump.options.lowest)
        if not len(sigma) == len(eta) == len(scale) >= 1 or list(sigma) != sorted(set(sigma)):
            raise UsageError(f"sigma: expected ascending levels, one for each eta and scale, got {list(sigma)}")
        self._at = np.log([check_float("sigma", s, above=0.0) for s in sigma])
        # In ln(1 - eta), which has no bounds to run into.
        self._log_rest = np.log([1 - check_float("eta", e, above=0.0, below=1.0) for e in eta])
        self._log_scale = np.log([check_float("scale", c, above=0.0) for c in scale])

    def eta(self, s: float) -> float:
        """Of steps down to level ``s``."""
        return 1 - math.exp(np.interp(math.log(s), self._at, self._log_rest))

    def variance(self, s: float) -> float:
        """s^2 - u^2 of steps down to level ``s``."""
        return s**2 * (1 - self.eta(s) ** 2)

    def look(self, x: torch.Tensor, sigma: float) -> ConsistencyLook:
        """See `Proposal`."""
        at, mse = levels(x, sigma), self.mse(sigma)
        denoised, features = self._denoiser.featured(x, at)

        def as_diffusion() -> Look:
            if not self._denoiser.has_springs:
                return Look(x, sigma, denoised, mse)
            return ElasticLook(x, sigma, denoised, mse, self._denoiser.precision(x, denoised, features, at))

        return ConsistencyLook(x, sigma, denoised, mse, features, as_diffusion)

    def jump(self, look: ConsistencyLook, s: float) -> torch.Tensor:
        """g(x_t, t -> s) from a look at level t, shape (B, N, D)."""
        x = look.x
        return self._denoiser.jumped(x, look.denoised, look.features, levels(x, look.sigma), levels(x, s))

    def leap(self, look: Look, s: float, generator: torch.Generator) -> Look:
        """See `Proposal`: the average of the denoiser on the way down is the best guess of what it is there."""
        assert isinstance(look, ConsistencyLook)
        if not self.jumps_to(s):
            raise UsageError(
                f"nfe: expected at least 2 with a last step from {s:.3g}, below the lowest level of jumps, got 1"
            )
        down, ratio = self._jump_down(look, s), self.eta(s) * s / look.sigma
        return Look(down.sample(generator), s, (down.mean - ratio * look.x) / (1 - ratio), self.mse(s))

    def jumps_to(self, s: float) -> bool:
        """Whether steps down to level ``s``, and up from it, are jumps."""
        return self.eta(s) * s >= self._lowest

    def down(self, look: Look, s: float) -> Gaussian:
        """See `Proposal`."""
        assert isinstance(look, ConsistencyLook)
        if not self.jumps_to(s):
            return self._diffusion.down(look.diffusion, s)
        return self._jump_down(look, s)

    def _jump_down(self, look: ConsistencyLook, s: float) -> Isotropic:
        return Isotropic(self.jump(look, self.eta(s) * s), self.variance(s))

    def up(self, look: Look, t: float) -> Gaussian:
        """See `Proposal`."""
        assert isinstance(look, ConsistencyLook)
        s = look.sigma
        if not self.jumps_to(s):
            return self._diffusion.up(look.diffusion, t)
        scale = math.exp(np.interp(math.log(s), self._at, self._log_scale))
        return self.spread(look, self.jump(look, self.eta(s) * t), t, scale * self.variance(s))

    def spread(self, look: ConsistencyLook, mean: torch.Tensor, t: float, variance: float) -> Gaussian:
        """What noise of the given variance around the point of the look has become at level ``t``."""
        return Isotropic(mean, variance)


@register_proposal("consistency")
class Consistency(IsotropicConsistency):
    """With the noise as the flow stretches it on its way up: covariance c (s^2 - u^2) (I + r^2 S)(I + S)^-1, r = t/s.

    See `nets.Stretch` for S, which is learnt with the jumps.
    """

    def spread(self, look: ConsistencyLook, mean: torch.Tensor, t: float, variance: float) -> Gaussian:
        """See `IsotropicConsistency`."""
        x, s = look.x, look.sigma
        stretch = self._denoiser.stretching(x, look.denoised, look.features, mean, levels(x, s), levels(x, t))
        return Stretched(mean, stretch, variance, t / s)


register_proposal("isotropic-consistency")(IsotropicConsistency)
