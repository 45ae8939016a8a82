"""Steps by jumps along the probability flow: consistency models as proposals (arXiv 2409.07323)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from ...checks import check_float
from ...errors import UsageError
from ..elastic import Elastic, Precision
from ..gaussians import Gaussian, Isotropic
from ..stretched import Spectrum, Stretched
from .base import Denoise, Look, Proposal, levels

__all__ = ["Consistency", "ConsistencyLook", "KnowsJumps"]


@runtime_checkable
class KnowsJumps(Protocol):
    """A denoiser that also knows where the flow leads from a point that it has looked at."""

    jump: Any

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

    def precision(self, x: torch.Tensor, denoised: torch.Tensor, features: Any, sigma: torch.Tensor) -> Precision:
        """P of x_0 given x_t."""
        ...


@dataclass(frozen=True)
class ConsistencyLook(Look):
    """A look that keeps what jumps from there need."""

    features: Any
    spectrum: Spectrum | None

    def posterior(self) -> Gaussian:
        """See `Look`; with springs N(D, sigma^2 P^-1)."""
        if self.spectrum is None:
            return super().posterior()
        return Elastic(self.denoised, self.spectrum.precision, self.sigma**2)


class Consistency(Proposal):
    """Down: a jump to u = eta s, then noise, N(g(x_t, t -> u), s^2 - u^2), so that marginals are those of the flow.

    Up: where the point below came from, N(g(x_s, s -> eta t), c (s^2 - u^2) (t/s)^(2 kappa (I - 1/P))): the noise of
    the way down as the flow stretches it on its way up, isotropic where there are no springs. Any eta, c and kappa
    leave weights unbiased; what is likeliest on paths up from samples makes them good.

    Parameters
    ----------
    denoise : KnowsJumps
    mse : callable (sigma) -> float
    eta : float
        Between 0 and 1.
    sigma, scale, kappa : sequence of float, optional
        c and kappa at levels s = ``sigma``, ascending, interpolated in ln s; by default 1.

    Raises
    ------
    UsageError
        The denoiser has no jumps, or options out of range.
    """

    def __init__(
        self,
        denoise: Any,
        mse: Callable[[float], float],
        eta: float = 0.97,
        sigma: Sequence[float] = (1.0,),
        scale: Sequence[float] = (1.0,),
        kappa: Sequence[float] = (1.0,),
    ):
        if not (isinstance(denoise, KnowsJumps) and denoise.jump is not None):
            raise UsageError("kernel: expected another than 'consistency', the checkpoint has no jumps")
        super().__init__(cast(Denoise, denoise), mse)
        self._denoiser = denoise
        self.eta = check_float("eta", eta, above=0.0)
        if not self.eta < 1:
            raise UsageError(f"eta: expected less than 1, got {eta}")
        if not len(sigma) == len(scale) == len(kappa) >= 1 or list(sigma) != sorted(set(sigma)):
            raise UsageError(f"sigma: expected ascending levels, one for each scale and kappa, got {list(sigma)}")
        self._at, self._kappa = np.log(sigma), list(kappa)
        self._log_scale = [math.log(check_float("scale", c, above=0.0)) for c in scale]

    def look(self, x: torch.Tensor, sigma: float) -> ConsistencyLook:
        """See `Proposal`."""
        at = levels(x, sigma)
        denoised, features = self._denoiser.featured(x, at)
        spectrum = None
        if self._denoiser.has_springs:
            spectrum = Spectrum(self._denoiser.precision(x, denoised, features, at))
        return ConsistencyLook(x, sigma, denoised, self.mse(sigma), features, spectrum)

    def jump(self, look: Look, s: float) -> torch.Tensor:
        """g(x_t, t -> s) from a look at level t, shape (B, N, D)."""
        assert isinstance(look, ConsistencyLook)
        x = look.x
        return self._denoiser.jumped(x, look.denoised, look.features, levels(x, look.sigma), levels(x, s))

    def down(self, look: Look, s: float) -> Gaussian:
        """See `Proposal`."""
        return Isotropic(self.jump(look, self.eta * s), s**2 * (1 - self.eta**2))

    def up(self, look: Look, t: float) -> Gaussian:
        """See `Proposal`."""
        assert isinstance(look, ConsistencyLook)
        s, mean = look.sigma, self.jump(look, self.eta * t)
        scale, kappa = (float(np.interp(math.log(s), self._at, a)) for a in (self._log_scale, self._kappa))
        variance = math.exp(scale) * s**2 * (1 - self.eta**2)
        if look.spectrum is None:
            return Isotropic(mean, variance)
        return Stretched(mean, look.spectrum, variance, t / s, kappa)
