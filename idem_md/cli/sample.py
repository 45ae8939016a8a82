"""``idem-md sample``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import DEVICE, OVERWRITE
from .drawing import NfeOption, draw, kelvins, note, potential_words, report, sampler_of, show
from .extend import MOST, extend_file
from .outputs import PlotOption, claim_outputs
from .potential import CalculatorOption, XmlOption
from .progress import sampling, working
from .scan import scan_temperatures

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble

__all__ = ["sample"]

# By which it is seen how many it will take.
PILOT = 250


def sample(
    system: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ],
    n: Annotated[
        int | None, typer.Option("-n", help="Number of samples, by default 1000; with --ess the most that are drawn.")
    ] = None,
    nfe: NfeOption = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Same seed, same machine: same samples, in however many processes. By default 0."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = None,
    method: Annotated[
        str, typer.Option(help="diffusion, consistency, or auto: that with the most effective samples a second.")
    ] = "auto",
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Transition kernel: ddpm, analytic or elastic; with jumps consistency or isotropic-consistency. By "
            "default the plan's."
        ),
    ] = None,
    last_step: Annotated[
        str | None, typer.Option(help="Last step: plain, nested or annealed; by default the plan's.")
    ] = None,
    last_step_calls: Annotated[
        int | None, typer.Option(help="Energy calls a sample for the nested or annealed last step.")
    ] = None,
    moves: Annotated[
        int | None, typer.Option(help="Langevin steps on the potential after the last step; by default the plan's.")
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature",
            "--temperatures",
            help="In kelvin; by default the system's, for which the network was trained. For several see idem-md scan.",
        ),
    ] = None,
    unweighted: Annotated[
        bool,
        typer.Option(
            "--unweighted",
            help="Raw samples in few evaluations, 1 to 6 and by default 4: the plan's last step included, no weights.",
        ),
    ] = False,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    plot: PlotOption = None,
    device: Annotated[str, DEVICE] = "cpu",
    workers: Annotated[int | None, typer.Option(help="Processes that draw; by default this one.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/M",
            help="The share of job K of M, 0/8 to 7/8 for eight of them, of -n samples; see idem-md merge.",
        ),
    ] = None,
    ess: Annotated[float | None, typer.Option(help="Draw until there are so many effective samples.")] = None,
    append: Annotated[
        bool, typer.Option("--append", hidden=True, help="Now idem-md extend: go on where the samples in --out end.")
    ] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw weighted samples: idem-md sample lj13 -n 1000 --out lj13.dcd"""
    from ..errors import ResultError, UsageError

    temperatures = [] if temperature is None else kelvins(temperature)
    chosen = {"nfe": nfe, "method": method, "kernel": kernel, "last_step": last_step, "moves": moves}
    chosen |= {"last_step_calls": last_step_calls, "temperature": temperature, "unweighted": unweighted}
    if append:
        _refuse_beside_append(out, overwrite, shard, chosen)
        assert out is not None
        note(f"sample --append is now idem-md extend {out}")
        n = 1000 if n is None and ess is None else n
        return extend_file(out, system, n, ess, seed, calculator, xml, workers, plot, device, as_json, "append")
    if len(temperatures) > 1:
        given = {"unweighted": unweighted or None, "workers": workers, "shard": shard, "ess": ess}
        if asked := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{asked[0]}: expected none with several temperatures")
        note(f"sample with several temperatures is now idem-md scan {system} --temperatures {temperature}")
        options = {"nfe": nfe, "method": method, "kernel": kernel, "last_step": last_step, "moves": moves}
        options |= {"last_step_calls": last_step_calls}
        n, seed = 1000 if n is None else n, 0 if seed is None else seed
        return scan_temperatures(
            system, temperatures, n, seed, options, out, calculator, xml, plot, device, overwrite, as_json
        )
    with working() as work:
        from ..checks import check_int

        if workers is not None:
            check_int("workers", workers, 1)
        n = check_int("n", (1000 if ess is None else MOST) if n is None else n, 1)
        if shard is not None and ess is not None:
            raise UsageError("shard: expected none beside --append and --ess, got both")
        outputs = claim_outputs(work, [out], overwrite, plot)  # before the work, not after it
        sampler = sampler_of(system, calculator, xml, workers, device)
        tell = sampling(work, n, not unweighted)

        def again(count: int) -> str:
            if shard is not None:
                return "draw the shard again with the same command, and do not merge"
            return f"go on with idem-md extend{potential_words(calculator, xml)} --sampler {system} -n {n - count}"

        def how(drawn: list[WeightedEnsemble]) -> list[WeightedEnsemble]:
            first = sampler.sample(
                n if ess is None else min(n, PILOT),
                nfe,
                0 if seed is None else seed,
                method,
                kernel,
                last_step,
                last_step_calls,
                temperature_K=temperatures[0] if temperatures else None,
                progress=tell,
                moves=moves,
                weighted=not unweighted,
                executor=workers,
                shard=_shard(shard),
            )
            drawn.append(first)
            left = 0 if ess is None else n - len(first)
            return [sampler.extend(first, left, ess, seed, tell, workers) if left else first]

        ensembles = draw(work, sampler, outputs, how, again)
        if shard is not None and out is not None and not ensembles[0].alive.any():
            outputs.save(ensembles)
            raise ResultError(
                f"weights: expected some above zero, all {len(ensembles[0])} samples have none; {out} is written, so "
                "that they are in the count of all shards"
            )
        results = report(outputs, ensembles)
    if unweighted:  # asked for, and worth a word all the same
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
    if changed := [name for name, value in chosen.items() if value not in (None, "auto", False)]:
        raise UsageError(f"{changed[0]}: expected none beside --append, which goes by the plan of the samples")


def _shard(text: str | None) -> tuple[int, int]:
    from ..errors import UsageError

    try:
        k, m = (0, 1) if text is None else (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"shard: expected K/M, two whole numbers, got {text!r}") from None
    return k, m
