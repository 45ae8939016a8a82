"""Reduced potentials u = U/kT with forces; everything else is built on this contract."""

from .analytic import DoubleWell, Harmonic
from .base import Energy, dem_scores_reference
from .lennard_jones import LennardJones, lennard_jones_reference

__all__ = ["DoubleWell", "Energy", "Harmonic", "LennardJones", "dem_scores_reference", "lennard_jones_reference"]
