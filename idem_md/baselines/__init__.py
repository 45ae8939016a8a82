"""What a user would run otherwise: Markov chains on the same energy, with the same outputs."""

from .mala import ENGINES, run_mala

__all__ = ["ENGINES", "run_mala"]
