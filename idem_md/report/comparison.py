"""Comparison of ensembles, written as a set of files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..analysis.protocols import ENERGY_SAMPLES, PROTOCOL, Reference, raw_metrics, weighted_metrics
from ..checks import energies_agree
from ..ensemble import WeightedEnsemble, effective_size, refuse_other_potential
from ..errors import ResultError, UsageError
from ..files import atomic_set
from ..provenance import finite_or_none
from .costs import costs
from .figures import plot_histograms, plot_weights
from .markdown import table
from .page import page
from .words import difference, sentences

__all__ = ["check_same_potential", "compare"]

# Configurations of each whose energies are compared.
FRAMES = 20


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Results that are of no use say whose they are."""
    try:
        yield
    except ResultError as error:
        raise ResultError(f"{label}: {error}") from None


def _metrics(label: str, ensemble: WeightedEnsemble, reference: Reference, aligned: bool) -> dict[str, Any]:
    """Against the reference: raw, the samples as they came, and weighted if they have weights."""
    with _naming(label):
        raw = raw_metrics(ensemble.positions, ensemble.energies, reference, aligned=aligned, plain=False)
        weighted = {} if ensemble.kind == "raw" else weighted_metrics(ensemble, reference)
    kept = ("energy_w2", "total_variation", "aligned_w2")
    return {
        "exploded": raw["exploded"],
        "raw": {key: raw[key] for key in kept if key in raw},
        "weighted": weighted,
    }


def _summary(label: str, e: WeightedEnsemble, reference: WeightedEnsemble) -> dict[str, Any]:
    with _naming(label):
        mean, err = e.mean_energy
    finite = e.energies[np.isfinite(e.energies)]
    return {
        "n": len(e),
        "ess": finite_or_none(e.ess),
        "ess_fraction": finite_or_none(e.ess_fraction),
        "mean_energy": mean,
        "mean_energy_err": finite_or_none(err),
        "standard_errors_apart": None if e is reference else finite_or_none(difference(e, reference)[1]),
        "raw_median_energy": finite_or_none(np.median(e.energies)),
        "raw_sd_energy": float(finite.std()),
        "log_z": finite_or_none(e.log_z),
        "log_z_err": finite_or_none(e.log_z_err),
        "cost": costs(e),
    }


def _floors(reference: Reference, aligned: bool) -> dict[str, float]:
    """The metrics between two halves of the reference, one of which is taken as raw samples: what chance gives."""
    half = len(reference.energies) // 2
    if half < 2:
        return {}
    order = np.random.default_rng(0).permutation(len(reference.energies))
    one, other = (Reference(*(a[part] for a in reference)) for part in (order[:half], order[half:]))
    other = other._replace(weights=other.weights / other.weights.sum())
    x, u, w = one
    if np.ptp(w) > 0:  # raw samples have no weights
        pick = np.random.default_rng(1).choice(half, half, p=w / w.sum())
        x, u = x[pick], u[pick]
    found = raw_metrics(x, u, other, aligned=aligned, plain=False)
    return {key: found[key] for key in ("energy_w2", "total_variation", "aligned_w2") if key in found}


def _by_chance(
    floors: Mapping[str, float], e: WeightedEnsemble, reference: WeightedEnsemble
) -> dict[str, dict[str, float]]:
    """What chance gives an ensemble, raw and weighted: distances of the reference's halves, scaled from the independent
    samples that those have to those that are compared. Distances of distributions fall with the square root of their
    number; aligned W2 hardly falls."""
    half = effective_size(reference.weights) / 2
    of_halves = 1 / min(half, ENERGY_SAMPLES) + 1 / half
    independent = e.ess / len(e) if e.kind in ("chain", "resampled") else 1.0
    sizes = {"raw": min(len(e), ENERGY_SAMPLES) * independent, "weighted": e.ess}
    found: dict[str, dict[str, float]] = {"raw": {}, "weighted": {}}
    for kind, size in sizes.items():
        if not size > 0:  # raw samples have no effective number
            continue
        scale = math.sqrt((1 / size + 1 / reference.ess) / of_halves)
        found[kind] = {key: value * (1 if key == "aligned_w2" else scale) for key, value in floors.items()}
    return found


def check_same_potential(ensembles: Mapping[str, WeightedEnsemble]) -> None:
    """Refuse ensembles of different atoms, units or potentials; names do not matter.

    Energies that ensembles carry are compared with those that the potential of one of them, if it is known, gives for a
    few of their configurations.
    """
    (first, one), *others = ensembles.items()
    for label, e in others:
        for what, mine, theirs in (
            ("atoms", one.system.elements, e.system.elements),
            ("dimensions", one.positions.shape[1:], e.positions.shape[1:]),
            ("temperatures", one.system.units.temperature_kelvin, e.system.units.temperature_kelvin),
            ("units of length", one.system.units.length_angstrom, e.system.units.length_angstrom),
        ):
            if mine != theirs:
                raise UsageError(
                    f"compare: expected ensembles of the same {what}, got {mine} and {theirs} ({first}, {label})"
                )
    known = [e for e in ensembles.values() if e.system.has_energy]
    if not known:
        for label, e in others:
            refuse_other_potential(f"compare: {label}", *(o.provenance.get("parameters") or {} for o in (one, e)))
        return
    energy = known[0].system.energy()
    for label, e in ensembles.items():
        some = np.flatnonzero(e.alive)[:FRAMES]
        u = energy(torch.from_numpy(e.positions[some]))[0].numpy()
        off = ~energies_agree(u, e.energies[some])
        if off.any():
            k = int(off.argmax())
            raise UsageError(
                f"compare: expected ensembles of one potential, that of {known[0].system.name!r} gives {u[k]:.6g} kT "
                f"for sample {some[k]} of {label}, which says {e.energies[some[k]]:.6g}"
            )


def compare(
    ensembles: Mapping[str, WeightedEnsemble],
    out: Path,
    aligned: bool = True,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Compare ensembles with the last one as the reference, and write a report.

    ``index.html`` is all of it in one file that opens without a network; ``table.md``, ``summary.json``,
    ``histograms.png`` and, if there are weights, ``weights.png`` are its parts.

    Parameters
    ----------
    ensembles : dict
        Two to four, by label, of one potential at one temperature.
    out : Path
        Folder, made if missing; the files are written all or none.
    aligned : bool
        Also compute aligned W2 (about a minute for 2000 clusters of 13 atoms).
    progress : callable (str), optional
        Told what is done next.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    UsageError
        Fewer than two ensembles or more than four, different potentials, temperatures or atoms, a raw reference, or a
        folder that cannot be written.
    ResultError
        Every sample of one has exploded, or weighs nothing.
    """
    if not 2 <= len(ensembles) <= 4:
        raise UsageError(f"compare: expected two to four ensembles, got {len(ensembles)}")
    check_same_potential(ensembles)
    *labels, last = ensembles
    if ensembles[last].kind == "raw":
        raise UsageError(f"compare: expected the last one, the reference, to be more than raw samples, got {last!r}")
    with _naming(last):
        reference = Reference.of(ensembles[last])
    metrics = {}
    for label in labels:
        progress(f"distances between {label} and {last}")
        metrics[label] = _metrics(label, ensembles[label], reference, aligned)
    progress(f"distances between halves of {last}")
    halves = _floors(reference, aligned)
    floors = {label: _by_chance(halves, ensembles[label], ensembles[last]) for label in labels}
    summary = {
        "system": ensembles[last].system.name,
        "kT": ensembles[last].system.kT,
        "reference": last,
        "sentences": sentences(ensembles, metrics, floors),
        "protocol": {k: v for k, v in PROTOCOL.items() if k != "plain_w2"},
        "ensembles": {label: _summary(label, e, ensembles[last]) for label, e in ensembles.items()},
        "metrics": metrics,
        "floors": floors,
    }
    weighted = [e for e in ensembles.values() if e.kind == "importance"]
    names = ["index.html", "summary.json", "table.md", "histograms.png", *(["weights.png"] if weighted else [])]
    progress("writing the report")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_set({name: out / name for name in names}) as new:
            new["index.html"].write_text(page(ensembles, summary), encoding="utf-8")
            new["summary.json"].write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            new["table.md"].write_text(table(summary), encoding="utf-8")
            plot_histograms(ensembles, new["histograms.png"])
            if weighted:
                plot_weights(weighted[0], new["weights.png"])
    except OSError as error:
        raise UsageError(f"out: cannot write to the folder {out} ({error.strerror})") from None
    return summary
