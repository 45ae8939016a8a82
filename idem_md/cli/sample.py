"""``idem-md sample``"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import print_json, progress_bar

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble

__all__ = ["sample"]


def sample(
    system: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ],
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 1000,
    nfe: Annotated[int, typer.Option(help="Network evaluations a sample.")] = 25,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = None,
    method: Annotated[str, typer.Option(help="diffusion.")] = "diffusion",
    kernel: Annotated[
        str | None, typer.Option(help="Transition kernel: ddpm, analytic or elastic; by default the plan's.")
    ] = None,
    last_step: Annotated[
        str | None, typer.Option(help="Last step: plain, nested or annealed; by default the plan's.")
    ] = None,
    last_step_calls: Annotated[
        int | None, typer.Option(help="Energy calls a sample for the nested or annealed last step.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="In kelvin; by default the system's, for which the network was trained.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw weighted samples: idem-md sample lj13 -n 1000 --out lj13.dcd"""
    from ..checks import check_int
    from ..ensemble import WeightWarning, check_writable
    from ..provenance import finite_or_none
    from ..sampler import load_sampler

    check_int("n", n, 1)
    if out is not None:
        check_writable(out)  # before the work, not after it
    sampler = load_sampler(system)
    with progress_bar("sampling", n, "samples") as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)  # shown below, in full
        ensemble = sampler.sample(n, nfe, seed, method, kernel, last_step, last_step_calls, temperature, advance)
    mean, error = ensemble.mean_energy  # raises if no sample has weight, and then nothing is written
    files = [str(p) for p in ensemble.save(out)] if out is not None else []
    p = ensemble.provenance
    result = {
        "n": n,
        "ess": ensemble.ess,
        "ess_fraction": ensemble.ess_fraction,
        "log_z": ensemble.log_z,
        "log_z_err": finite_or_none(ensemble.log_z_err),
        "nfe": p["nfe"],
        "energy_calls": p["energy_calls"],
        "seconds": p["seconds"],
        "samples_per_second": n / p["seconds"],
        "mean_energy": mean,
        "mean_energy_err": finite_or_none(error),
        "files": files,
    }
    if as_json:
        print_json(result)
        if ensemble.advice:
            typer.echo(f"idem-md: warning: {ensemble.advice}", err=True)
    else:
        _print_table(ensemble, result)


def _spread(error: float | None, digits: int) -> str:
    return "± unknown" if error is None or not math.isfinite(error) else f"± {error:.{digits}f}"


def _print_table(ensemble: WeightedEnsemble, r: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(show_header=False, title=f"{ensemble.system.name}: {r['n']} samples")
    grid.add_row("effective samples", f"{r['ess']:.1f} ({100 * r['ess_fraction']:.1f}%)")
    grid.add_row("mean energy", f"{r['mean_energy']:.2f} {_spread(r['mean_energy_err'], 2)} kT")
    grid.add_row("log Z", f"{r['log_z']:.3f} {_spread(r['log_z_err'], 3)}")
    if ensemble.advice:
        grid.add_row("warning", ensemble.advice)
    cost = f"{r['seconds']:.1f} s, {r['nfe']} network evaluations a sample, {r['energy_calls']} energy calls"
    grid.add_row("cost", cost)
    failed = ensemble.provenance["failed"]
    if failed:
        grid.add_row("failed samples", f"{failed} (weight 0, kept in the count)")
    if r["files"]:
        grid.add_row("files", "\n".join(r["files"]))
    Console().print(grid)
