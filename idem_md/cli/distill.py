"""``idem-md distill``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import Work, working
from .console import Stop, folder_option, print_json
from .tune import model_folder, shipped_samples

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint
    from ..distillation import Distillation
    from ..energies import Energy

__all__ = ["distill"]


def distill(
    source: Annotated[str, typer.Argument(help="A system with a shipped checkpoint, or a run folder.")],
    out: Annotated[Path | None, folder_option("Folder for the model; the run's by default.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the flow map, in hundreds.")] = 5000,
    lowest: Annotated[float | None, typer.Option(help="Lowest noise level of the flow map.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same flow map.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Budget of wall time for the flow map.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last state.")] = False,
    plans: Annotated[bool, typer.Option(help="Tune plans, which takes energy calls.")] = True,
    n: Annotated[int, typer.Option("-n", help="Samples on which plans are tried.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A consistency model from a trained sampler: idem-md distill lj13 --out runs/lj13-consistency

    Learns a flow map by regression on trajectories of the probability flow, without energy calls, and then tunes plans.
    Ctrl-C keeps a state; --resume goes on from there, bit for bit.
    """
    with working() as work:
        from ..checkpoint import save_checkpoint
        from ..checks import check_int
        from ..distillation import Distillation
        from ..energies.foreign import ForeignEnergy
        from ..errors import UsageError
        from ..files import own_folder
        from ..sampler import load_sampler
        from ..systems import SYSTEMS
        from ..training import run_samples
        from ..tuning import evenly_spread

        settings = Distillation(steps=steps, lowest=lowest, seed=seed)
        n = check_int("n", n, 100)
        sampler = load_sampler(source)
        folder = model_folder(source, out)
        work.held.enter_context(own_folder(folder))
        state, model = folder / "distillation.safetensors", folder / "model.safetensors"
        if state.exists() and not resume:
            raise UsageError(
                f"out: {folder} already has a distillation; --resume goes on with it, or choose another folder"
            )
        if resume and not state.exists():
            raise UsageError(f"resume: expected a distillation in {folder}, there is none")
        # Before the work: there may be none.
        energy = sampler.system.energy() if plans else None
        tunable = energy is not None and not isinstance(energy, ForeignEnergy)
        buffer = evenly_spread(run_samples(Path(source)), n) if tunable and source not in SYSTEMS else None
        checkpoint = _distilled(work, sampler.checkpoint, state, settings, resume, minutes)
        save_checkpoint(model, checkpoint)
        if energy is not None and tunable:
            samples = shipped_samples(source, n, seed + 1) if buffer is None else buffer
            save_checkpoint(model, _planned(work, checkpoint, energy, samples, seed))
        state.unlink()
    records = checkpoint.provenance["heads"]
    made = records["flow_map"]
    seconds, miss = made["seconds"] + records["flow_covariance"]["seconds"], made["flow_map_error"][0][-1]
    if as_json:
        print_json({"model": str(model), "seconds": seconds, "flow_map_error": miss})
    else:
        typer.echo(
            f"{model}: {seconds:.0f} s; from the highest to the lowest level the flow map misses by {miss:.3f} of the "
            "noise"
        )


def _distilled(
    work: Work, checkpoint: Checkpoint, state: Path, settings: Distillation, resume: bool, minutes: float | None
) -> Checkpoint:
    """The checkpoint with a flow map; ends the command when Ctrl-C does."""
    from ..distillation import distill as run_distillation
    from ..errors import Interrupted

    stop, covariance_steps = Stop(), settings.covariance_steps or 0

    def on_round(done: int, total: int, loss: float) -> None:
        work.resize(100 * total + covariance_steps, 100 * (done - 1))
        work.advance(100, f"loss {loss:.2g}")

    try:
        work.phase("distilling", settings.steps + covariance_steps, "steps")
        with stop.listening(work.say, "the end of the round"):
            return run_distillation(
                checkpoint,
                state,
                settings,
                resume=resume,
                minutes=minutes,
                stop=lambda: stop.asked,
                on_round=on_round,
                on_step=lambda _: work.advance(),
            )
    except Interrupted as error:
        work.say(str(error))
        raise typer.Exit(stop.code) from None


def _planned(work: Work, checkpoint: Checkpoint, energy: Energy, samples: torch.Tensor, seed: int) -> Checkpoint:
    """The checkpoint with plans for consistency; others stay."""
    from ..diffusion.kernels import Consistency
    from ..tuning import default_nfes, tune_plans, with_tuning_cost
    from ..tuning.display import TuningDisplay

    start, wanted = time.perf_counter(), {Consistency.method: default_nfes()[Consistency.method]}
    planned = tune_plans(checkpoint, energy, samples, wanted, seed, TuningDisplay(work, 0).plan)
    return with_tuning_cost(planned, energy.calls, time.perf_counter() - start)
