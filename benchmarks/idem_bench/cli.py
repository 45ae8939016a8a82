"""``python -m idem_bench``: JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from idem_md.cli.bench import Batch, Repeats, Seed, System, json_lines
from idem_md.cli.console import folder_option, picture, print_json
from idem_md.cli.main import run_app
from idem_md.cli.potential import cores
from idem_md.progress import working

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of Markdown.")]

app = typer.Typer(
    help="The project's own measurements, JSON lines: python -m idem_bench engines",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def coverage(
    file: Annotated[Path, typer.Argument(help="A large weighted set, some thousand effective samples.")],
    repeats: Annotated[int, typer.Option(help="Subsets of each size.")] = 400,
    seed: Seed = 0,
) -> None:
    """How often error bars of 30 to 1000 effective samples hold the value of the whole set."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from idem_md.ensemble import load_ensemble

        from . import measure_coverage

        yield from measure_coverage(load_ensemble(file), repeats=repeats, seed=seed)

    json_lines(rows)


@app.command()
def workers(batch: Batch = None, repeats: Repeats = 5) -> None:
    """Two worker processes against one, on an ASE calculator."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from . import bench_workers

        yield bench_workers(512 if batch is None else batch, repeats)

    json_lines(rows)


@app.command()
def methods(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Systems with shipped checkpoints, run folders, or checkpoint files; by default lj13."),
    ] = None,
    out: Annotated[Path, folder_option("Folder for ess.png, and for rows.jsonl and table.md of each.")] = Path(
        "runs/methods"
    ),
    n: Annotated[int, typer.Option("-n", help="Samples of each.")] = 10_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Consistency beside diffusion by every kernel, at 4 to 100 evaluations: a table for each system and a figure for
    all. Rows that are there are not measured again."""
    with working() as work:
        from idem_md.files import own_folder, write_atomic
        from idem_md.sampler import load_sampler

        from . import measure_methods, methods_table
        from .figures import plot_methods

        samplers = [load_sampler(source) for source in sources or ["lj13"]]
        found: dict[str, list[dict[str, Any]]] = {}
        for sampler in samplers:
            name = sampler.system.name
            work.phase(f"measuring {name}")
            folder, rows = out / name, found.setdefault(name, [])
            with own_folder(folder):
                for row in measure_methods(sampler, folder / "rows.jsonl", n, seed):
                    rows.append(row)
                    share = f"{100 * row['ess_fraction']:.1f}%"
                    work.say(f"{name}, {row['kernel']}, {row['last_step']}, {row['nfe']}: {share}")
                write_atomic(folder / "table.md", methods_table(rows).encode())
        with picture("out", out / "ess.png") as target:
            plot_methods(found, target)
    if as_json:
        return print_json(found)
    for name, rows in found.items():
        typer.echo(f"{name}\n\n{methods_table(rows)}")


@app.command()
def engines(
    system: System = "lj13",
    engine: Annotated[list[str] | None, typer.Option(help="Given once or more; by default all but exact.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps a chain; by default those of the engine.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples of each.")] = 2000,
    seed: Seed = 0,
) -> None:
    """Do the baselines agree with each other and the exact mean; chains of dynamics beside ten times longer ones."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from . import measure_engines

        yield from measure_engines(system, engine or ("mala", "pt", "openmm", "ase"), n, steps, cores(), seed)

    json_lines(rows)


@app.command()
def network(
    system: System = "lj13",
    seconds: Annotated[float, typer.Option(help="Training time of each.")] = 60.0,
    seed: Seed = 0,
) -> None:
    """Our network and optimiser beside the iDEM paper's, for equal wall time."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from . import compare_networks

        yield from compare_networks(system, seconds, seed)

    json_lines(rows)


@app.command(name="reproduce")
def reproduce_(
    systems: Annotated[str, typer.Option(help="Names, separated by commas.")] = "gmm40,dw4,lj13,lj55",
    presets: Annotated[
        str, typer.Option(help="Names, separated by commas; equal wall time for each.")
    ] = "refined,idem,pdem",
    seeds: Annotated[
        int | None,
        typer.Option(help="Seeds 0, 1, ... of each, by default 3 (lj55: 1); 0 for none, only the shipped networks."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall time of a training; by default 5 (gmm40, dw4), 20 (lj13), 40 (lj55).")
    ] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(help="Wall time of this call; the next one goes on from there.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="Samples of each row, instead of the protocols'.")] = None,
    out: Annotated[Path, folder_option("Rows, runs, samples, figures, table.md and rows.json.")] = Path(
        "runs/reproduce"
    ),
    as_json: AsJson = False,
) -> None:
    """One table beside the published numbers: shipped networks, raw and weighted, others trained from nothing, and the
    figures. What is there is not measured again, so that it can be made in pieces."""
    with working() as work:
        from . import reproduce

        def tell(what: str) -> None:
            work.say(what)
            work.phase(what)

        rows = reproduce(systems.split(","), presets.split(","), seeds, out, minutes, budget_minutes, n, tell)
    if as_json:
        return print_json({"rows": rows})
    typer.echo((out / "table.md").read_text(encoding="utf-8"), nl=False)


def main() -> None:
    """Entry point of ``python -m idem_bench``."""
    run_app(app)
