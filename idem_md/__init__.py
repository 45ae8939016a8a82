"""idem-md: equilibrium samples of molecular systems with honest weights, from an energy function alone.

Names are imported when first used: OpenMM imports this package whenever it looks for force fields, and worker processes
need little of it.
"""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if _os.name == "nt":
    raise ImportError("idem_md: expected Linux or macOS, got Windows; it runs in the Windows Subsystem for Linux (WSL)")

if TYPE_CHECKING:
    from . import (
        analysis,
        ase,
        baselines,
        chains,
        checkpoint,
        diffusion,
        distillation,
        energies,
        ensemble,
        errors,
        geometry,
        measurements,
        native,
        nets,
        report,
        sampler,
        systems,
        targets,
        testing,
        training,
        tuning,
        units,
    )
    from .checkpoint import Checkpoint
    from .ensemble import WeightedEnsemble, load_ensemble
    from .errors import (
        BudgetExhausted,
        ConfigError,
        EnergyError,
        FileFormatError,
        IdemError,
        Interrupted,
        ResultError,
        UsageError,
    )
    from .progress import quiet
    from .sampler import Sampler, load_sampler
    from .systems import SYSTEMS, System, get_system
    from .training import TrainingConfig, preset, train

    __version__: str

__all__ = [
    "SYSTEMS",
    "BudgetExhausted",
    "Checkpoint",
    "ConfigError",
    "EnergyError",
    "FileFormatError",
    "IdemError",
    "Interrupted",
    "ResultError",
    "Sampler",
    "System",
    "TrainingConfig",
    "UsageError",
    "WeightedEnsemble",
    "analysis",
    "ase",
    "baselines",
    "chains",
    "checkpoint",
    "diffusion",
    "distillation",
    "energies",
    "ensemble",
    "errors",
    "geometry",
    "get_system",
    "load_ensemble",
    "load_sampler",
    "measurements",
    "native",
    "nets",
    "preset",
    "quiet",
    "report",
    "sampler",
    "systems",
    "targets",
    "testing",
    "train",
    "training",
    "tuning",
    "units",
]

# Where the names above that are no modules come from; a test compares this with what type checkers see.
_HOME = {
    "checkpoint": ("Checkpoint",),
    "ensemble": ("WeightedEnsemble", "load_ensemble"),
    "errors": (
        "BudgetExhausted",
        "ConfigError",
        "EnergyError",
        "FileFormatError",
        "IdemError",
        "Interrupted",
        "ResultError",
        "UsageError",
    ),
    "progress": ("quiet",),
    "sampler": ("Sampler", "load_sampler"),
    "systems": ("SYSTEMS", "System", "get_system"),
    "training": ("TrainingConfig", "preset", "train"),
}
_ORIGIN = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        value = version("idem-md")
    elif name in _ORIGIN:
        value = getattr(_import_module(f".{_ORIGIN[name]}", __name__), name)
    elif name in __all__:
        return _import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
