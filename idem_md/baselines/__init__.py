"""What a user would run otherwise: Markov chains on the same energy, with the same outputs; one engine a file."""

from .ase import AseEngine
from .base import ENGINES, Engine, EngineSamples, reference_engine, register_engine
from .exact import ExactEngine
from .mala import MalaEngine
from .openmm import OpenMMEngine
from .pt import TemperingEngine

__all__ = [
    "ENGINES",
    "AseEngine",
    "EngineSamples",
    "Engine",
    "ExactEngine",
    "MalaEngine",
    "OpenMMEngine",
    "TemperingEngine",
    "reference_engine",
    "register_engine",
]
