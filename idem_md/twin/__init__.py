"""Twins of expensive potentials: fitted to some thousand energy calls, wrong only where weights can tell."""

from .files import twin_of, twin_table, twin_tensors
from .fit import FitResult, FitSettings, Frames, fit
from .judge import TwinError, judged, twin_error
from .made import MadeTwin, Round, TwinSettings, forget_twin, has_twin, load_made
from .make import make_twin
from .record import Recorded

__all__ = [
    "FitResult",
    "FitSettings",
    "Frames",
    "MadeTwin",
    "Recorded",
    "Round",
    "TwinError",
    "TwinSettings",
    "fit",
    "forget_twin",
    "has_twin",
    "judged",
    "load_made",
    "make_twin",
    "twin_error",
    "twin_of",
    "twin_table",
    "twin_tensors",
]
