"""What can be measured on ensembles: observables, distances, and the protocols of published numbers."""

from .coverage import Coverage, Minima, coverage, minima
from .distances import (
    aligned_distance,
    aligned_w2,
    energy_w2,
    mode_weights,
    negative_log_likelihood,
    pair_distances,
    plain_w2,
    total_variation,
)
from .observables import OBSERVABLES, Observable, radius_of_gyration, register_observable
from .protocols import Reference, exploded, raw_metrics, weighted_metrics
from .thermodynamics import heat_capacity

__all__ = [
    "Coverage",
    "Minima",
    "OBSERVABLES",
    "Observable",
    "Reference",
    "aligned_distance",
    "aligned_w2",
    "coverage",
    "energy_w2",
    "exploded",
    "heat_capacity",
    "minima",
    "mode_weights",
    "negative_log_likelihood",
    "pair_distances",
    "plain_w2",
    "radius_of_gyration",
    "raw_metrics",
    "register_observable",
    "total_variation",
    "weighted_metrics",
]
