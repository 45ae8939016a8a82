"""What commands that make an ensemble tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ..rounding import with_error

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble

__all__ = ["print_scan", "print_table", "result", "thermal"]


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
        **({"twin_calls": p["twin_calls"]} if "twin_calls" in p else {}),
        "seconds": seconds,
        "samples_per_second": len(ensemble) / seconds if seconds else None,
        "mean_energy": mean[0],
        "mean_energy_err": finite_or_none(mean[1]),
        "files": list(files),
    }


def print_table(ensemble: WeightedEnsemble, r: dict[str, Any], facts: Mapping[str, Any] | None = None) -> None:
    """What `result` said, and more of the ensemble, as a table."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(show_header=False, title=f"{ensemble.system.name}: {r['n']} samples")
    if r["ess"] is not None:
        grid.add_row("effective samples", f"{r['ess']:.1f} ({100 * r['ess_fraction']:.1f}%)")
    for name, mean in _energies(ensemble, (r["mean_energy"], r["mean_energy_err"])):
        grid.add_row(name, mean)
    if r["log_z"] is not None:
        grid.add_row("log Z", with_error(r["log_z"], r["log_z_err"]))
    if ensemble.advice:
        grid.add_row("warning", ensemble.advice)
    evaluations = "" if r["nfe"] is None else f"{r['nfe']} network evaluations a sample, "
    p = ensemble.provenance
    steps = f" ({p['kernel']} kernel, {p['last_step']} last step)" if "kernel" in p else ""
    grid.add_row("method", (r["method"] or "unknown") + steps)
    if r["seconds"] is not None:
        twin = f", {r['twin_calls']} calls of the twin" if "twin_calls" in r else ""
        grid.add_row("cost", f"{r['seconds']:.1f} s, {evaluations}{r['energy_calls']} energy calls{twin}")
    for name, value in (facts or {}).items():
        grid.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    if p.get("failed"):
        grid.add_row("failed samples", f"{p['failed']} (weight 0, kept in the count)")
    if r["files"]:
        grid.add_row("files", "\n".join(r["files"]))
    Console().print(grid)


def _energies(ensemble: WeightedEnsemble, mean: tuple[float, float | None]) -> list[tuple[str, str]]:
    """Rows of the mean energy in three units and, for a potential of the user's, without the trap."""
    from ..analysis import potential_energies, trap_energies
    from ..systems import built_in_name

    def in_units(value: float, error: float | None) -> str:
        factors = ensemble.system.kT.items()
        return "\n".join(f"{with_error(f * value, None if error is None else f * error)} {unit}" for unit, f in factors)

    rows = [("mean energy", in_units(*mean))]
    trap = None if built_in_name(ensemble.system) else trap_energies(ensemble)
    if trap is not None and ensemble.kind != "raw":
        share, _ = ensemble.expectation(lambda _: trap[ensemble.alive])
        rows[0] = (f"mean energy\n(with {share:.2f} kT of the trap)", rows[0][1])
        bare = ensemble.expectation(lambda _: potential_energies(ensemble)[ensemble.alive])
        rows.append(("without the trap", in_units(*bare)))
    return rows


def thermal(ensemble: WeightedEnsemble) -> dict[str, Any]:
    """What is told beside the rest if there are several temperatures."""
    from ..analysis import heat_capacity
    from ..provenance import finite_or_none

    value, error = heat_capacity(ensemble)
    kelvin = ensemble.system.units.temperature_kelvin
    return {"temperature_K": kelvin, "heat_capacity": value, "heat_capacity_err": finite_or_none(error)}


def print_scan(results: Sequence[Mapping[str, Any]]) -> None:
    """What `result` and `thermal` said of several temperatures, as a table."""
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    grid = Table(title=f"{first['n']} samples at each of {len(results)} temperatures")
    for heading in ("T (K)", "effective", "log Z", "mean energy (kT)", "heat capacity (k_B)"):
        grid.add_column(heading)
    for r in results:
        grid.add_row(
            f"{r['temperature_K']:g}",
            f"{r['ess']:.0f} ({100 * r['ess_fraction']:.0f}%)",
            *(with_error(r[key], r[f"{key}_err"]) for key in ("log_z", "mean_energy", "heat_capacity")),
        )
    Console().print(grid)
    calls = sum(r["energy_calls"] for r in results)
    seconds = max(r["seconds"] for r in results)
    typer.echo(f"{seconds:.1f} s, {first['nfe']} network evaluations a sample, {calls} energy calls")
    for r in results:
        for file in r["files"]:
            typer.echo(file)
