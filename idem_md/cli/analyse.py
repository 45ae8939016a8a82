"""``idem-md analyse``"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import working
from ..rounding import with_error
from .console import check_png, picture, print_json
from .drawing import plot_by_temperature
from .outputs import PlotOption

if TYPE_CHECKING:
    from ..analysis import Finding, FreeEnergyMap

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
    free_energy_map: Annotated[str, typer.Option("--map", help="Two observables for a map of free energies.")] = "",
) -> None:
    """Weighted observables with errors: idem-md analyse lj13.dcd --observable rg,rdf

    Observables are energy, potential_energy (eV, without a trap), heat-capacity, rdf, rg, pair-distances, q4 and q6; by
    default all that the system has. Torsions are dihedral:i,j,k,l, by the numbers of four atoms from 0, and phi, psi
    and omega of residues with names (phi2 if there are several). --profile gives free energies along observables, of
    which energy is one, and along torsions the shares of their basins; --map phi,psi along two, of which --plot then
    makes a picture.
    """
    with working() as work:
        from .. import analysis
        from ..ensemble import load_ensemble
        from ..errors import UsageError
        from ..files import claimed
        from ..provenance import finite_or_none
        from ..report import plot_map

        if plot is not None:
            check_png("plot", plot)
            work.held.enter_context(claimed("plot", [plot]))
        ensemble = load_ensemble(file)
        work.phase("analysing")
        if temperature is not None:
            ensemble = analysis.reweighted(ensemble, temperature)
        found = analysis.analyse(ensemble, _names(observable), _names(profile))
        along = _names(free_energy_map)
        if along and len(along) != 2:
            raise UsageError(f"map: expected two observables with a comma, got {free_energy_map!r}")
        plane = analysis.free_energy_map(ensemble, *along) if along else None
        if plot is not None:
            with picture("plot", plot) as target:
                if plane is None:
                    plot_by_temperature([ensemble], target)
                else:
                    plot_map(plane, target)
        head = {
            "system": ensemble.system.name,
            "kind": ensemble.kind,
            "n": len(ensemble),
            "ess": finite_or_none(ensemble.ess),
            "temperature_K": ensemble.system.units.temperature_kelvin,
        }
    if as_json:
        extra = {} if plane is None else {"map": _map_json(plane)}
        return print_json(head | {"findings": [_json(f) for f in found]} | extra)
    from rich.console import Console
    from rich.table import Table

    ess = "no weights" if head["ess"] is None else f"{head['ess']:.1f} effective of {head['n']} samples"
    grid = Table(title=f"{head['system']} at {head['temperature_K']:g} K: {ess}")
    for heading in ("observable", "mean", "distribution"):
        grid.add_column(heading)
    for f in found:
        grid.add_row(f.name, *_cells(f))
        for basin in f.basins:
            share = with_error(basin.share, basin.error)
            grid.add_row(f"  share from {basin.start:.0f}° to {basin.end:.0f}°", share, "")
    if plane is not None:
        grid.add_row(f"map of {plane.x}, {plane.y}", "", _lowest(plane))
    Console().print(grid)
    if ensemble.advice:
        typer.echo(f"idem-md: warning: {ensemble.advice}", err=True)


def _names(text: str) -> list[str]:
    """Names with commas; those between numbers belong to a name."""
    return [name.strip() for name in re.split(r",(?!\s*\d)", text) if name.strip()]


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


def _lowest(plane: FreeEnergyMap) -> str:
    """Where a map is lowest, in words."""
    import numpy as np

    i, j = np.unravel_index(int(np.nanargmin(plane.values)), plane.values.shape)
    x, y = (0.5 * (edges[k] + edges[k + 1]) for edges, k in ((plane.x_edges, i), (plane.y_edges, j)))
    return f"lowest at {x:.4g}, {y:.4g}; --plot draws it, --json has all of it"


def _map_json(plane: FreeEnergyMap) -> dict[str, Any]:
    from ..provenance import finite_or_none

    grids = {"values": plane.values, "errors": plane.errors}
    return {
        "x": plane.x,
        "y": plane.y,
        "x_edges": plane.x_edges.tolist(),
        "y_edges": plane.y_edges.tolist(),
        **{name: [[finite_or_none(v) for v in row] for row in grid] for name, grid in grids.items()},
    }


def _json(f: Finding) -> dict[str, Any]:
    from ..provenance import finite_or_none

    out: dict[str, Any] = {"name": f.name, "unit": f.unit, "refused": f.refused or None}
    out |= {k: None if v is None else finite_or_none(v) for k, v in (("value", f.value), ("error", f.error))}
    if f.basins:
        out["basins"] = [basin._asdict() for basin in f.basins]
    if f.curve is not None:
        out["curve"] = {
            "variable": f.curve.variable,
            "quantity": f.curve.quantity,
            "edges": f.curve.edges.tolist(),
            "values": [finite_or_none(v) for v in f.curve.values],
            "errors": [finite_or_none(v) for v in f.curve.errors],
        }
    return out
