"""``idem-md tune``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import folder_option, print_json
from .potential import CalculatorOption, XmlOption, own_system
from .progress import Work, by_share, working

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint
    from ..diffusion import SamplingPlan
    from ..systems import System

__all__ = ["add_heads_and_plans", "expectation", "model_folder", "plan_line", "plan_tables", "shipped_samples", "tune"]


PLANS = "noise levels and plans"


def shipped_samples(name: str, n: int, seed: int, work: Work) -> torch.Tensor:
    """Samples of a built-in system by a formula, or else by tempering."""
    import torch

    from ..baselines import reference_engine

    run = reference_engine(name).run(name, n, seed=seed, progress=by_share(work, "reference samples"))
    return torch.tensor(run.positions).float()


def model_folder(source: str, out: Path | None) -> Path:
    """Where a new model of a system or a run goes: ``out``, or the run's own folder."""
    from ..errors import UsageError
    from ..systems import SYSTEMS

    if source in SYSTEMS and out is None:
        raise UsageError("out: expected a folder for the new model, got none; shipped ones are not changed")
    return out or Path(source)


def plan_line(plan: SamplingPlan) -> str:
    """A plan that has been found."""
    return (
        f"{plan.nfe} evaluations: {plan.kernel}, {plan.last_step} from sigma {plan.sigma_1:.3g} "
        f"with {plan.build_last_step().calls:,} energy calls, "
        f"{100 * (plan.ess_fraction or 0):.0f}% effective, {1e3 * (plan.seconds or 0):.2g} ms a sample"
    )


def expectation(checkpoint: Checkpoint) -> str:
    """What samples by the default plan should be worth, to end a line with; nothing if that was not measured."""
    from ..sampler import Sampler

    plan = Sampler(checkpoint).plan()
    if plan.ess_fraction is None or plan.seconds is None:
        return ""
    share, ms = 100 * plan.ess_fraction, 1e3 * plan.seconds
    return f"; by default {share:.0f}% of the samples should be effective, {ms:.2g} ms each"


def plan_tables(checkpoint: Checkpoint) -> dict[str, Any]:
    """All plans, by method and number of evaluations."""
    return {
        method: {str(nfe): plan.table() for nfe, plan in plans.items()} for method, plans in checkpoint.plans.items()
    }


def add_heads_and_plans(
    work: Work,
    checkpoint: Checkpoint,
    samples: torch.Tensor,
    out: Path,
    steps: int,
    seed: int,
    nfes: Sequence[int] = (),
    pilot: int = 1000,
    candidates: int = 1,
    system: System | None = None,
) -> Checkpoint:
    """Run `tuning.tune`, with its progress."""
    from ..tuning import HEAD_TRAININGS, HeadTraining, default_nfes
    from ..tuning import tune as run_tuning

    total, done = steps * len(HEAD_TRAININGS), 0
    work.phase(*(("heads", total, "steps") if steps else (PLANS,)))

    def on_step(_) -> None:
        nonlocal done
        done += 1
        work.advance()
        if done == total:
            work.phase(PLANS)

    def on_plan(plan: SamplingPlan) -> None:
        nonlocal done
        if done < total:  # a head that was done sooner
            done = total
            work.phase(PLANS)
        work.say(plan_line(plan))

    def on_rung(kelvin: float) -> None:
        work.say(f"{kelvin:.4g} K")

    return run_tuning(
        checkpoint,
        samples,
        out,
        system=system,
        heads=HeadTraining(steps=steps, seed=seed),
        nfes=dict.fromkeys(default_nfes(), nfes) if nfes else None,
        candidates=candidates,
        pilot=pilot,
        on_step=on_step,
        on_plan=on_plan,
        on_rung=on_rung,
    )


def tune(
    source: Annotated[str, typer.Argument(help="A system with a shipped checkpoint, or a run folder.")],
    out: Annotated[
        Path | None, folder_option("Folder for the new model.safetensors; by default the run folder.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Samples to learn from, where there is no run.")] = 16_000,
    steps: Annotated[int, typer.Option(help="Training steps of the elastic network; 0 for none.")] = 4000,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same elastic network.")] = 0,
    candidates: Annotated[int, typer.Option(help="Energy calls a sample in the plan for expensive potentials.")] = 1,
    pilot: Annotated[int, typer.Option(help="Samples on which plans are tried.")] = 1000,
    nfe: Annotated[
        list[int] | None, typer.Option(help="Network evaluations to plan for, given once or more; by default 4 to 50.")
    ] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Elastic network and sampling plans for a trained network: idem-md tune runs/lj13

    Training ends with it; this is for checkpoints made before, or to do it again.
    """
    with working() as work:
        from ..checks import check_int
        from ..files import own_folder
        from ..sampler import load_sampler
        from ..systems import SYSTEMS
        from ..training import run_samples

        steps, seed = check_int("steps", steps, 0), check_int("seed", seed, 0, 2**31 - 1)
        nfes = [check_int("nfe", k, 2) for k in nfe or ()]
        pilot, n = check_int("pilot", pilot, 100), check_int("n", n, 600)
        candidates = check_int("candidates", candidates, 1)
        checkpoint = load_sampler(source).checkpoint
        folder = model_folder(source, out)
        own = own_system(checkpoint.system.name, calculator, xml, None, checkpoint.system)
        work.held.enter_context(own_folder(folder))
        samples = shipped_samples(source, n, seed + 1, work) if source in SYSTEMS else run_samples(Path(source))
        model = folder / "model.safetensors"
        tuned = add_heads_and_plans(work, checkpoint, samples, model, steps, seed, nfes, pilot, candidates, own)
    if as_json:
        print_json({"model": str(model), "plans": plan_tables(tuned)})
    else:
        typer.echo(f"{model}{expectation(tuned)}")
