"""``idem-md analyse``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import working
from ..rounding import with_error
from .console import check_png, picture, print_json
from .drawing import plot_by_temperature
from .outputs import PlotOption

if TYPE_CHECKING:
    from ..analysis import Finding

__all__ = ["analyse"]


def analyse(
    file: Annotated[Path, typer.Argument(help="A DCD or XTC with its NPZ.")],
    observable: Annotated[
        str,
        typer.Option(help="Names, with commas; all by default."),
    ] = "",
    profile: Annotated[str, typer.Option(help="Observables for free energies, with commas.")] = "",
    temperature: Annotated[float | None, typer.Option(help="In kelvin: reweight to a temperature near by.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, distributions included.")] = False,
    plot: PlotOption = None,
) -> None:
    """Weighted observables with errors: idem-md analyse lj13.dcd --observable rg,rdf

    Observables are energy, potential_energy (eV, without a trap), heat-capacity, rdf, rg, pair-distances, q4 and q6; by
    default all that the system has. --profile gives free energies along observables, of which energy is one.
    """
    with working() as work:
        from .. import analysis
        from ..ensemble import load_ensemble
        from ..files import claimed
        from ..provenance import finite_or_none

        if plot is not None:
            check_png("plot", plot)
            work.held.enter_context(claimed("plot", [plot]))
        ensemble = load_ensemble(file)
        work.phase("analysing")
        if temperature is not None:
            ensemble = analysis.reweighted(ensemble, temperature)
        found = analysis.analyse(ensemble, _names(observable), _names(profile))
        if plot is not None:
            with picture("plot", plot) as target:
                plot_by_temperature([ensemble], target)
        head = {
            "system": ensemble.system.name,
            "kind": ensemble.kind,
            "n": len(ensemble),
            "ess": finite_or_none(ensemble.ess),
            "temperature_K": ensemble.system.units.temperature_kelvin,
        }
    if as_json:
        return print_json(head | {"findings": [_json(f) for f in found]})
    from rich.console import Console
    from rich.table import Table

    ess = "no weights" if head["ess"] is None else f"{head['ess']:.1f} effective of {head['n']} samples"
    grid = Table(title=f"{head['system']} at {head['temperature_K']:g} K: {ess}")
    for heading in ("observable", "mean", "distribution"):
        grid.add_column(heading)
    for f in found:
        grid.add_row(f.name, *_cells(f))
    Console().print(grid)
    if ensemble.advice:
        typer.echo(f"idem-md: warning: {ensemble.advice}", err=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _cells(f: Finding) -> tuple[str, str]:
    import numpy as np

    if f.refused:
        return f"refused: {f.refused}", ""
    mean = "" if f.value is None else f"{with_error(f.value, f.error)} {f.unit}"
    if f.curve is None:
        return mean, ""
    top = int(np.nanargmax(np.nan_to_num(f.curve.values, nan=-np.inf)))
    if f.curve.quantity.startswith("free energy"):
        return mean, f"highest {f.curve.values[top]:.2f} ± {f.curve.errors[top]:.2f} kT at {f.curve.centres[top]:.3f}"
    return mean, f"highest at {f.curve.centres[top]:.3f} of {f.curve.edges[0]:.3f} to {f.curve.edges[-1]:.3f}"


def _json(f: Finding) -> dict[str, Any]:
    from ..provenance import finite_or_none

    out: dict[str, Any] = {"name": f.name, "unit": f.unit, "refused": f.refused or None}
    out |= {k: None if v is None else finite_or_none(v) for k, v in (("value", f.value), ("error", f.error))}
    if f.curve is not None:
        out["curve"] = {
            "variable": f.curve.variable,
            "quantity": f.curve.quantity,
            "edges": f.curve.edges.tolist(),
            "values": [finite_or_none(v) for v in f.curve.values],
            "errors": [finite_or_none(v) for v in f.curve.errors],
        }
    return out
