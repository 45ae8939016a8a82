"""``idem-md bench``: measurements on this machine and of your networks, JSON lines on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from ..progress import working
from .console import DEVICE, print_json
from .groups import GroupedCommand

__all__ = ["Batch", "Repeats", "Seed", "System", "app", "json_lines"]

app = typer.Typer(
    help="Measurements on this machine and of your networks, JSON lines: idem-md bench target",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def callback(context: typer.Context) -> None:
    """Measurements on this machine and of your networks, JSON lines: idem-md bench target"""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


System = Annotated[str, typer.Option(help="A Lennard-Jones system.")]
Batch = Annotated[int | None, typer.Option(help="Configurations or chains.")]
Repeats = Annotated[int, typer.Option(help="Calls timed; the median is given.")]
Reference = Annotated[bool, typer.Option(help="Also time plain torch.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same numbers.")]


def json_lines(rows: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
    """One JSON object a row, as they come."""
    with working("measuring") as work:
        for row in rows():
            with work.aside():
                print_json(row)


def _run(*args) -> None:
    def rows() -> Iterator[Mapping[str, Any]]:
        from ..measurements import run_benchmark

        yield run_benchmark(*args)

    json_lines(rows)


@app.command(cls=GroupedCommand)
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


@app.command(cls=GroupedCommand)
def energy(
    system: System = "lj13",
    batch: Batch = None,
    repeats: Repeats = 5,
    device: Annotated[str, DEVICE] = "cpu",
    reference: Reference = True,
) -> None:
    """Energies with forces against autograd."""
    _run("energy", system, batch, None, repeats, device, reference)


@app.command(cls=GroupedCommand)
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


@app.command(cls=GroupedCommand)
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


@app.command(cls=GroupedCommand)
def score(
    source: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ] = "lj13",
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="Noise level, reduced length; repeatable."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Configurations.")] = 512,
    chains: Annotated[int, typer.Option(help="Markov chains a configuration, in each half.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps a chain.")] = 4000,
    seed: Seed = 0,
) -> None:
    """The score-error meter: how far a network is from the exact denoiser, in nats per unit of ln sigma."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..measurements import SIGMAS, measure_score
        from ..sampler import load_sampler

        yield from measure_score(load_sampler(source), sigma or SIGMAS, samples, seed, chains, steps)

    json_lines(rows)


@app.command(cls=GroupedCommand)
def weights(
    source: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ] = "lj13",
    nfe: Annotated[list[int] | None, typer.Option(help="Network evaluations; repeatable.")] = None,
    kernel: Annotated[list[str] | None, typer.Option(help="Kernel; may be given several times.")] = None,
    last_step: Annotated[list[str] | None, typer.Option(help="Last step; may be given several times.")] = None,
    calls: Annotated[int | None, typer.Option(help="Energy calls of the last step, per sample.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples of each.")] = 10_000,
    seed: Seed = 0,
) -> None:
    """Effective samples by kernel, last step and network evaluations; by default what plans say, and the plain last
    step."""

    def rows() -> Iterator[Mapping[str, Any]]:
        from ..measurements import measure_weights
        from ..sampler import load_sampler

        kernels: list[str | None] = [*kernel] if kernel else [None]
        last_steps: list[str | None] = [*last_step] if last_step else ["plain", None]
        yield from measure_weights(load_sampler(source), nfe or (6, 12, 25), kernels, last_steps, calls, n, seed)

    json_lines(rows)


@app.command(name="log-z", cls=GroupedCommand)
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
        from ..measurements import measure_log_z
        from ..sampler import load_sampler

        yield from measure_log_z(load_sampler(source), nfe, n, flow_n, mbar_n, seed)

    json_lines(rows)


# What the project measures for itself is in its repository.
MOVED = "coverage", "engines", "methods", "network", "reproduce", "workers"


def _moved(name: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        from ..errors import UsageError

        words = " ".join([name, *context.args])
        raise UsageError(
            f"bench: {name} is in the project's repository, not in the package; in a clone of it: "
            f"PYTHONPATH=benchmarks python -m idem_bench {words}"
        )

    return command


for _name in MOVED:
    anything = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(_name, hidden=True, context_settings=anything)(_moved(_name))
