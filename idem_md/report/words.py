"""Comparisons in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ensemble import WeightedEnsemble

__all__ = ["difference", "sentences"]

# Standard errors within which two numbers agree, and beyond which they do not.
AGREE, DISAGREE = 2.5, 4.0
# Ratios to the noise floor up to which a distance is as small as these samples can tell.
FLOOR = 1.5


def sentences(ensembles: Mapping[str, WeightedEnsemble], metrics: Mapping, floors: Mapping[str, Mapping]) -> list[str]:
    """What to make of ensembles, the last of which is the reference: first the verdict on each of the others, then what
    each is worth by itself."""
    *labels, last = ensembles
    verdicts = [_against(k, ensembles[k], last, ensembles[last], metrics[k], floors[k]) for k in labels]
    return verdicts + [_about(label, e) for label, e in ensembles.items()]


def _about(label: str, e: WeightedEnsemble) -> str:
    if e.kind == "raw":
        return f"{label}: {e.advice}."
    worth = f"{label}: {len(e)} samples are worth {e.ess:.0f} independent ones"
    if twin := e.provenance.get("twin_error"):
        worth += (
            f", {twin['ess_fraction'] * len(e):.0f} if the twin were the potential, from which it is "
            f"{twin['spread']:.2f} kT apart"
        )
    if e.kind == "chain":
        worth += ", as frames of chains are correlated; modes that no chain visited are missing and not counted"
    if e.advice:
        return f"{worth}. Beware: {e.advice}."
    if not math.isnan(e.pareto_k):
        worth += (
            f"; the weights show no heavy tail (Pareto k {e.pareto_k:.2f}, up to 0.7); modes that no path reached are "
            "not counted"
        )
    return f"{worth}."


def difference(e: WeightedEnsemble, reference: WeightedEnsemble) -> tuple[float, float]:
    """Difference of mean energies in kT, and in standard errors (NaN if either error is not known)."""
    (a, da), (b, db) = e.mean_energy, reference.mean_energy
    apart, error = abs(a - b), math.hypot(da, db)
    return apart, apart / error if error else 0.0


def _against(label: str, e: WeightedEnsemble, last: str, reference: WeightedEnsemble, metrics, floors) -> str:
    apart, z = difference(e, reference)
    if math.isnan(z):
        said = f"the mean energies of {label} and {last} are {apart:.2f} kT apart, with an error that is not known"
    else:
        verdict = "agree" if z <= AGREE else "differ" if z > DISAGREE else "hardly agree"
        said = f"the mean energies of {label} and {last} {verdict}: {apart:.2f} kT apart, {z:.1f} standard errors"
    kind = "weighted" if metrics["weighted"] else "raw"
    distance, floor = metrics[kind].get("energy_w2"), floors[kind].get("energy_w2")
    if distance is None or not floor:
        return f"{said[0].upper()}{said[1:]}."
    near = "as close as these samples can tell" if distance <= FLOOR * floor else "further apart than chance"
    numbers = f"(E-W2 {distance:.2f}, by chance {floor:.2f} kT)"
    return f"{said[0].upper()}{said[1:]}; their energy distributions are {near} {numbers}."
