"""Reduced potentials u = U/kT with forces; everything else is built on this contract."""

from .analytic import DoubleWell, GaussianMixture, Harmonic
from .ase import ASE
from .base import Energy, dem_scores_reference
from .batch import BatchEnergy, Recipe
from .lennard_jones import LennardJones, lennard_jones_reference
from .openmm import OpenMM, fastest_platform

__all__ = ["ASE", "BatchEnergy", "DoubleWell", "Energy", "GaussianMixture", "Harmonic", "LennardJones", "OpenMM", "Recipe",
           "dem_scores_reference", "fastest_platform", "lennard_jones_reference"]
