"""idem-md: equilibrium samples of molecular systems with honest weights, from an energy function alone.

Names are imported when first used: OpenMM imports this package whenever it looks for force fields, and worker processes
need little of it.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version

__version__ = _version("idem-md")

_HOME = {
    "checks": ("BudgetExhausted", "ConfigError", "EnergyError", "FileFormatError", "IdemError", "UsageError"),
    "ensemble": ("WeightedEnsemble", "load_ensemble"),
    "sampler": ("Sampler", "load_sampler"),
    "systems": ("SYSTEMS", "System", "get_system"),
    "training": ("Checkpoint", "TrainingConfig", "preset", "train"),
}
_MODULES = ("analysis", "ase", "baselines", "bench", "checks", "diffusion", "energies", "ensemble", "evaluate", "figures", "geometry", "kernels", "nets",
            "report", "reproduce", "sampler", "sampling", "systems", "targets", "testing", "training", "trajectory", "units")
_ORIGIN = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted((*_ORIGIN, "energies", "testing"))


def __getattr__(name: str):
    if name in _ORIGIN:
        value = getattr(_import_module(f".{_ORIGIN[name]}", __name__), name)
    elif name in _MODULES:
        value = _import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
