"""The stored-sample target, averaged over Markov chains of the posterior."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ..chains import posterior_mean
from ..energies import Energy
from ..seeds import draw_seed
from .base import Batch, Target, TargetOptions, register_target
from .buffer import mix_with_force

__all__ = ["PosteriorTarget"]


@register_target("posterior")
class PosteriorTarget(Target):
    """`mix_with_force` with x_0 and its force averaged by `chains.posterior_mean`.

    If x_0 is an equilibrium sample it already is a draw of the posterior, so the average has the same mean and, as the
    chains forget x_0, a fraction of the noise.
    """

    class Options(TargetOptions):
        """``chains`` of ``chain_steps`` MALA steps for each x_t."""

        chains: int = Field(2, ge=1, le=10**8)
        chain_steps: int = Field(1280, ge=2, le=10**8)

    options: Options
    needs_samples: ClassVar[bool] = True
    takes_temperatures: ClassVar[bool] = True

    def __call__(self, energy: Energy, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """See `Target`."""
        mean = posterior_mean(
            energy,
            batch.x_t,
            batch.sigma,
            batch.x_0,
            batch.mala_step,
            self.options.chains,
            self.options.chain_steps,
            draw_seed(generator),
            batch.beta,
        )
        force = mean.force if batch.beta is None else batch.beta[:, None, None] * mean.force
        return mix_with_force(batch.x_t, batch.sigma, mean.mean, force, batch.force_scale)
