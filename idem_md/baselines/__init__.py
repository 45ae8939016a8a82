"""What a user would run otherwise: Markov chains on the same energy, with the same outputs; one engine a file."""

from .base import ENGINES, Draws, Engine, reference_engine, register_engine
from .exact import ExactEngine
from .mala import MalaEngine
from .pt import TemperingEngine

__all__ = [
    "ENGINES",
    "Draws",
    "Engine",
    "ExactEngine",
    "MalaEngine",
    "TemperingEngine",
    "reference_engine",
    "register_engine",
]
