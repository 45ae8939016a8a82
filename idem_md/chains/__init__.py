"""Markov chains on an energy, by whatever route it offers: native code, or plain torch over its contract.

The rules, the same on every route. Dtype: a chain runs in the dtype of its start and returns it; native code serves
float32. Cost: a run of n steps is n + 1 energy calls a chain, the start being evaluated anew (positions may have been
changed since); all are asked of the budget before the first is made.
"""

from .adaptation import equilibrate, first_step, tune_step
from .annealing import Schedule, paced_schedule, run_annealing, tuned_schedule
from .exchange import Exchange
from .mala import MALA, Restraint, run_mala
from .move import ChainState, Move
from .posterior import PosteriorMean, posterior_mala, posterior_mean
from .relaxation import quench, relax
from .starts import finite_start, geometry_start, noise_start
from .tempering import Tempering, run_tempering
from .torsion import Torsion
from .trial import TrialMove, WithTrials

__all__ = [
    "MALA",
    "Move",
    "ChainState",
    "Exchange",
    "PosteriorMean",
    "Restraint",
    "Schedule",
    "Tempering",
    "Torsion",
    "TrialMove",
    "WithTrials",
    "equilibrate",
    "finite_start",
    "first_step",
    "geometry_start",
    "noise_start",
    "posterior_mala",
    "posterior_mean",
    "quench",
    "relax",
    "paced_schedule",
    "run_annealing",
    "run_mala",
    "run_tempering",
    "tune_step",
    "tuned_schedule",
]
