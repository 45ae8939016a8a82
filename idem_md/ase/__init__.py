"""For ASE scripts: the native Lennard-Jones cluster as a calculator, and weighted sampling as a dynamics object."""

from .calculator import LennardJonesCluster, NativePotential
from .dynamics import BoltzmannSampler

__all__ = ["BoltzmannSampler", "LennardJonesCluster", "NativePotential"]
