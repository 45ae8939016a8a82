"""``idem-md scan``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import working
from .console import DEVICE, OVERWRITE
from .drawing import (
    NfeOption,
    PlanOption,
    at_temperature,
    draw,
    kelvins,
    plan_options,
    report,
    sampler_of,
    show,
)
from .outputs import PlotOption, claim_outputs
from .potential import CalculatorOption, OwnPotential, TwinCalculatorOption, XmlOption, explaining_potentials

if TYPE_CHECKING:
    from ..sampler import PlanOptions

__all__ = ["scan", "scan_temperatures"]


@explaining_potentials
def scan(
    system: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ],
    temperatures: Annotated[str, typer.Option(help="In kelvin, with commas.")],
    n: Annotated[int, typer.Option("-n", help="Number of samples at each temperature.")] = 1000,
    nfe: NfeOption = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[Path | None, typer.Option(help="F.dcd, for files F-60K.dcd and so on.")] = None,
    plan: PlanOption = None,
    last_step_calls: Annotated[int | None, typer.Option(help="Energy calls of the last step, per sample.")] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    twin_calculator: TwinCalculatorOption = None,
    plot: PlotOption = None,
    device: Annotated[str, DEVICE] = "cpu",
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Samples at several temperatures, and a heat-capacity curve: idem-md scan lj13 --temperatures 50,55,60

    Paths above the last step, or their random numbers, are shared, so that differences between neighbours are less
    noisy than the ensembles.
    """
    options = plan_options(plan, nfe=nfe, last_step_calls=last_step_calls)
    kelvin, potential = kelvins(temperatures), OwnPotential(calculator, xml, twin_calculator)
    scan_temperatures(system, kelvin, n, seed, options, out, potential, plot, device, overwrite, as_json)


def scan_temperatures(
    system: str,
    temperatures: list[float],
    n: int,
    seed: int,
    options: PlanOptions,
    out: Path | None,
    potential: OwnPotential,
    plot: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run `scan` with any options of a plan."""
    with working() as work:
        from ..checks import check_int

        n = check_int("n", n, 1)
        outs = [at_temperature(out, kelvin) for kelvin in temperatures]
        outputs = claim_outputs(work, outs, overwrite, plot)  # before the work, not after it
        sampler = sampler_of(system, potential, None, device)
        ensembles = draw(
            work,
            sampler,
            outputs,
            lambda _: sampler.scan(n, temperatures, seed=seed, **options),
            lambda k: f"go on with idem-md extend{potential} --sampler {system} -n {n - k}",
        )
        results = report(outputs, ensembles)
    show(ensembles, results, True, as_json)
