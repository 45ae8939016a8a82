"""What commands that make an ensemble tell of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble

__all__ = ["print_table", "result", "spread"]


def result(ensemble: WeightedEnsemble, mean: tuple[float, float], files: Sequence[str]) -> dict[str, Any]:
    """What ``--json`` prints of an ensemble that has been saved, but for what only some have."""
    from ..provenance import finite_or_none

    p = ensemble.provenance
    seconds = p.get("seconds")
    return {
        "n": len(ensemble),
        "ess": finite_or_none(ensemble.ess),
        "ess_fraction": finite_or_none(ensemble.ess_fraction),
        "log_z": finite_or_none(ensemble.log_z),
        "log_z_err": finite_or_none(ensemble.log_z_err),
        "method": p.get("method"),
        "nfe": p.get("nfe"),
        "energy_calls": p.get("energy_calls"),
        "seconds": seconds,
        "samples_per_second": len(ensemble) / seconds if seconds else None,
        "mean_energy": mean[0],
        "mean_energy_err": finite_or_none(mean[1]),
        "files": list(files),
    }


def spread(error: float | None, digits: int) -> str:
    """A standard error in words."""
    return "± unknown" if error is None or not math.isfinite(error) else f"± {error:.{digits}f}"


def print_table(ensemble: WeightedEnsemble, r: dict[str, Any], facts: Mapping[str, Any] | None = None) -> None:
    """What `result` said, and more of the ensemble, as a table."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(show_header=False, title=f"{ensemble.system.name}: {r['n']} samples")
    if r["ess"] is not None:
        grid.add_row("effective samples", f"{r['ess']:.1f} ({100 * r['ess_fraction']:.1f}%)")
    grid.add_row("mean energy", f"{r['mean_energy']:.2f} {spread(r['mean_energy_err'], 2)} kT")
    if r["log_z"] is not None:
        grid.add_row("log Z", f"{r['log_z']:.3f} {spread(r['log_z_err'], 3)}")
    if ensemble.advice:
        grid.add_row("warning", ensemble.advice)
    evaluations = "" if r["nfe"] is None else f"{r['nfe']} network evaluations a sample, "
    p = ensemble.provenance
    steps = f" ({p['kernel']} kernel, {p['last_step']} last step)" if "kernel" in p else ""
    grid.add_row("method", (r["method"] or "unknown") + steps)
    if r["seconds"] is not None:
        grid.add_row("cost", f"{r['seconds']:.1f} s, {evaluations}{r['energy_calls']} energy calls")
    for name, value in (facts or {}).items():
        grid.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    if p.get("failed"):
        grid.add_row("failed samples", f"{p['failed']} (weight 0, kept in the count)")
    if r["files"]:
        grid.add_row("files", "\n".join(r["files"]))
    Console().print(grid)
