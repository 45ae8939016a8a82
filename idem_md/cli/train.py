"""``idem-md train``"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import Work, working
from .console import DEVICE, Stop, folder_option, picture, print_json
from .drawing import kelvins, note
from .potential import CalculatorOption, LabelsOption, TrapOption, XmlOption, explaining_potentials, own_system
from .processes import launched, placed

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..systems import System
    from ..training import TrainingConfig

__all__ = ["train"]


def _settings(
    config: str,
    seed: int | None,
    preset_name: str | None,
    iterations: int | None,
    own: System | None,
    temperatures: tuple[float, float] | None,
    max_energy_calls: int | None,
    twin: bool,
) -> TrainingConfig:
    from ..checks import check_int
    from ..errors import UsageError
    from ..systems import SYSTEMS
    from ..training import default_preset, load_config, preset

    if own is not None and not config.endswith(".toml"):
        name = preset_name or default_preset(own, max_energy_calls, twin)
        settings = preset(own, name, seed or 0, temperatures, max_energy_calls)
    elif config in SYSTEMS:
        settings = preset(config, preset_name or "refined", seed or 0, temperatures, max_energy_calls)
    elif config.endswith(".toml"):
        if temperatures is not None:
            raise UsageError("temperatures: expected a range in the table [ladder] of the TOML file, got an option")
        if preset_name is not None:
            raise UsageError("preset: expected a system name beside --preset, got a TOML file")
        settings = load_config(Path(config), built_in=own is None)
        if seed is not None:
            settings = settings.model_copy(update={"seed": check_int("seed", seed, 0, 2**31 - 1)})
    else:
        raise UsageError(f"config: expected one of {', '.join(SYSTEMS)} or a .toml file, got {config!r}")
    if iterations is not None:
        check_int("iterations", iterations, 1)
        optimizer = settings.optimizer.model_copy(update={"iterations": iterations})
        settings = settings.model_copy(update={"optimizer": optimizer})
    return settings


def _temperatures(text: str | None) -> tuple[float | None, tuple[float, float] | None]:
    """The temperature of a potential of one's own, and the range of training, if there is one."""
    from ..errors import UsageError

    if text is None:
        return None, None
    values = kelvins(text)
    if len(values) > 2:
        raise UsageError(f"temperatures: expected one, or the lowest and the highest, got {text!r}")
    return values[0], (values[0], values[1]) if len(values) == 2 else None


@explaining_potentials
def train(
    config: Annotated[str, typer.Argument(help="A system name, a TOML file, or a name for your own potential.")],
    out: Annotated[Path | None, folder_option("Run folder; runs/NAME by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; 0 by default, or the file's.")] = None,
    preset_name: Annotated[
        str | None,
        typer.Option(
            "--preset",
            hidden=True,
            help="refined, classical, frugal, twin, idem, pdem.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last state.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Budget of wall time.")] = None,
    max_energy_calls: Annotated[int | None, typer.Option(help="Budget of energy calls; never exceeded.")] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    temperatures: Annotated[
        str | None,
        typer.Option(
            "--temperatures",
            "--temperature",
            help="In kelvin; 20,70 for all between 20 and 70.",
        ),
    ] = None,
    labels: LabelsOption = None,
    trap: TrapOption = None,
    twin: Annotated[bool, typer.Option("--twin", help="Train on a fit to few energy calls.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", hidden=True, help="Energies and forces for the twin, as ASE reads them."),
    ] = None,
    device: Annotated[str, DEVICE] = "cpu",
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed", hidden=True, help="One of several processes of torchrun or srun that train together."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    iterations: Annotated[int | None, typer.Option(hidden=True, help="Now a key of [optimizer] in TOML.")] = None,
    elastic_network_steps: Annotated[
        int | None,
        typer.Option(
            hidden=True,
            help="Training steps of the elastic network at the end, 0 for neither it nor plans; by default 4000, or 0 "
            "with a budget, which they do not count towards.",
        ),
    ] = None,
) -> None:
    """Train a sampler from the energy alone: idem-md train lj13 --out runs/lj13 --minutes 20

    Ctrl-C keeps the last whole iteration; --resume goes on from there, bit for bit. At the end comes idem-md tune with
    4000 steps, unless there is a budget; --elastic-network-steps N takes another number, and 0 leaves it out. Processes
    of torchrun or srun train together with --distributed.

    A potential of your own needs --temperature; --labels 0,1,1,... has a number for each atom, the same for atoms that
    may be exchanged one by one (by default as the bonds say, or those of one element), and --trap the stiffness of the
    harmonic trap that keeps a cluster together.

    --twin is for expensive potentials: a network is fitted to some thousand energy calls (--max-energy-calls), the
    sampler is trained on that (for --minutes) and tuned, and sample calls the potential itself once a sample. --data
    FILE.extxyz has energies and forces of the same potential that are there already.

    --preset is for names: refined by default, and twin with --twin. Your own potential gets refined if it is native
    Lennard-Jones without a budget of calls, classical if its calls take less than 0.2 ms, and frugal otherwise; idem
    and pdem are the settings of the papers.
    """
    if iterations is not None:
        note("train --iterations is now the key iterations of [optimizer] in a TOML file")
    with working() as work:
        from dataclasses import replace

        from ..errors import BudgetExhausted, Interrupted, UsageError
        from ..files import locked
        from ..sampler import expectation
        from ..training import load_config, run_config, run_trap
        from ..training import train as run_training
        from ..twin import has_twin
        from ..twin.made import DEFAULT

        name = load_config(Path(config), built_in=False).system if config.endswith(".toml") else config
        processes = launched(os.environ)[0] if distributed else 1
        kelvin, several = _temperatures(temperatures)
        folder = Path("runs") / name if out is None else out
        if resume and trap is None and (calculator or xml):
            trap = run_trap(folder)
        own = own_system(name, calculator, xml, kelvin, processes=processes, labels=labels, trap=trap)
        if own is None and kelvin is not None and several is None:
            raise UsageError(
                "temperature: expected none for a built-in system, whose network is for its own, or two with a comma, "
                "got one"
            )
        chosen = (preset_name, seed, iterations, several) != (None,) * 4 or config.endswith(".toml")
        twin = twin or (resume and has_twin(folder))
        there = twin or (folder / "state.safetensors").exists()
        begun = run_config(folder) if resume and not chosen and there else None
        if begun is not None and begun.system == name:
            settings = begun  # whatever the budget is now
        else:
            calls = None if twin else max_energy_calls  # which are those of the twin
            settings = _settings(config, seed, preset_name, iterations, own, several, calls, twin)
        if data is not None and not twin:
            raise UsageError(f"data: expected none without --twin, got {data}")
        if twin and own is None:
            raise UsageError("twin: expected none for a built-in system, whose energies are cheap, got one")
        stop = Stop()
        try:
            with stop.listening(work.say), placed(device, distributed) as place:
                if not place.first:
                    work.silence()
                checkpoint = run_training(
                    settings,
                    folder,
                    system=own,
                    resume=resume,
                    overwrite=overwrite,
                    minutes=minutes,
                    max_energy_calls=max_energy_calls,
                    twin=twin if data is None else replace(DEFAULT, data=str(data)),
                    device=place.device,
                    group=place.group,
                    stop=lambda: stop.asked,
                )
        except (BudgetExhausted, Interrupted) as error:
            if not stop.asked:
                raise
            work.say(str(error))
            raise typer.Exit(stop.code) from None
        if not place.first:
            return
        work.held.enter_context(locked(folder))  # heads and plans go there, too
        _plot(folder)
        budgeted = minutes is not None or max_energy_calls is not None
        if not stop.asked:
            checkpoint = _tune(work, checkpoint, folder, elastic_network_steps, budgeted, settings.seed, own)
    p, model = checkpoint.provenance, folder / "model.safetensors"
    if as_json:
        keys = ("finished", "iterations", "planned", "seconds", "energy_calls", "twin_calls")
        print_json({"model": str(model)} | {key: p[key] for key in keys if key in p})
    else:
        state = "finished" if p["finished"] else f"stopped after {p['iterations']} of {p['planned']} iterations"
        cost = f"{p['seconds']:.0f} s, {p['energy_calls']} energy calls"
        cost += f" and {p['twin_calls']} of the twin" if "twin_calls" in p else ""
        typer.echo("; ".join(filter(None, (f"{state}: {model}, {cost}", expectation(checkpoint)))))
    if stop.asked:
        raise typer.Exit(stop.code)


def _tune(
    work: Work, checkpoint: Checkpoint, folder: Path, steps: int | None, budgeted: bool, seed: int, own: System | None
) -> Checkpoint:
    """The checkpoint with elastic network and plans, unless they are there or a budget says otherwise."""
    from ..training import run_samples
    from ..tuning import HeadTraining, tune

    if steps is None and checkpoint.expensive is not None:
        steps = 0  # they are there, and of this network
    if steps is None and budgeted and checkpoint.twin is None:
        work.say(f"no elastic network and plans within the budget; for them: idem-md tune {folder}")
        steps = 0
    heads = HeadTraining(steps=4000 if steps is None else steps, seed=seed)
    if heads.steps and (checkpoint.provenance["finished"] or checkpoint.twin is not None):
        return tune(checkpoint, run_samples(folder), folder / "model.safetensors", system=own, heads=heads)
    return checkpoint


def _plot(folder: Path) -> None:
    """training.png, beside the log that it shows."""
    import json

    from ..report import plot_training

    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    with picture("out", folder / "training.png") as target:
        plot_training(log, target)
