"""``idem-md extend``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..progress import working
from .console import DEVICE
from .drawing import draw, network_of, report, sampler_of, show
from .outputs import PlotOption, claim_outputs
from .potential import CalculatorOption, OwnPotential, TwinCalculatorOption, XmlOption, explaining_potentials

__all__ = ["extend", "extend_file"]

# Samples that a call draws at most that asks for effective ones.
MAX_SAMPLES = 1_000_000


@explaining_potentials
def extend(
    file: Annotated[Path, typer.Argument(help="A DCD written by idem-md sample, which is replaced by the larger set.")],
    n: Annotated[int | None, typer.Option("-n", help="Samples to add; at most so many with --ess.")] = None,
    ess: Annotated[float | None, typer.Option(help="Draw until so many are effective in all.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Run folder or checkpoint, if it is not found.")] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    twin_calculator: TwinCalculatorOption = None,
    seed: Annotated[int | None, typer.Option(help="By default that of the samples, continued.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw; by default this one.")] = None,
    plot: PlotOption = None,
    device: Annotated[str, DEVICE] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Add samples to a file: idem-md extend lj13.dcd --ess 1000

    The samples are drawn with the plan of those that are there, and with the random numbers that come next. The network
    is found by the file, or given with --sampler.
    """
    from ..errors import UsageError

    if n is None and ess is None:
        raise UsageError("n: expected -n, how many samples more, or --ess, got neither")
    potential = OwnPotential(calculator, xml, twin_calculator)
    extend_file(file, sampler, n, ess, seed, potential, workers, plot, device, as_json)


def extend_file(
    file: Path,
    source: str | None,
    n: int | None,
    ess: float | None,
    seed: int | None,
    potential: OwnPotential,
    workers: int | None,
    plot: Path | None,
    device: str,
    as_json: bool,
    name: str = "file",
) -> None:
    """`extend`, by the network of that name, or the shipped one that the file names; ``name`` is that of the file's
    argument in errors."""
    with working() as work:
        from ..checks import check_int
        from ..ensemble import load_ensemble

        if workers is not None:
            check_int("workers", workers, 1)
        n = check_int("n", MAX_SAMPLES if n is None else n, 1)
        outputs = claim_outputs(work, [file], True, plot, name)  # before the work, not after it
        before = load_ensemble(file)
        sampler = sampler_of(source or network_of(before), potential, workers, device)
        named = f" --sampler {source}" if source not in (None, network_of(before)) else ""

        def again(count: int) -> str:
            return f"go on with idem-md extend{named}{potential} -n {n + len(before) - count}"

        ensembles = draw(
            work, sampler, outputs, lambda _: [sampler.extend(before, n, ess, seed, executor=workers)], again, before
        )
        results = report(outputs, ensembles)
    show(ensembles, results, False, as_json)
