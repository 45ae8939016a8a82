"""What is raised on purpose: one line that a user can act on."""

from __future__ import annotations

__all__ = [
    "Advice",
    "BudgetExhausted",
    "ConfigError",
    "EnergyError",
    "FileFormatError",
    "IdemError",
    "Interrupted",
    "MissingPackage",
    "ResultError",
    "TrainingWarning",
    "UsageError",
    "WeightWarning",
]


class IdemError(Exception):
    """Base of all errors raised on purpose; its message is one line a user can act on."""


class Advice(UserWarning):
    """Base of all warnings meant for the user, on the command line, too."""


class TrainingWarning(Advice):
    """A run goes on, but not as it would have."""


class WeightWarning(Advice):
    """Averages of these samples, or their errors, are not to be trusted."""


class UsageError(IdemError, ValueError):
    """An argument is not what the function accepts."""


class MissingPackage(UsageError):
    """An optional package that a feature needs is not installed."""


class ConfigError(IdemError, ValueError):
    """A configuration file or table is malformed."""


class FileFormatError(IdemError, ValueError):
    """A file is missing, truncated, corrupt, or not ours."""


class ResultError(IdemError, ArithmeticError):
    """The arguments were fine, the outcome is of no use: every sample exploded, every weight is zero, and the like."""


class EnergyError(IdemError, ArithmeticError):
    """An energy or force is not a number, or its evaluation failed.

    Attributes
    ----------
    index : int or None
        The first configuration of the batch that failed.
    """

    def __init__(self, message: str, index: int | None = None):
        super().__init__(message)
        self.index = index


class BudgetExhausted(IdemError):
    """A limit on energy calls or on time would be exceeded by what comes next."""


class Interrupted(IdemError):
    """The program was asked to stop before there was anything to keep."""
