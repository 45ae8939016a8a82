"""Ensembles that were drawn apart, put together."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..callers import warn_caller
from ..checks import energies_agree
from ..errors import UsageError, WeightWarning
from ..provenance import Provenance, bare
from ..rows import Rows
from ..seeds import Run, runs_of, stream_of
from .samples import Fields, Samples

if TYPE_CHECKING:
    from ..systems import System

__all__ = ["concatenate", "next_chunk", "refuse_other_potential"]

# Kinds of independent samples; frames of a chain, or resampled ones, know of each other.
JOINABLE = ("importance", "equilibrium", "raw")
# What must be the same for weights to have one zero.
SAME = ("method", "parameters", "checkpoint", "plan", "nfe", "twin_parameters")
# How far energies and root mean square forces of one potential may be apart, in parts.
ROUNDING, OF_FORCES = 2e-5, 1e-3
# Missing shards that are named.
NAMED = 20
SCALARS = ("energies", "log_weights")
SUMMED = ("energy_calls", "twin_calls", "seconds", "failed")


def _facts(system: System, kind: str | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    # The potential is compared by its parameters: older files do not describe it.
    described = {key: value for key, value in system.describe().items() if key != "potential"}
    facts: dict[str, Any] = {"system": described, "kind": kind}
    facts |= {key: provenance.get(key) for key in SAME}
    if isinstance(facts["plan"], Mapping):
        # Version 0.1 had neither in the plan, both are compared beside it; and it called candidates draws.
        plan = {key: value for key, value in facts["plan"].items() if key not in ("nfe", "weighted")}
        plan["tuned"] = None  # what it should give is not what it does
        plan.setdefault("candidate_paths", 1)
        if isinstance(options := plan.get("options"), Mapping):
            plan["options"] = {"candidates" if key == "draws" else key: value for key, value in options.items()}
        facts["plan"] = plan
    return facts


def _text(value: Any) -> str:
    """The value as JSON, in which tuples are lists whether they have been in a file or not."""
    return json.dumps(value, sort_keys=True, default=bare)


class _Known(NamedTuple):
    """What a potential is known by."""

    geometry: str
    energy: float
    force: float

    def agrees(self, other: _Known) -> bool:
        """Whether they may be one; those of different geometries may."""
        if self.geometry != other.geometry:
            return True
        of_forces = OF_FORCES * abs(self.force) + 1e-2
        near = bool(energies_agree(self.energy, other.energy, ROUNDING))
        return near and abs(self.force - other.force) <= of_forces

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> _Known | None:
        """None for one of an earlier version, or whose energy is no number there."""
        try:
            known = parameters["known"]
            return cls(str(known["geometry"]), float(known["energy_kT"]), float(known["force_kT"]))
        except (KeyError, TypeError, ValueError):
            return None


def refuse_other_potential(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Compare the parameters of two energies; where they were evaluated does not matter.

    Raises
    ------
    UsageError
        They differ, or give one geometry different energies.
    """
    mine, other = (_text({k: v for k, v in p.items() if k not in ("platform", "known")}) for p in (ours, theirs))
    if mine != other:
        raise UsageError(f"{name}: expected the same parameters, {mine}, got {other}")
    a, b = _Known.of(ours), _Known.of(theirs)
    if a and b and not a.agrees(b):
        raise UsageError(
            f"{name}: expected the same potential, it gives {b.energy:.9g} kT and forces of {b.force:.4g} where the "
            f"other gave {a.energy:.9g} and {a.force:.4g}"
        )


def _refuse_others(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for key, expected in ours.items():
        if key == "parameters":
            refuse_other_potential(name, expected or {}, theirs[key] or {})
        elif (mine := _text(expected)) != (other := _text(theirs[key])):
            raise UsageError(f"{name}: expected the same {key}, {mine}, got {other}")


def next_chunk(known: Samples, system: System, kind: str, record: Mapping[str, Any]) -> int:
    """The first chunk with which samples of that record go on where an ensemble ends.

    Raises
    ------
    UsageError
        They would not belong together, or the chunks that it says it has are not its samples.
    """
    _refuse_others("ensemble", _facts(system, kind, record), _facts(known.system, known.kind, known.provenance))
    there = [(k, m) for seed, k, m, _ in _shards(0, known) if seed == record["seed"]]
    if there:
        raise UsageError(
            f"seed: expected another than {record['seed']}, of which other shards may come yet, beside "
            + ", ".join(f"{k}/{m}" for k, m in there)
        )
    return max((part.chunk + 1 for part in _parts(0, known) if part.seed == record["seed"]), default=0)


class _Part(NamedTuple):
    """Rows of one of the ensembles that were drawn by one stream."""

    seed: int
    chunk: int
    owner: int
    rows: slice


def _parts(k: int, e: Samples) -> list[_Part]:
    """The parts of an ensemble, one for each chunk that its provenance names; none, if it names none."""
    try:
        runs = [Run(*map(operator.index, run)) for run in e.provenance.get("chunks", ())]
        n = sum(run.size * len(run.indices) for run in runs)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"parts: expected chunks in the provenance of part {k}, they are damaged ({error})") from None
    if runs and (n != len(e) or min(run.size for run in runs) < 1):
        raise UsageError(f"parts: expected the {n} samples that the provenance of part {k} speaks of, got {len(e)}")
    parts, start = list[_Part](), 0
    for run in runs:
        for index in run.indices:
            parts.append(_Part(run.seed, index, k, slice(start, start + run.size)))
            start += run.size
    return parts


def _seeds(e: Samples) -> list[int]:
    p = e.provenance
    return p["seeds"] if "seeds" in p else [p["seed"]] if "seed" in p else []


def _refuse_repeats(numbers: Iterable[tuple[int, str]]) -> None:
    """Raise `UsageError` where random numbers, given with what to call them, are used twice."""
    seen: dict[int, str] = {}
    for number, name in numbers:
        if number in seen:
            raise UsageError(
                f"parts: expected different random numbers, got {name} beside {seen[number]}: the same samples again"
            )
        seen[number] = name


def _shards(k: int, e: Samples) -> list[tuple[int, ...]]:
    """The (seed, k, m, n) that its provenance names."""
    try:
        shards = [tuple(map(operator.index, shard)) for shard in e.provenance.get("shards", ())]
    except TypeError:
        shards = [()]
    if not all(len(shard) == 4 and 0 <= shard[1] < shard[2] <= shard[3] for shard in shards):
        raise UsageError(f"parts: expected shards in the provenance of part {k}, they are damaged")
    return shards


def _incomplete(shards: Iterable[Sequence[int]]) -> list[list[int]]:
    """Those [seed, k, m, n] of which there are not all m; warns of what is not there."""
    groups: dict[tuple[int, ...], set[int]] = {}
    for seed, k, m, n in shards:
        groups.setdefault((seed, m, n), set()).add(k)
    groups = {key: there for key, there in groups.items() if len(there) < key[1]}
    for (seed, m, n), there in groups.items():
        some = list(islice((f"{k}/{m}" for k in range(m) if k not in there), NAMED))
        missing = ", ".join(some) + ", ..." * (m - len(there) > NAMED)
        warn_caller(
            f"parts: shards {missing} of {n} samples with seed {seed} are not there; if they are missing for what was "
            "in them, averages and log Z are wrong without them",
            WeightWarning,
        )
    return [[seed, k, m, n] for (seed, m, n), there in groups.items() for k in sorted(there)]


def concatenate(ensembles: Sequence[Samples]) -> Fields:
    """See `WeightedEnsemble.concatenate`."""
    ensembles = list(ensembles)
    if not ensembles:
        raise UsageError("parts: expected one ensemble or more, got none")
    first = ensembles[0]
    if first.kind not in JOINABLE:
        raise UsageError(f"parts: expected ensembles of the kinds {', '.join(JOINABLE)}, got {first.kind!r}")
    facts = [_facts(e.system, e.kind, e.provenance) for e in ensembles]
    for k, theirs in enumerate(facts):
        _refuse_others(f"parts: part {k}", facts[0], theirs)
    seeds = [seed for e in ensembles for seed in _seeds(e)]
    records: list[dict[str, Any]] = [dict(e.provenance) for e in ensembles]
    record = {k: v for k, v in records[0].items() if k not in ("seed", "seeds", "chunks", "shards", "twin_error")}
    if shards := _incomplete([shard for k, e in enumerate(ensembles) for shard in _shards(k, e)]):
        record["shards"] = shards
    record |= {key: sum(r.get(key, 0) for r in records) for key in SUMMED if key in record}
    if stopped := [r["stopped_at_ess"] for r in records if "stopped_at_ess" in r]:
        record["stopped_at_ess"] = stopped[-1]
    split = [_parts(k, e) for k, e in enumerate(ensembles)]
    if all(split):
        # In the order in which one process would have drawn them.
        seeds = list(dict.fromkeys(seeds))
        parts = sorted((p for some in split for p in some), key=lambda p: (seeds.index(p.seed), p.chunk))
        names = ((stream_of(p.seed, p.chunk), f"seed {p.seed}, chunk {p.chunk} in part {p.owner}") for p in parts)
        _refuse_repeats(names)
        record["chunks"] = [list(run) for run in runs_of((p.seed, p.chunk, p.rows.stop - p.rows.start) for p in parts)]
    else:
        parts = [_Part(0, 0, k, slice(0, len(e))) for k, e in enumerate(ensembles)]
        _refuse_repeats((seed, f"seed {seed}") for seed in seeds)
    record |= {"seed": seeds[0]} if len(seeds) == 1 else {"seeds": seeds}
    x = Rows(first.positions.shape[1:])
    for p in parts:
        x.append(ensembles[p.owner].positions[p.rows])
    u, log_w = (np.concatenate([getattr(ensembles[p.owner], name)[p.rows] for p in parts]) for name in SCALARS)
    return Fields(x.array(), u, log_w, first.system, cast(Provenance, record), first.kind)
