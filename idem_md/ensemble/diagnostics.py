"""Can the weights be trusted? In numbers, and in a sentence."""

from __future__ import annotations

import math

import numpy as np

from ..callers import warn_caller
from ..errors import WeightWarning
from .samples import Samples

__all__ = ["TRUSTED_ESS", "TRUSTED_K", "advice", "pareto_k", "warn"]

# Below this the weights rest on a few samples, and an error estimated from them is itself a guess.
TRUSTED_ESS = 30
# Above this the mean of the weights converges too slowly for its error to mean much (Vehtari et al., JMLR 25, 72,
# 2024).
TRUSTED_K = 0.7
# A tail is a fifth of the weights, or 3 sqrt(n) of many; of fewer there is none to speak of.
FEWEST = 50
# Above this, samples that were drawn until they seemed enough have log Z too small by a sizeable part of its error: it
# is before a large weight that they seem so.
STOPPING_K = 0.5
# Where a smaller part than this is left of the share of effective samples that a plan was tuned to give, it is not by
# chance.
UNEXPECTED = 0.5


def pareto_k(log_weights: np.ndarray) -> float:
    """Shape k of a generalised Pareto distribution fitted to the largest weights (PSIS; Vehtari et al., 2024).

    With k > 1/2 the weights have no finite variance. Infinite if most of the largest weights are zero beside the first
    one, in double precision. NaN for fewer than 50 weights that are not zero, or if the largest ones are equal.
    """
    alive = log_weights[log_weights > -np.inf]
    if len(alive) < FEWEST or np.ptp(alive) < 1e-12:
        return math.nan
    from arviz_stats.base import array_stats

    try:
        # Not raised, a fit of nothing but zeros would say that k is small.
        with np.errstate(divide="raise", invalid="raise", over="ignore", under="ignore"):
            # It takes log likelihoods left out, the negatives of log weights.
            return float(array_stats.psislw(-alive)[1])
    except FloatingPointError:
        return math.inf
    except ValueError as error:
        if "tail values are the same" not in str(error):
            raise
        return math.nan  # as of weights of two kinds


# Share of effective samples from which more samples are what helps.
GOOD_SHARE = 0.1
REMEDIES = {"chain": "more steps", "equilibrium": "more samples (n)"}


def _remedy(ensemble: Samples) -> str:
    """Against too few effective samples."""
    if ensemble.kind != "importance":
        return REMEDIES.get(str(ensemble.kind), "more samples (n)")
    if ensemble.ess_fraction >= GOOD_SHARE:
        return "more samples (n)"
    plan = ensemble.provenance.get("plan", {})
    tuned = plan.get("ess_fraction") is not None or plan.get("density") is not None
    tune = "" if tuned else "the plan that is tuned (no kernel or last_step; idem-md tune finds one), "
    calls = "" if ensemble.provenance.get("last_step") == "plain" else ", more energy calls (last_step_calls)"
    return f"{tune}a network that is trained longer, more network evaluations (nfe){calls}, or more samples (n)"


def warn(ensemble: Samples, about: str = "") -> None:
    """`WeightWarning` if there is anything to beware of, at the line of the user's."""
    if ensemble.advice:
        warn_caller(about + ensemble.advice, WeightWarning)


def advice(ensemble: Samples) -> str:
    """What to beware of, as a sentence that says what to do; empty if there is nothing."""
    if ensemble.kind == "raw":
        return (
            "raw samples without weights: averages are off by as much as the sampler is, and nothing here says by how "
            "much; sample with weights for anything that is to be reported"
        )
    if ensemble.ess < TRUSTED_ESS:
        return (
            f"fewer than {TRUSTED_ESS} effective samples: neither averages nor their errors can be trusted; "
            f"ask for {_remedy(ensemble)}"
        )
    k = ensemble.pareto_k
    if k > TRUSTED_K:
        return (
            f"a few samples carry the weights (Pareto k = {k:.2f}, above {TRUSTED_K}): averages may be further off "
            "than their errors say; ask for more network evaluations (nfe) or more energy calls (last_step_calls)"
        )
    if k > STOPPING_K and "stopped_at_ess" in ensemble.provenance:
        return (
            f"drawn until they seemed enough (ess), and a few samples carry the weights (Pareto k = {k:.2f}, above "
            f"{STOPPING_K}): log Z may be too small by more than its error says; ask for a fixed number of samples (n)"
        )
    expected = ensemble.provenance.get("expected_ess_fraction")
    if ensemble.kind == "importance" and expected is not None and ensemble.ess_fraction < UNEXPECTED * expected:
        return (
            f"{100 * ensemble.ess_fraction:.0f}% of the samples are effective, where the plan was found to give "
            f"{100 * expected:.0f}%: errors may be larger than they seem; draw more samples, and tune the plan again "
            "(idem-md tune) if it stays so"
        )
    return ""
