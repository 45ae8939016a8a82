"""From the lowest noise level to a sample, one file a way; `register_last_step` adds yours."""

from .base import LAST_STEPS, Ending, LastStep, register_last_step
from .plain import PlainLastStep

__all__ = ["LAST_STEPS", "Ending", "LastStep", "PlainLastStep", "register_last_step"]
