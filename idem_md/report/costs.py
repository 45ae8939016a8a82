"""What effective samples cost, with the training and without it."""

from __future__ import annotations

from typing import Any

from ..ensemble import WeightedEnsemble
from ..provenance import finite_or_none

__all__ = ["SPREAD", "costs"]

# Numbers of samples that the training is spread over.
SPREAD = (10_000, 1_000_000)


def costs(e: WeightedEnsemble) -> dict[str, Any]:
    """Seconds, network evaluations and energy calls of an ensemble, and what an effective sample takes of them.

    Returns
    -------
    dict
        seconds, nfe, energy_calls, hardware, training (seconds, energy_calls; None if there was none or it is not
        known), ess_per_second, ess_per_energy_call, and both with the training spread over 10,000 and 1,000,000 samples
        (``spread``); None where something is not known.
    """
    p = e.provenance
    seconds, calls, training = p.get("seconds"), p.get("energy_calls"), p.get("training")
    spread = {}
    for n in SPREAD:
        share = 0 if training is None else len(e) / n
        spread[str(n)] = {
            "ess_per_second": _rate(e.ess, seconds, share, training, "seconds"),
            "ess_per_energy_call": _rate(e.ess, calls, share, training, "energy_calls"),
        }
    return {
        "seconds": seconds,
        "nfe": p.get("nfe"),
        "energy_calls": calls,
        "hardware": p.get("hardware"),
        "training": training,
        "ess_per_second": _rate(e.ess, seconds),
        "ess_per_energy_call": _rate(e.ess, calls),
        "spread": spread,
    }


def _rate(ess: float, cost: float | None, share: float = 0, training=None, key: str = "") -> float | None:
    """Effective samples a unit of cost, a share of the training's included."""
    if not cost:
        return None
    return finite_or_none(ess / (cost + (share * training[key] if training else 0)))
