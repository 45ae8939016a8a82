"""The draws of ``dem``, mixed with their Stein-equivalent sum by least variance."""

from __future__ import annotations

import torch

from ..energies import DemScores
from .base import register_target
from .dem import DemTarget

__all__ = ["MixedTarget"]


@register_target("mixed")
class MixedTarget(DemTarget):
    """alpha S_T + (1 - alpha) S_D: S_T - S_D has mean zero under the exact posterior (Stein), so any mix is
    consistent."""

    def score(self, scores: DemScores) -> torch.Tensor:
        """See `DemTarget.score`."""
        a = scores.alpha[:, None, None]
        return a * scores.tsi + (1 - a) * scores.dsi
