"""``idem-md sample``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import DEVICE, OVERWRITE, print_json
from .outputs import claim_outputs, keeping
from .potential import CalculatorOption, XmlOption, cores, system_of_network
from .progress import sampling, working
from .results import print_table, result, spread

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble

__all__ = ["sample"]

# Samples of a call that asks for effective ones.
MOST = 1_000_000
# By which it is seen how many it will take.
PILOT = 250


def sample(
    system: Annotated[
        str, typer.Argument(help="A system with a shipped checkpoint, a run folder, or a checkpoint file.")
    ],
    n: Annotated[
        int | None, typer.Option("-n", help="Number of samples, by default 1000; with --ess the most that are drawn.")
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(help="Network evaluations a sample; by default those with the most effective samples a second."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Same seed, same machine: same samples, in however many processes. By default 0; with --append that "
            "of the samples, whose random numbers go on."
        ),
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
            help="In kelvin; by default the system's, for which the network was trained. Several, with commas, share "
            "their paths, and give a heat-capacity curve.",
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
    plot: Annotated[
        Path | None, typer.Option(help="F.png: energies and pair distances, with weights and without.")
    ] = None,
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
        bool, typer.Option("--append", help="Go on where the samples in --out end, and add to them.")
    ] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw weighted samples: idem-md sample lj13 -n 1000 --out lj13.dcd"""
    with working() as work:
        from ..checks import check_int
        from ..ensemble import WeightedEnsemble, load_ensemble
        from ..errors import ResultError, UsageError
        from ..sampler import Sampler, load_sampler

        if append and overwrite:
            raise UsageError("overwrite: expected none beside --append, which adds to what is there")
        if workers is not None:
            check_int("workers", workers, 1)
        n = check_int("n", (1000 if ess is None else MOST) if n is None else n, 1)
        if unweighted and temperature is not None and "," in temperature:
            raise UsageError(f"temperature: expected a single one with --unweighted, got {temperature!r}")
        temperatures = [] if temperature is None else _kelvins(temperature)
        outs = [out] if len(temperatures) < 2 else [_at(out, t) for t in temperatures]
        chosen = {"nfe": nfe, "method": method, "kernel": kernel, "last_step": last_step, "moves": moves}
        chosen |= {"last_step_calls": last_step_calls, "temperature": temperature, "unweighted": unweighted}
        given = {"workers": workers, "shard": shard, "ess": ess, "append": append or None}
        if len(temperatures) > 1 and (asked := [name for name, value in given.items() if value is not None]):
            raise UsageError(f"{asked[0]}: expected none with several temperatures")
        if append and out is None:
            raise UsageError("append: expected --out with the samples to go on from, got none")
        if shard is not None and (append or ess is not None):
            raise UsageError("shard: expected none beside --append and --ess, got both")
        if append and (changed := [name for name, value in chosen.items() if value not in (None, "auto", False)]):
            raise UsageError(f"{changed[0]}: expected none beside --append, which goes by the plan of the samples")
        outputs = claim_outputs(work, outs, overwrite, plot, append)  # before the work, not after it
        after = load_ensemble(out) if append and out is not None else None
        sampler = load_sampler(system, device=device)
        known = sampler.checkpoint.system
        # Processes that draw evaluate by themselves.
        own = system_of_network(known, calculator, xml, cores() if workers else 1)
        sampler = sampler if own is known else Sampler(sampler.checkpoint, own, device)
        options = (nfe, 0 if seed is None else seed, method, kernel, last_step, last_step_calls)
        tell = sampling(work, n, not unweighted)
        potential = "".join(f" --{k} {v}" for k, v in (("calculator", calculator), ("xml", xml)) if v is not None)
        again, drawn = f"; go on with idem-md sample {system}{potential} --append --out", list[WeightedEnsemble]()
        again = again if shard is None else "; a shard is to be drawn again, by the same command, not"

        def keep() -> list[str]:
            # What was there before is there still.
            return outputs.keep([e for e in sampler.so_far() or drawn if e is not after], again)

        with keeping(work, keep):
            if len(temperatures) > 1:
                ensembles = sampler.scan(n, temperatures, *options, progress=tell, moves=moves)
            else:
                kelvin = temperatures[0] if temperatures else None
                whole = after
                if whole is None:
                    whole = sampler.sample(
                        n if ess is None else min(n, PILOT),
                        *options,
                        temperature_K=kelvin,
                        progress=tell,
                        moves=moves,
                        weighted=not unweighted,
                        executor=workers,
                        shard=_shard(shard),
                    )
                    drawn.append(whole)
                if (after is not None or ess is not None) and (left := n if after is not None else n - len(whole)):
                    whole = sampler.extend(whole, left, ess, seed, tell, workers)
                ensembles = [whole]
        if shard is not None and out is not None and not ensembles[0].alive.any():
            outputs.save(ensembles)
            raise ResultError(
                f"weights: expected some above zero, all {len(ensembles[0])} samples have none; {out} is written, so "
                "that they are in the count of all shards"
            )
        means = [e.mean_energy for e in ensembles]  # raises if no sample has weight, and then nothing is written
        results = [result(e, mean, files) for e, mean, files in zip(ensembles, means, outputs.save(ensembles))]
        if plot is not None:
            from ..report import plot_histograms

            with outputs.picture(plot) as target:
                plot_histograms({f"{e.system.units.temperature_kelvin:g} K": e for e in ensembles}, target)
        scan = len(results) > 1
        if scan:
            results = [r | _thermal(e) for r, e in zip(results, ensembles)]
    if unweighted:  # asked for, and worth a word all the same
        typer.echo(f"idem-md: warning: {ensembles[0].advice}", err=True)
    if not as_json and not scan:
        return print_table(ensembles[0], results[0])
    if as_json:
        print_json({"temperatures": results} if scan else results[0])
    else:
        _print_scan(results)


def _shard(text: str | None) -> tuple[int, int]:
    from ..errors import UsageError

    try:
        k, m = (0, 1) if text is None else (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"shard: expected K/M, two whole numbers, got {text!r}") from None
    return k, m


def _kelvins(text: str) -> list[float]:
    from ..errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"temperature: expected a number, or several with commas, got {text!r}") from None


def _at(out: Path | None, kelvin: float) -> Path | None:
    """F-60K.dcd for F.dcd."""
    return None if out is None else out.with_name(f"{out.stem}-{kelvin:g}K{out.suffix}")


def _thermal(ensemble: WeightedEnsemble) -> dict[str, Any]:
    """What is told beside the rest if there are several temperatures."""
    from ..analysis import heat_capacity
    from ..provenance import finite_or_none

    value, error = heat_capacity(ensemble)
    kelvin = ensemble.system.units.temperature_kelvin
    return {"temperature_K": kelvin, "heat_capacity": value, "heat_capacity_err": finite_or_none(error)}


def _print_scan(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    grid = Table(title=f"{first['n']} samples at each of {len(results)} temperatures, from the same paths")
    for heading in ("T (K)", "effective", "log Z", "mean energy (kT)", "heat capacity (k_B)"):
        grid.add_column(heading)
    for r in results:
        grid.add_row(
            f"{r['temperature_K']:g}",
            f"{r['ess']:.0f} ({100 * r['ess_fraction']:.0f}%)",
            f"{r['log_z']:.3f} {spread(r['log_z_err'], 3)}",
            f"{r['mean_energy']:.2f} {spread(r['mean_energy_err'], 2)}",
            f"{r['heat_capacity']:.1f} {spread(r['heat_capacity_err'], 1)}",
        )
    Console().print(grid)
    calls = sum(r["energy_calls"] for r in results)
    seconds = max(r["seconds"] for r in results)
    typer.echo(f"{seconds:.1f} s, {first['nfe']} network evaluations a sample, {calls} energy calls")
    for r in results:
        for file in r["files"]:
            typer.echo(file)
