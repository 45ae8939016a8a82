"""Reduced potentials u = U/kT with forces; everything else is built on this contract.

`ASE` and `OpenMM` are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .analytic import DoubleWell, GaussianMixture, Harmonic
from .base import Energy
from .capabilities import (
    AnnealRun,
    ChainRun,
    DemScores,
    ExactSamples,
    HasWorkers,
    Modes,
    NativeAnnealing,
    NativeChains,
    NativeDemScores,
    Physical,
    Scalable,
    TemperingRun,
)
from .floor import Floor
from .lennard_jones import LennardJones, lennard_jones_reference
from .scaled import Scaled, bare
from .topology import COVALENT, Topology
from .twin import Twin

if TYPE_CHECKING:
    from .ase import ASE
    from .foreign import ForeignEnergy, Recipe
    from .openmm import OpenMM, fastest_platform

__all__ = [
    "ASE",
    "COVALENT",
    "AnnealRun",
    "ChainRun",
    "DemScores",
    "DoubleWell",
    "Energy",
    "ExactSamples",
    "Floor",
    "ForeignEnergy",
    "GaussianMixture",
    "Harmonic",
    "HasWorkers",
    "LennardJones",
    "Modes",
    "NativeAnnealing",
    "NativeChains",
    "NativeDemScores",
    "OpenMM",
    "Physical",
    "Recipe",
    "Scalable",
    "Scaled",
    "TemperingRun",
    "Topology",
    "Twin",
    "bare",
    "fastest_platform",
    "lennard_jones_reference",
]

_LAZY = {
    "ASE": "ase",
    "ForeignEnergy": "foreign",
    "OpenMM": "openmm",
    "Recipe": "foreign",
    "fastest_platform": "openmm",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    return value
