"""Weighted samples: estimates with errors, files, and views for MDTraj and ASE."""

from .estimators import MIN_ESS_FOR_ERRORS, Source
from .files import check_writable
from .weighted import KINDS, WeightedEnsemble, load_ensemble

__all__ = ["KINDS", "MIN_ESS_FOR_ERRORS", "Source", "WeightedEnsemble", "check_writable", "load_ensemble"]
