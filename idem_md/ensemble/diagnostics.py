"""Can the weights be trusted? In numbers, and in a sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .weighted import WeightedEnsemble

__all__ = ["TRUSTED_ESS", "TRUSTED_K", "WeightWarning", "advice", "pareto_k"]

# Below this the weights rest on a few samples, and an error estimated from them is itself a guess.
TRUSTED_ESS = 30
# Above this the mean of the weights converges too slowly for its error to mean much (Vehtari et al., JMLR 25, 72,
# 2024).
TRUSTED_K = 0.7
# A tail is a fifth of the weights; of fewer there is none to speak of.
FEWEST = 50


class WeightWarning(UserWarning):
    """Averages of these samples, or their errors, are not to be trusted."""


def pareto_k(log_weights: np.ndarray) -> float:
    """Shape k of a generalised Pareto distribution fitted to the largest weights (PSIS; Vehtari et al., 2024).

    With k > 1/2 the weights have no finite variance. NaN for fewer than 50 weights that are not zero, or for equal
    ones.
    """
    alive = log_weights[log_weights > -np.inf]
    if len(alive) < FEWEST or np.ptp(alive) < 1e-12:
        return math.nan
    from arviz_stats.base import array_stats

    return float(array_stats.psislw(-alive)[1])  # it takes log likelihoods left out, the negatives of log weights


def advice(ensemble: WeightedEnsemble) -> str:
    """What to beware of, as a sentence that says what to do; empty if there is nothing."""
    if ensemble.kind == "raw":
        return (
            "raw samples without weights: averages are off by as much as the sampler is, and nothing here says by how "
            "much; sample with weights for anything that is to be reported"
        )
    if ensemble.kind == "chain" and ensemble.ess < TRUSTED_ESS:
        return (
            f"fewer than {TRUSTED_ESS} independent samples in these chains: neither averages nor their errors can be "
            "trusted; ask for more steps"
        )
    if ensemble.ess < TRUSTED_ESS:
        return (
            f"fewer than {TRUSTED_ESS} effective samples: neither averages nor their errors can be trusted; "
            "ask for more samples (n), more network evaluations (nfe) or more energy calls (last_step_calls)"
        )
    k = ensemble.pareto_k
    if k > TRUSTED_K:
        return (
            f"a few samples carry the weights (Pareto k = {k:.2f}, above {TRUSTED_K}): averages may be further off "
            "than their errors say; ask for more network evaluations (nfe) or more energy calls (last_step_calls)"
        )
    return ""
