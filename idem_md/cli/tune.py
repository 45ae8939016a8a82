"""``idem-md tune``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import working
from .console import folder_option, print_json
from .potential import CalculatorOption, XmlOption, explaining_potentials, own_system

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

__all__ = ["model_folder", "plan_tables", "shipped_samples", "tune"]


def shipped_samples(name: str, n: int, seed: int) -> torch.Tensor:
    """Samples of a built-in system by a formula, or else by tempering."""
    import torch

    from ..baselines import reference_engine

    run = reference_engine(name).run(name, n, seed=seed)
    return torch.tensor(run.positions).float()


def model_folder(source: str, out: Path | None) -> Path:
    """Where a new model of a system or a run goes: ``out``, or the run's own folder."""
    from ..errors import UsageError
    from ..systems import SYSTEMS

    if source in SYSTEMS and out is None:
        raise UsageError("out: expected a folder for the new model, got none; shipped ones are not changed")
    return out or Path(source)


def plan_tables(checkpoint: Checkpoint) -> dict[str, Any]:
    """All plans, by method and number of evaluations."""
    return {
        method: {str(nfe): plan.table() for nfe, plan in plans.items()} for method, plans in checkpoint.plans.items()
    }


@explaining_potentials
def tune(
    source: Annotated[str, typer.Argument(help="A system with a shipped checkpoint, or a run folder.")],
    out: Annotated[Path | None, folder_option("Folder for the model; the run's by default.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples to learn from, where there is no run.")] = 16_000,
    steps: Annotated[int, typer.Option(help="Training steps of the elastic network, or 0.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    candidates: Annotated[int, typer.Option(help="Energy calls a sample if they are expensive.")] = 1,
    pilot: Annotated[int, typer.Option(help="Samples on which plans are tried.")] = 1000,
    nfe: Annotated[list[int] | None, typer.Option(help="Network evaluations to plan for; repeatable.")] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Elastic network and sampling plans for a trained network: idem-md tune runs/lj13

    Training without a budget ends with it; this command is for other checkpoints, or to do it again.
    """
    with working() as work:
        from ..checks import check_int
        from ..files import own_folder
        from ..sampler import expectation, load_sampler
        from ..systems import SYSTEMS
        from ..training import run_samples
        from ..tuning import HeadTraining, default_nfes
        from ..tuning import tune as run_tuning

        steps, seed = check_int("steps", steps, 0), check_int("seed", seed, 0, 2**31 - 1)
        nfes = [check_int("nfe", k, 2) for k in nfe or ()]
        pilot, n = check_int("pilot", pilot, 100), check_int("n", n, 600)
        candidates = check_int("candidates", candidates, 1)
        checkpoint = load_sampler(source).checkpoint
        folder = model_folder(source, out)
        # Not for a built-in name: samples of a shipped network are those of the built-in potential.
        trap = checkpoint.provenance.get("trap_kT_per_angstrom2")
        own = own_system(checkpoint.system.name, calculator, xml, None, checkpoint.system, trap=trap)
        work.held.enter_context(own_folder(folder))
        samples = shipped_samples(source, n, seed + 1) if source in SYSTEMS else run_samples(Path(source))
        model = folder / "model.safetensors"
        tuned = run_tuning(
            checkpoint,
            samples,
            model,
            system=own,
            heads=HeadTraining(steps=steps, seed=seed),
            nfes=dict.fromkeys(default_nfes(), nfes) if nfes else None,
            candidates=candidates,
            pilot=pilot,
        )
    if as_json:
        print_json({"model": str(model), "plans": plan_tables(tuned)})
    else:
        typer.echo("; ".join(filter(None, (str(model), expectation(tuned)))))
