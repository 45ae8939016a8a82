"""Weighted samples: estimates with errors, files, and views for MDTraj and ASE."""

from ..errors import WeightWarning
from .diagnostics import TRUSTED_ESS, TRUSTED_K, warn
from .estimators import MIN_ESS_FOR_ERRORS, Source, WeightSums, correlation_factor, effective_size, vanishing
from .files import READABLE, check_writable
from .forward import ForwardWeights
from .joining import next_chunk, refuse_other_potential
from .weighted import KINDS, WeightedEnsemble, load_ensemble

__all__ = [
    "KINDS",
    "MIN_ESS_FOR_ERRORS",
    "READABLE",
    "TRUSTED_ESS",
    "TRUSTED_K",
    "ForwardWeights",
    "Source",
    "WeightSums",
    "WeightWarning",
    "WeightedEnsemble",
    "check_writable",
    "correlation_factor",
    "effective_size",
    "load_ensemble",
    "next_chunk",
    "refuse_other_potential",
    "vanishing",
    "warn",
]
