"""What a user would run otherwise: Markov chains on the same energy, with the same outputs."""

from .exact import run_exact
from .mala import run_mala
from .tempering import run_tempering

__all__ = ["ENGINES", "run_exact", "run_mala", "run_tempering"]

# Name -> function (system, n, n_steps, seed) -> WeightedEnsemble.
ENGINES = {"mala": run_mala, "pt": run_tempering, "exact": run_exact}
