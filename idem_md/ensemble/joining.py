"""Ensembles that were drawn apart, put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..provenance import Provenance, bare

if TYPE_CHECKING:
    from .weighted import WeightedEnsemble

__all__ = ["concatenate"]

# Of independent samples; frames of a chain, or resampled ones, know of each other.
JOINABLE = ("importance", "equilibrium", "raw")
# What must be the same for weights to have one zero.
SAME = ("method", "parameters", "checkpoint", "plan", "nfe")
ARRAYS = ("positions", "energies", "log_weights")
SUMMED = ("energy_calls", "seconds", "failed")


def _facts(e: WeightedEnsemble) -> dict[str, str]:
    """As JSON, in which tuples are lists whether they have been in a file or not."""
    facts: dict[str, Any] = {"system": e.system.describe(), "kind": e.kind}
    facts |= {key: e.provenance.get(key) for key in SAME}
    return {key: json.dumps(value, sort_keys=True, default=bare) for key, value in facts.items()}


def _seeds(e: WeightedEnsemble) -> list[int]:
    p = e.provenance
    return p["seeds"] if "seeds" in p else [p["seed"]] if "seed" in p else []


def concatenate(parts: Sequence[WeightedEnsemble]) -> WeightedEnsemble:
    """See `WeightedEnsemble.concatenate`."""
    parts = list(parts)
    if not parts:
        raise UsageError("parts: expected one ensemble or more, got none")
    first = parts[0]
    if first.kind not in JOINABLE:
        raise UsageError(f"parts: expected ensembles of the kinds {', '.join(JOINABLE)}, got {first.kind!r}")
    facts = _facts(first)
    for k, other in enumerate(parts):
        for key, theirs in _facts(other).items():
            if theirs != facts[key]:
                raise UsageError(f"parts: expected the {key} of part 0 in part {k}, {facts[key]}, got {theirs}")
    seeds: list[int] = [seed for e in parts for seed in _seeds(e)]
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise UsageError(f"parts: expected different seeds, got {twice[0]} twice: the same samples again")
    records: list[dict[str, Any]] = [dict(e.provenance) for e in parts]
    record = {k: v for k, v in records[0].items() if k not in ("seed", "seeds")}
    record |= {key: sum(r.get(key, 0) for r in records) for key in SUMMED if key in record}
    x, u, log_w = (np.concatenate([getattr(e, name) for e in parts]) for name in ARRAYS)
    whole = Provenance(**record, seeds=seeds)  # type: ignore[typeddict-item]
    return type(first)(x, u, log_w, first.system, whole, first.kind)
