"""idem-md: equilibrium samples of molecular systems with honest weights, from an energy function alone."""

from importlib.metadata import version as _version

from . import energies, testing
from .checks import BudgetExhausted, ConfigError, EnergyError, FileFormatError, IdemError, UsageError
from .ensemble import WeightedEnsemble, load_ensemble
from .sampler import Sampler, load_sampler
from .systems import SYSTEMS, System, get_system
from .training import Checkpoint, TrainingConfig, preset, train

__version__ = _version("idem-md")

__all__ = [
    "SYSTEMS", "BudgetExhausted", "Checkpoint", "ConfigError", "EnergyError", "FileFormatError", "IdemError", "Sampler",
    "System", "TrainingConfig", "UsageError", "WeightedEnsemble", "energies", "get_system", "load_ensemble",
    "load_sampler", "preset", "testing", "train",
]
