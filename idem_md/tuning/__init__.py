"""Tuning of a trained sampler: heads on its network, and plans by which it samples."""

from .elastic_network import add_elastic_network
from .heads import HEAD_TRAININGS, HeadTraining, register_head_training
from .levels import tune_expensive_plan
from .plans import default_nfes, tune_plans
from .tune import evenly_spread, tune, with_tuning_cost

__all__ = [
    "HEAD_TRAININGS",
    "HeadTraining",
    "add_elastic_network",
    "default_nfes",
    "evenly_spread",
    "register_head_training",
    "tune",
    "tune_expensive_plan",
    "tune_plans",
    "with_tuning_cost",
]
