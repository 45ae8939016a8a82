"""``idem-md sample``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import working
from .console import DEVICE, OVERWRITE
from .drawing import (
    NfeOption,
    PlanOption,
    draw,
    kelvins,
    note,
    plan_options,
    report,
    sampler_of,
    show,
)
from .extend import MAX_SAMPLES, extend_file
from .outputs import claim_outputs
from .potential import TWIN_CALCULATOR_HELP, CalculatorOption, OwnPotential, XmlOption, explaining_potentials
from .scan import scan_temperatures

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble
    from ..sampler import PlanOptions

__all__ = ["sample"]

# Samples from which it is estimated how many a number of effective ones will take.
PILOT = 250
HIDDEN_PLOT = Annotated[Path | None, typer.Option("--plot", hidden=True, help="Now idem-md analyse FILE --plot.")]


@explaining_potentials
def sample(
    system: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ],
    n: Annotated[int | None, typer.Option("-n", help="Samples, with --ess at most; 1000 by default.")] = None,
    nfe: NfeOption = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of all random numbers; 0 by default."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = None,
    ess: Annotated[float | None, typer.Option(help="Draw until so many samples are effective.")] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature",
            "--temperatures",
            help="In kelvin; by default that of the training.",
        ),
    ] = None,
    plan: PlanOption = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw; by default this one.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/M",
            help="Part of job K of M (from 0) of the samples.",
        ),
    ] = None,
    device: Annotated[str, DEVICE] = "cpu",
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    method: Annotated[str | None, typer.Option(hidden=True, help="See --plan.")] = None,
    kernel: Annotated[str | None, typer.Option(hidden=True, help="See --plan.")] = None,
    last_step: Annotated[str | None, typer.Option(hidden=True, help="See --plan.")] = None,
    last_step_calls: Annotated[int | None, typer.Option(hidden=True, help="See --plan.")] = None,
    moves: Annotated[int | None, typer.Option(hidden=True, help="See --plan.")] = None,
    twin_calculator: Annotated[str | None, typer.Option(hidden=True, help=TWIN_CALCULATOR_HELP)] = None,
    unweighted: Annotated[bool, typer.Option("--unweighted", hidden=True, help="See --plan.")] = False,
    plot: HIDDEN_PLOT = None,
    append: Annotated[bool, typer.Option("--append", hidden=True, help="Now idem-md extend.")] = False,
) -> None:
    """Draw weighted samples: idem-md sample lj13 -n 1000 --out lj13.dcd

    The file of --plan has some of nfe, method (auto, diffusion, consistency), kernel (ddpm, analytic, elastic,
    consistency, isotropic-consistency), last_step (plain, nested, annealed), last_step_calls, moves, candidate_paths
    (with a twin), and weighted = false for raw samples in few evaluations. --method, --kernel, --last-step and
    --last-step-calls do what the keys of these names do. --twin-calculator MODULE:FUNCTION names a cheaper potential
    of the same atoms beside that to sample: paths end on it, and the other is called once a sample. On one machine the
    same seed gives the same samples, in however many processes and jobs: --shard 0/8 to 7/8 are the parts of eight
    jobs, which idem-md merge puts together.
    """
    from ..errors import UsageError

    temperatures = [] if temperature is None else kelvins(temperature)
    potential = OwnPotential(calculator, xml, twin_calculator)
    options = plan_options(
        plan,
        nfe=nfe,
        method=method,
        kernel=kernel,
        last_step=last_step,
        last_step_calls=last_step_calls,
        moves=moves,
        weighted=False if unweighted else None,
    )
    for name, value, now in (
        ("--moves", moves, "the key moves in the file of --plan"),
        ("--unweighted", unweighted or None, "weighted = false in the file of --plan"),
        ("--plot", plot, "idem-md analyse FILE --plot"),
    ):
        if value is not None:
            note(f"sample {name} is now {now}")
    if append:
        _refuse_beside_append(out, overwrite, shard, {**options, "temperature": temperature})
        assert out is not None
        note(f"sample --append is now idem-md extend {out}")
        n = 1000 if n is None and ess is None else n
        return extend_file(out, system, n, ess, seed, potential, workers, plot, device, as_json, "append")
    if len(temperatures) > 1:
        given = {"unweighted": unweighted or None, "workers": workers, "shard": shard, "ess": ess}
        if asked := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{asked[0]}: expected none with several temperatures")
        note(f"sample with several temperatures is now idem-md scan {system} --temperatures {temperature}")
        n, seed = 1000 if n is None else n, 0 if seed is None else seed
        return scan_temperatures(
            system, temperatures, n, seed, options, out, potential, plot, device, overwrite, as_json
        )
    kelvin = temperatures[0] if temperatures else None
    _sample(
        system, n, 0 if seed is None else seed, out, ess, kelvin, options, potential, workers, shard, plot,
        device, overwrite, as_json,
    )  # fmt: skip


def _sample(
    system: str,
    n: int | None,
    seed: int,
    out: Path | None,
    ess: float | None,
    kelvin: float | None,
    options: PlanOptions,
    potential: OwnPotential,
    workers: int | None,
    shard: str | None,
    plot: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """`sample` at one temperature, into a new file."""
    from ..errors import ResultError, UsageError

    with working() as work:
        from ..checks import check_int

        if workers is not None:
            check_int("workers", workers, 1)
        n = check_int("n", (1000 if ess is None else MAX_SAMPLES) if n is None else n, 1)
        if shard is not None and ess is not None:
            raise UsageError("shard: expected none beside --append and --ess, got both")
        outputs = claim_outputs(work, [out], overwrite, plot)  # before the work, not after it
        sampler = sampler_of(system, potential, workers, device)
        most = n

        def again(count: int) -> str:
            if shard is not None:
                return "draw the shard again with the same command, and do not merge"
            return f"go on with idem-md extend{potential} --sampler {system} -n {most - count}"

        def how(drawn: list[WeightedEnsemble]) -> list[WeightedEnsemble]:
            first = sampler.sample(
                most if ess is None else min(most, PILOT),
                seed=seed,
                temperature_K=kelvin,
                executor=workers,
                shard=_shard(shard),
                **options,
            )
            drawn.append(first)
            left = 0 if ess is None else most - len(first)
            return [sampler.extend(first, left, ess, seed, executor=workers) if left else first]

        ensembles = draw(work, sampler, outputs, how, again)
        if shard is not None and out is not None and not ensembles[0].alive.any():
            outputs.save(ensembles)
            raise ResultError(
                f"weights: expected some above zero, all {len(ensembles[0])} samples have none; {out} is written, so "
                "that they are in the count of all shards"
            )
        results = report(outputs, ensembles)
    if ensembles[0].kind == "raw":  # asked for, and worth a word all the same
        typer.echo(f"idem-md: warning: {ensembles[0].advice}", err=True)
    show(ensembles, results, False, as_json)


def _refuse_beside_append(out: Path | None, overwrite: bool, shard: str | None, chosen: Mapping[str, Any]) -> None:
    from ..errors import UsageError

    if overwrite:
        raise UsageError("overwrite: expected none beside --append, which adds to what is there")
    if out is None:
        raise UsageError("append: expected --out with the samples to go on from, got none")
    if shard is not None:
        raise UsageError("shard: expected none beside --append and --ess, got both")
    if changed := [name for name, value in chosen.items() if value not in (None, "auto")]:
        raise UsageError(f"{changed[0]}: expected none beside --append, which goes by the plan of the samples")


def _shard(text: str | None) -> tuple[int, int]:
    from ..errors import UsageError

    try:
        k, m = (0, 1) if text is None else (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"shard: expected K/M, two whole numbers, got {text!r}") from None
    return k, m
