"""Comparison of ensembles: figures, a table, a JSON summary."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from .analysis import (ALIGNED_SAMPLES, EXPLOSION_MARGIN_KT, aligned_w2, energy_w2, exploded,
                       total_variation)
from .checks import UsageError
from .ensemble import WeightedEnsemble
from .figures import plot_histograms
from .files import write_atomic

__all__ = ["compare", "finite_or_none", "table"]


def _pair_metrics(a: WeightedEnsemble, b: WeightedEnsemble, aligned: bool) -> dict:
    """Metrics of a against the reference b: raw (a's samples as they came) and weighted by a's weights."""
    wb = b.weights
    alive_b = wb > 0
    ub, xb, wb = b.energies[alive_b], b.positions[alive_b], wb[alive_b]
    bad = exploded(a.energies, ub)
    if bad.all():
        raise UsageError("compare: every sample of the first ensemble has exploded, there is nothing to compare")
    alive = a.weights > 0
    metrics = {
        "exploded": int(bad.sum()),
        "raw": {"energy_w2": energy_w2(a.energies[~bad], ub, None, wb),
                "total_variation": total_variation(a.positions[~bad], xb, None, wb)},
        "weighted": {"energy_w2": energy_w2(a.energies[alive], ub, a.weights[alive], wb),
                     "total_variation": total_variation(a.positions[alive], xb, a.weights[alive], wb)},
    }
    if aligned:
        m = ALIGNED_SAMPLES
        metrics["raw"]["aligned_w2"] = aligned_w2(a.positions[~bad][:m], xb[:m], None, wb[:m])
    return metrics


def finite_or_none(value) -> float | None:
    """A float for JSON, which knows neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def _summary(e: WeightedEnsemble) -> dict:
    mean, err = e.mean_energy
    finite = e.energies[np.isfinite(e.energies)]
    return {"n": len(e), "ess": e.ess, "ess_fraction": e.ess_fraction, "mean_energy": mean, "mean_energy_err": finite_or_none(err),
            "raw_median_energy": finite_or_none(np.median(e.energies)), "raw_sd_energy": float(finite.std()),
            "log_z": finite_or_none(e.log_z), "log_z_err": finite_or_none(e.log_z_err),
            "cost": {k: e.provenance.get(k) for k in ("seconds", "nfe", "energy_calls", "hardware")}}


def compare(ensembles: dict[str, WeightedEnsemble], out: Path, aligned: bool = True) -> dict:
    """Compare ensembles with the last one as the reference; writes ``histograms.png``, ``summary.json``, ``table.md``.

    Parameters
    ----------
    ensembles : dict
        At least two, by label, of the same system.
    out : Path
        Folder, made if missing.
    aligned : bool
        Also compute aligned W2 (about a minute for 2000 clusters of 13 atoms).

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    UsageError
        Fewer than two ensembles, different systems, or a folder that cannot be written.
    """
    if len(ensembles) < 2:
        raise UsageError(f"compare: expected at least two ensembles, got {len(ensembles)}")
    systems = {e.system.name for e in ensembles.values()}
    if len(systems) > 1:
        raise UsageError(f"compare: expected ensembles of one system, got {', '.join(sorted(systems))}")
    *labels, reference = ensembles
    summary = {
        "system": systems.pop(), "reference": reference,
        "protocol": {"energy_w2": "1D 2-Wasserstein, kT", "total_variation": "pair distances, 100 bins",
                     "aligned_w2": f"Hungarian then O(n) Procrustes, first {ALIGNED_SAMPLES} samples of each",
                     "exploded": f"raw energy more than {EXPLOSION_MARGIN_KT:.0f} kT above the reference's highest; "
                                 "left out of raw metrics"},
        "ensembles": {label: _summary(e) for label, e in ensembles.items()},
        "metrics": {label: _pair_metrics(ensembles[label], ensembles[reference], aligned) for label in labels},
    }
    figure = io.BytesIO()
    plot_histograms(ensembles, figure)
    files = {"summary.json": json.dumps(summary, indent=2, allow_nan=False).encode() + b"\n",
             "table.md": table(summary).encode(), "histograms.png": figure.getvalue()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomic(out / name, data)
    except OSError as error:
        raise UsageError(f"out: cannot write to the folder {out} ({error.strerror})") from None
    return summary


def table(summary: dict) -> str:
    """The summary as a Markdown table."""
    lines = ["| ensemble | n | ESS | mean energy (kT) | raw median | E-W2 raw / weighted | aligned W2 | TV raw / weighted | exploded | seconds | energy calls |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for label, s in summary["ensembles"].items():
        m = summary["metrics"].get(label)
        cost = s["cost"]
        number = lambda v, f: "–" if v is None else format(v, f)  # noqa: E731
        metric = ("reference | – | – | –" if m is None else
                  f"{m['raw']['energy_w2']:.2f} / {m['weighted']['energy_w2']:.2f} | {number(m['raw'].get('aligned_w2'), '.2f')} | "
                  f"{m['raw']['total_variation']:.3f} / {m['weighted']['total_variation']:.3f} | {m['exploded']}")
        lines.append(f"| {label} | {s['n']} | {s['ess']:.0f} | {s['mean_energy']:.2f} ± {number(s['mean_energy_err'], '.2f')} | "
                     f"{number(s['raw_median_energy'], '.2f')} | {metric} | {number(cost['seconds'], '.1f')} | {number(cost['energy_calls'], 'd')} |")
    return "\n".join(lines) + "\n"
