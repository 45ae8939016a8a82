"""What the denoiser is trained towards: estimates of E[x_0 | x_t] from the energy alone.

All targets are given as denoiser values D (a score S becomes D = x_t + sigma^2 S). One file each:

- ``posterior``: MALA chains that sample exp(-u(x) - |x - x_t|^2 / 2 sigma^2) from x_0, averaged;
- ``buffer``: from x_0 and its stored force; no energy calls;
- ``dem``: importance sampling of the score from K draws around x_t (iDEM); needs no x_0;
- ``mixed``: the same draws, mixed with their Stein-equivalent sum by least variance.

`register_target` adds one of your own.
"""

from .base import TARGETS, Batch, Target, TargetOptions, register_target
from .buffer import BufferTarget, mix_with_force
from .dem import DemTarget, dem_scores, dem_scores_reference
from .mixed import MixedTarget
from .posterior import PosteriorTarget

__all__ = [
    "TARGETS",
    "Batch",
    "BufferTarget",
    "DemTarget",
    "MixedTarget",
    "PosteriorTarget",
    "Target",
    "TargetOptions",
    "dem_scores",
    "dem_scores_reference",
    "mix_with_force",
    "register_target",
]
