"""``idem-md bench``: the project's own measurements, JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import DEVICE, folder_option, picture, print_json
from .potential import cores
from .progress import working

__all__ = ["app"]

app = typer.Typer(
    help="The project's own measurements, JSON lines: idem-md bench target",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def callback(context: typer.Context) -> None:
    """The project's own measurements, JSON lines: idem-md bench target"""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


System = Annotated[str, typer.Option(help="A Lennard-Jones system.")]
Batch = Annotated[int | None, typer.Option(help="Configurations or chains.")]
Repeats = Annotated[int, typer.Option(help="Calls timed; the median is given.")]
Reference = Annotated[bool, typer.Option(help="Also time plain torch.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same numbers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of Markdown.")]


def _lines(rows: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """One JSON object a row, as they come."""
    with working("measuring") as work:
        for row in rows():
            with work.aside():
                print_json(row)


def _run(*args) -> None:
    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import run_benchmark

        yield run_benchmark(*args)

    _lines(rows)


@app.command()
def target(
    system: System = "lj13",
    batch: Batch = None,
    samples: Annotated[int | None, typer.Option(help="K, draws a score.")] = None,
    repeats: Repeats = 5,
    device: Annotated[str, DEVICE] = "cpu",
    reference: Reference = True,
) -> None:
    """The importance-sampled score target against vmap of grad of logsumexp."""
    _run("target", system, batch, samples, repeats, device, reference)


@app.command()
def coverage(
    file: Annotated[Path, typer.Argument(help="A large weighted set, some thousand effective samples.")],
    repeats: Annotated[int, typer.Option(help="Subsets of each size.")] = 400,
    seed: Seed = 0,
) -> None:
    """How often error bars of 30 to 1000 effective samples hold the value of the whole set."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import measure_coverage
        from ..ensemble import load_ensemble

        yield from measure_coverage(load_ensemble(file), repeats=repeats, seed=seed)

    _lines(rows)


@app.command()
def energy(
    system: System = "lj13",
    batch: Batch = None,
    repeats: Repeats = 5,
    device: Annotated[str, DEVICE] = "cpu",
    reference: Reference = True,
) -> None:
    """Energies with forces against autograd."""
    _run("energy", system, batch, None, repeats, device, reference)


@app.command()
def mala(
    system: System = "lj13",
    batch: Batch = None,
    samples: Annotated[int | None, typer.Option(help="Steps a chain.")] = None,
    repeats: Repeats = 5,
    device: Annotated[str, DEVICE] = "cpu",
    reference: Reference = True,
) -> None:
    """Langevin chains against a torch loop."""
    _run("mala", system, batch, samples, repeats, device, reference)


@app.command()
def anneal(
    system: System = "lj13",
    batch: Batch = None,
    samples: Annotated[int | None, typer.Option(help="Steps a chain.")] = None,
    repeats: Repeats = 5,
    device: Annotated[str, DEVICE] = "cpu",
    reference: Reference = True,
) -> None:
    """Annealed importance sampling against a torch loop."""
    _run("anneal", system, batch, samples, repeats, device, reference)


@app.command()
def workers(batch: Batch = None, repeats: Repeats = 5) -> None:
    """Two worker processes against one, on an ASE calculator."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import bench_workers

        yield bench_workers(512 if batch is None else batch, repeats)

    _lines(rows)


@app.command()
def score(
    source: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ] = "lj13",
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="Noise level, reduced length; may be given several times. By default 0.02 to 0.2."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Configurations.")] = 512,
    chains: Annotated[int, typer.Option(help="Markov chains a configuration, in each of two halves.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps a chain.")] = 4000,
    seed: Seed = 0,
) -> None:
    """The score-error meter: how far a network is from the exact denoiser, in nats per unit of ln sigma."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import SIGMAS, measure_score
        from ..sampler import load_sampler

        yield from measure_score(load_sampler(source), sigma or SIGMAS, samples, seed, chains, steps)

    _lines(rows)


@app.command()
def weights(
    source: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ] = "lj13",
    nfe: Annotated[list[int] | None, typer.Option(help="Network evaluations; may be given several times.")] = None,
    kernel: Annotated[list[str] | None, typer.Option(help="Kernel; may be given several times.")] = None,
    last_step: Annotated[list[str] | None, typer.Option(help="Last step; may be given several times.")] = None,
    calls: Annotated[int | None, typer.Option(help="Energy calls a sample of nested or annealed last steps.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples of each.")] = 10_000,
    seed: Seed = 0,
) -> None:
    """Effective samples by kernel, last step and network evaluations; by default what plans say, and the plain last
    step."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import measure_weights
        from ..sampler import load_sampler

        kernels: list[str | None] = [*kernel] if kernel else [None]
        last_steps: list[str | None] = [*last_step] if last_step else ["plain", None]
        yield from measure_weights(load_sampler(source), nfe or (6, 12, 25), kernels, last_steps, calls, n, seed)

    _lines(rows)


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
        from ..benchmarks import measure_methods, methods_table
        from ..files import own_folder, write_atomic
        from ..report import plot_methods
        from ..sampler import load_sampler

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


@app.command(name="log-z")
def log_z(
    source: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ] = "lj13",
    nfe: Annotated[int, typer.Option(help="Network evaluations a path.")] = 25,
    n: Annotated[int, typer.Option("-n", help="Paths.")] = 10_000,
    flow_n: Annotated[int, typer.Option("--flow-n", help="Points of the probability flow.")] = 100,
    mbar_n: Annotated[int, typer.Option("--mbar-n", help="Chains on each rung of the ladder for MBAR.")] = 1000,
    seed: Seed = 0,
) -> None:
    """log Z by paths, by the probability flow, by MBAR, and exactly where it is known."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import measure_log_z
        from ..sampler import load_sampler

        yield from measure_log_z(load_sampler(source), nfe, n, flow_n, mbar_n, seed)

    _lines(rows)


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
        from ..benchmarks import measure_engines

        yield from measure_engines(system, engine or ("mala", "pt", "openmm", "ase"), n, steps, cores(), seed)

    _lines(rows)


@app.command()
def network(
    system: System = "lj13",
    seconds: Annotated[float, typer.Option(help="Training time of each.")] = 60.0,
    seed: Seed = 0,
) -> None:
    """Our network and optimiser beside the iDEM paper's, for equal wall time."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..benchmarks import compare_networks

        yield from compare_networks(system, seconds, seed)

    _lines(rows)


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
        from ..benchmarks import reproduce

        def tell(what: str) -> None:
            work.say(what)
            work.phase(what)

        rows = reproduce(systems.split(","), presets.split(","), seeds, out, minutes, budget_minutes, n, tell)
    if as_json:
        return print_json({"rows": rows})
    typer.echo((out / "table.md").read_text(encoding="utf-8"), nl=False)
