"""The ``idem-md`` command."""

from __future__ import annotations

import json
import math
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .baselines import ENGINES
from .checks import IdemError, UsageError, check_choice, check_int
from .cli_bench import app as bench_app
from .diffusion import KERNELS
from .ensemble import load_ensemble
from .report import compare as compare_ensembles
from .report import finite_or_none
from .report import table as report_table
from .sampler import METHODS, load_sampler
from .systems import SYSTEMS
from .training import PRESETS, load_config, preset
from .training import train as run_training
from .trajectory import check_writable

__all__ = ["app", "main"]

app = typer.Typer(name="idem-md", pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Equilibrium samples of molecular systems with honest weights, from an energy function alone.")
app.add_typer(bench_app, name="bench")
# Progress and messages go to stderr; stdout carries results only.
err = Console(stderr=True)
# Below this the weights rest on a few samples, and an error estimated from them is itself a guess.
TRUSTED_ESS = 30


def _print_json(payload: dict) -> None:
    typer.echo(json.dumps(payload, allow_nan=False))


@app.command()
def systems(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """What is built in, with parameters."""
    rows = {}
    for name, s in SYSTEMS.items():
        energy = s.energy()
        rows[name] = {"description": s.description, "n_atoms": energy.n_atoms, "n_dims": energy.n_dims,
                      "parameters": energy.parameters, "length_unit_angstrom": s.units.length_angstrom,
                      "temperature_kelvin": s.units.temperature_kelvin,
                      "exact_mean_energy": s.exact_mean_energy}
    if as_json:
        return _print_json(rows)
    grid = Table("system", "atoms", "dim", "parameters (kT, reduced length)", "length (Å)", "T (K)", "exact mean energy (kT)")
    for name, r in rows.items():
        exact = r["exact_mean_energy"]
        grid.add_row(name, str(r["n_atoms"]), str(r["n_dims"]), ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in r["parameters"].items()),
                     f"{r['length_unit_angstrom']:g}", f"{r['temperature_kelvin']:g}", "–" if exact is None else f"{exact[0]} ± {exact[1]}")
    Console().print(grid)


@app.command()
def sample(
    system: Annotated[str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")],
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 1000,
    nfe: Annotated[int, typer.Option(help="Network evaluations a sample.")] = 25,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same samples.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = None,
    method: Annotated[str, typer.Option(help=f"{' or '.join(METHODS)}.")] = "diffusion",
    kernel: Annotated[str, typer.Option(help=f"Transition kernel: {' or '.join(KERNELS)}.")] = "analytic",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw weighted samples: idem-md sample lj13 -n 1000 --out lj13.dcd"""
    check_int("n", n, 1)
    if out is not None:
        check_writable(out)  # before the work, not after it
    sampler = load_sampler(system)
    with _bar("sampling", n, "samples") as advance:
        ensemble = sampler.sample(n, nfe, seed, method, kernel, progress=advance)
    mean, error = ensemble.mean_energy  # raises if no sample has weight, and then nothing is written
    files = [str(p) for p in ensemble.save(out)] if out is not None else []
    p = ensemble.provenance
    result = {
        "n": n, "ess": ensemble.ess, "ess_fraction": ensemble.ess_fraction, "log_z": ensemble.log_z,
        "log_z_err": finite_or_none(ensemble.log_z_err), "nfe": p["nfe"], "energy_calls": p["energy_calls"],
        "seconds": p["seconds"], "samples_per_second": n / p["seconds"], "mean_energy": mean, "mean_energy_err": finite_or_none(error),
        "files": files,
    }
    if as_json:
        return _print_json(result)
    grid = Table(show_header=False, title=f"{ensemble.system.name}: {n} samples")
    grid.add_row("effective samples", f"{ensemble.ess:.1f} ({100 * ensemble.ess_fraction:.1f}%)")
    spread = lambda e, digits: f"± {e:.{digits}f}" if math.isfinite(e) else "± unknown"  # noqa: E731
    grid.add_row("mean energy", f"{mean:.2f} {spread(error, 2)} kT")
    grid.add_row("log Z", f"{ensemble.log_z:.3f} {spread(ensemble.log_z_err, 3)}")
    if ensemble.ess < TRUSTED_ESS:
        grid.add_row("warning", f"fewer than {TRUSTED_ESS} effective samples: neither averages nor their errors can be "
                                "trusted; ask for more samples (-n) or more network evaluations (--nfe)")
    grid.add_row("cost", f"{p['seconds']:.1f} s, {p['nfe']} network evaluations a sample, {p['energy_calls']} energy calls")
    if p["failed"]:
        grid.add_row("failed samples", f"{p['failed']} (weight 0, kept in the count)")
    if files:
        grid.add_row("files", "\n".join(files))
    Console().print(grid)


@contextmanager
def _bar(label: str, total: int, unit: str):
    with Progress(TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
                  TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda k=1: bar.advance(task, k)


class _TrainingDisplay:
    """Live view of a run: loss by noise level, raw samples, energy calls, time left."""

    def __init__(self, inner_steps: int):
        self.inner_steps, self.report, self.steps = inner_steps, None, 0
        self.bar = Progress(TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
                            TextColumn("left"), TimeRemainingColumn(), console=err)
        self.task = self.bar.add_task("first buffer", total=None)

    def step(self) -> None:
        self.bar.advance(self.task)

    def iteration(self, report, state, energy) -> None:
        self.report, self.calls = report, energy.calls
        self.bar.update(self.task, total=state.total * self.inner_steps, completed=state.iteration * self.inner_steps,
                        description=f"iteration {state.iteration} of {state.total}")
        if not err.is_terminal:
            err.print(f"iteration {state.iteration}/{state.total}  {state.seconds:.0f} s  loss {report.loss:.4f}  raw median "
                      f"{report.raw_median_energy:.2f} kT  buffer mean {report.buffer_mean_energy:.2f} kT  "
                      f"{energy.calls:.3g} energy calls", highlight=False, soft_wrap=True)

    def __rich__(self):
        grid = Table.grid()
        grid.add_row(self.bar)
        if (r := self.report) is not None:
            loss = Table("noise level σ", "loss", box=None)
            for lo, hi, value in zip(r.sigma_edges, r.sigma_edges[1:], r.loss_by_sigma):
                loss.add_row(f"{lo:.3f} – {hi:.3f}", f"{value:.4f}")
            facts = Table(show_header=False, box=None)
            facts.add_row("raw median energy", f"{r.raw_median_energy:.2f} kT ({r.raw_failed} failed)")
            facts.add_row("buffer mean energy", f"{r.buffer_mean_energy:.2f} kT")
            facts.add_row("MALA acceptance", f"{r.acceptance:.2f}")
            facts.add_row("energy calls", f"{self.calls:.3g}")
            facts.add_row("step size", f"{r.learning_rate:.2g}")
            both = Table.grid(padding=(0, 4))
            both.add_row(loss, facts)
            grid.add_row(both)
        return grid


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A system name, or a TOML file.")],
    out: Annotated[Optional[Path], typer.Option(help="Run folder; runs/NAME by default.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed; 0 by default, or the file's.")] = None,
    preset_name: Annotated[Optional[str], typer.Option("--preset", help=f"{' or '.join(PRESETS)}; for a system name only.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last state.")] = False,
    minutes: Annotated[Optional[float], typer.Option(help="Budget of wall time; the schedule shortens to fit.")] = None,
    max_energy_calls: Annotated[Optional[int], typer.Option(help="Budget of energy calls; never exceeded.")] = None,
    iterations: Annotated[Optional[int], typer.Option(help="Outer iterations, instead of the configuration's.")] = None,
) -> None:
    """Train a sampler from the energy alone: idem-md train lj13 --out runs/lj13 --minutes 20

    Ctrl-C keeps the last whole iteration; --resume goes on from there, bit for bit.
    """
    if config in SYSTEMS:
        settings = preset(config, preset_name or "refined", seed or 0)
    elif config.endswith(".toml"):
        if preset_name is not None:
            raise UsageError("preset: expected a system name beside --preset, got a TOML file")
        settings = load_config(Path(config))
        if seed is not None:
            settings = settings.model_copy(update={"seed": check_int("seed", seed, 0, 2**31 - 1)})
    else:
        raise UsageError(f"config: expected one of {', '.join(SYSTEMS)} or a .toml file, got {config!r}")
    if iterations is not None:
        check_int("iterations", iterations, 1)
        optimizer = settings.optimizer.model_copy(update={"iterations": iterations})
        settings = settings.model_copy(update={"optimizer": optimizer})
    folder = out or Path("runs") / settings.system
    display = _TrainingDisplay(settings.optimizer.inner_steps)
    interrupted = False

    def interrupt(*_):
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        err.print("stopping at the last whole iteration ...")

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with Live(display, console=err, refresh_per_second=2, transient=True, auto_refresh=err.is_terminal):
            checkpoint = run_training(settings, folder, resume=resume, minutes=minutes, max_energy_calls=max_energy_calls,
                                      stop=lambda: interrupted, on_step=display.step, on_iteration=display.iteration)
    finally:
        signal.signal(signal.SIGINT, previous)
    p = checkpoint.provenance
    state = "finished" if p["finished"] else f"stopped after {p['iterations']} of {p['planned']} iterations"
    typer.echo(f"{state}: {folder / 'model.safetensors'}, {p['seconds']:.0f} s, {p['energy_calls']} energy calls")
    if interrupted:
        raise typer.Exit(130)


@app.command()
def baseline(
    system: Annotated[str, typer.Argument(help=f"One of {', '.join(SYSTEMS)}.")],
    engine: Annotated[str, typer.Option(help=f"{' or '.join(ENGINES)}.")] = "mala",
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 2000,
    steps: Annotated[Optional[int], typer.Option(help="Steps a chain; 20,000 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same samples.")] = 0,
    out: Annotated[Path, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = Path("md.dcd"),
) -> None:
    """Reference samples without a network: idem-md baseline lj13 --engine pt -n 10000 --out reference.dcd

    mala: one independent chain a sample. pt: parallel tempering, samples from the coldest rungs. exact: by formula (gmm40).
    """
    check_choice("engine", engine, ENGINES)
    check_writable(out)
    ensemble = ENGINES[engine](system, n, *(() if steps is None else (steps,)), seed=seed)
    ensemble.save(out)
    (mean, error), p = ensemble.mean_energy, ensemble.provenance
    typer.echo(f"{out}: {n} samples, mean energy {mean:.2f} ± {error:.2f} kT, {p['seconds']:.1f} s, "
               f"{p['energy_calls']} energy calls")


@app.command()
def compare(
    ensembles: Annotated[list[Path], typer.Argument(help="Two to four DCD files; the last one is the reference.")],
    out: Annotated[Path, typer.Option(help="Folder for the figure, the table and summary.json.")] = Path("report"),
    aligned: Annotated[bool, typer.Option(help="Compute aligned W2 (a minute for 2000 clusters of 13 atoms).")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Compare ensembles: idem-md compare lj13.dcd md.dcd --out report/"""
    if not 2 <= len(ensembles) <= 4:
        raise UsageError(f"ensembles: expected two to four files, got {len(ensembles)}")
    if len({p.resolve() for p in ensembles}) < len(ensembles):
        raise UsageError("ensembles: expected different files, one is given twice")
    labels = [p.stem for p in ensembles]
    if len(set(labels)) < len(labels):
        labels = [str(p) for p in ensembles]
    summary = compare_ensembles({label: load_ensemble(p) for label, p in zip(labels, ensembles)}, out, aligned)
    typer.echo(json.dumps(summary) if as_json else report_table(summary))


def main() -> None:
    """Entry point: errors made by the user are one line on stderr and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except (IdemError, OSError) as error:
        message = str(error)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        # Parse errors: typer's own class of them has moved between its releases, their method has not.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
    print(f"idem-md: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
