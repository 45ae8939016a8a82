"""What can be measured on ensembles: observables, distributions, distances, and the protocols of published numbers."""

from .basins import FULL_TURN
from .bootstrap import bootstrap
from .chemistry import Departure, departures
from .coverage import Coverage, Minima, coverage, minima
from .dihedrals import is_torsion, torsion_atoms, torsion_values, torsions_of, turned
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
from .distributions import (
    Curve,
    distribution,
    energy_distribution,
    free_energy_profile,
    radial_distribution,
    require_ess,
)
from .findings import ANALYSES, Finding, analyse, register_analysis
from .maps import FreeEnergyMap, free_energy_map
from .observables import OBSERVABLES, Observable, radius_of_gyration, register_observable
from .protocols import Reference, exploded, raw_metrics, weighted_metrics
from .steinhardt import steinhardt
from .thermodynamics import heat_capacity, potential_energies, reweighted, trap_energies

__all__ = [
    "ANALYSES",
    "Coverage",
    "Curve",
    "Departure",
    "FULL_TURN",
    "Finding",
    "FreeEnergyMap",
    "Minima",
    "OBSERVABLES",
    "Observable",
    "Reference",
    "aligned_distance",
    "aligned_w2",
    "analyse",
    "bootstrap",
    "coverage",
    "departures",
    "distribution",
    "energy_distribution",
    "energy_w2",
    "exploded",
    "free_energy_map",
    "free_energy_profile",
    "heat_capacity",
    "is_torsion",
    "minima",
    "mode_weights",
    "negative_log_likelihood",
    "pair_distances",
    "plain_w2",
    "potential_energies",
    "radial_distribution",
    "radius_of_gyration",
    "raw_metrics",
    "register_analysis",
    "register_observable",
    "require_ess",
    "reweighted",
    "steinhardt",
    "torsion_atoms",
    "torsion_values",
    "torsions_of",
    "trap_energies",
    "total_variation",
    "turned",
    "weighted_metrics",
]
