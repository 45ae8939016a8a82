"""From the lowest noise level to a sample, one file a way; `register_last_step` adds yours."""

from .annealed import AnnealedLastStep
from .base import LAST_STEPS, LastStep, LastStepResult, log_ratio, register_last_step
from .by_twin import ByTwinLastStep
from .moved import MovedLastStep
from .nested import NestedLastStep
from .plain import PlainLastStep

__all__ = [
    "LAST_STEPS",
    "AnnealedLastStep",
    "ByTwinLastStep",
    "LastStepResult",
    "LastStep",
    "MovedLastStep",
    "NestedLastStep",
    "PlainLastStep",
    "log_ratio",
    "register_last_step",
]
