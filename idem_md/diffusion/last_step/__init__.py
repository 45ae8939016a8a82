"""From the lowest noise level to a sample, one file a way; `register_last_step` adds yours."""

from .annealed import AnnealedLastStep
from .base import LAST_STEPS, LastStep, LastStepResult, energies_where_finite, log_ratio, register_last_step
from .moved import MovedLastStep
from .nested import NestedLastStep, choose
from .plain import PlainLastStep

__all__ = [
    "LAST_STEPS",
    "AnnealedLastStep",
    "LastStepResult",
    "LastStep",
    "MovedLastStep",
    "NestedLastStep",
    "PlainLastStep",
    "choose",
    "energies_where_finite",
    "log_ratio",
    "register_last_step",
]
