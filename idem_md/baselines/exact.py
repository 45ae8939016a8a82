"""Exact draws, for systems that have a formula for them."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..energies import Energy, ExactSamples
from ..errors import UsageError
from ..systems import System
from .base import Budget, Engine, EngineSamples, Progress, register_engine

__all__ = ["ExactEngine"]


@register_engine("exact")
class ExactEngine(Engine):
    """Independent samples by formula; gmm40 has one."""

    default_steps: ClassVar[int | None] = None

    def draw(
        self, system: System, energy: Energy, n: int, budget: Budget, generator: torch.Generator, progress: Progress
    ) -> EngineSamples:
        """See `Engine`."""
        if not isinstance(energy, ExactSamples):
            raise UsageError(
                f"engine: expected another than 'exact' for {system.name!r}, which has no formula for its samples"
            )
        return EngineSamples(energy.sample(n, generator), {})
