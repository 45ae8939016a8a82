"""Comparison of ensembles, written as a set of files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.protocols import PROTOCOL, Reference, raw_metrics, weighted_metrics
from ..ensemble import WeightedEnsemble
from ..errors import ResultError, UsageError
from ..files import atomic_set
from ..provenance import finite_or_none
from .figures import plot_histograms
from .markdown import table

__all__ = ["compare"]


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


def _summary(label: str, e: WeightedEnsemble) -> dict[str, Any]:
    with _naming(label):
        mean, err = e.mean_energy
    finite = e.energies[np.isfinite(e.energies)]
    return {
        "n": len(e),
        "ess": finite_or_none(e.ess),
        "ess_fraction": finite_or_none(e.ess_fraction),
        "mean_energy": mean,
        "mean_energy_err": finite_or_none(err),
        "raw_median_energy": finite_or_none(np.median(e.energies)),
        "raw_sd_energy": float(finite.std()),
        "log_z": finite_or_none(e.log_z),
        "log_z_err": finite_or_none(e.log_z_err),
        "cost": {k: e.provenance.get(k) for k in ("seconds", "nfe", "energy_calls", "hardware")},
    }


def compare(ensembles: Mapping[str, WeightedEnsemble], out: Path, aligned: bool = True) -> dict[str, Any]:
    """Compare ensembles with the last one as the reference; writes ``histograms.png``, ``summary.json``, ``table.md``.

    Parameters
    ----------
    ensembles : dict
        At least two, by label, of the same system.
    out : Path
        Folder, made if missing; the files are written all or none.
    aligned : bool
        Also compute aligned W2 (about a minute for 2000 clusters of 13 atoms).

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    UsageError
        Fewer than two ensembles, different systems, a raw reference, or a folder that cannot be written.
    ResultError
        Every sample of one has exploded, or weighs nothing.
    """
    if len(ensembles) < 2:
        raise UsageError(f"compare: expected at least two ensembles, got {len(ensembles)}")
    systems = {e.system.name for e in ensembles.values()}
    if len(systems) > 1:
        raise UsageError(f"compare: expected ensembles of one system, got {', '.join(sorted(systems))}")
    *labels, last = ensembles
    if ensembles[last].kind == "raw":
        raise UsageError(f"compare: expected the last one, the reference, to be more than raw samples, got {last!r}")
    with _naming(last):
        reference = Reference.of(ensembles[last])
    summary = {
        "system": systems.pop(),
        "reference": last,
        "protocol": {k: v for k, v in PROTOCOL.items() if k != "plain_w2"},
        "ensembles": {label: _summary(label, e) for label, e in ensembles.items()},
        "metrics": {label: _metrics(label, ensembles[label], reference, aligned) for label in labels},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_set({name: out / name for name in ("summary.json", "table.md", "histograms.png")}) as new:
            new["summary.json"].write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            new["table.md"].write_text(table(summary), encoding="utf-8")
            plot_histograms(ensembles, new["histograms.png"])
    except OSError as error:
        raise UsageError(f"out: cannot write to the folder {out} ({error.strerror})") from None
    return summary
