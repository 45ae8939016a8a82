"""``idem-md distill``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .console import Stop, folder_option, print_json
from .progress import working
from .tune import model_folder, plan_line, shipped_samples

__all__ = ["distill"]


def distill(
    source: Annotated[str, typer.Argument(help="A system with a shipped checkpoint, or a run folder.")],
    out: Annotated[
        Path | None, folder_option("Folder for the new model.safetensors; by default the run folder.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the jumps, in hundreds.")] = 5000,
    lowest: Annotated[
        float | None, typer.Option(help="Lowest noise level of jumps; by default 0.4 of the scale of the data.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same jumps.")] = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Budget of wall time for the jumps; the schedule shortens to fit.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last state.")] = False,
    plans: Annotated[bool, typer.Option(help="Whether to tune plans, which takes energy calls.")] = True,
    n: Annotated[int, typer.Option("-n", help="Samples on which plans are tried.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A consistency model from a trained sampler: idem-md distill lj13 --out runs/lj13-jump

    Learns jumps along the probability flow by regression on its trajectories, without energy calls, and then tunes
    plans. Ctrl-C keeps a state; --resume goes on from there, bit for bit.
    """
    with working() as work:
        from ..checkpoint import save_checkpoint
        from ..checks import check_int
        from ..energies.foreign import ForeignEnergy
        from ..errors import Interrupted, UsageError
        from ..files import own_folder
        from ..sampler import load_sampler
        from ..systems import SYSTEMS
        from ..training import Distillation
        from ..training import distill as run_distillation
        from ..training.finish import run_samples, spread, tuned
        from ..training.tuning import NFES, tune_plans

        settings = Distillation(steps=steps, lowest=lowest, seed=seed)
        n = check_int("n", n, 100)
        sampler = load_sampler(source)
        folder = model_folder(source, out)
        work.held.enter_context(own_folder(folder))
        state, model, stop = folder / "distillation.safetensors", folder / "model.safetensors", Stop()
        if state.exists() and not resume:
            raise UsageError(
                f"out: {folder} already has a distillation; --resume goes on with it, or choose another folder"
            )
        if resume and not state.exists():
            raise UsageError(f"resume: expected a distillation in {folder}, there is none")
        # Before the work: there may be none.
        energy = sampler.system.energy() if plans else None
        tunable = energy is not None and not isinstance(energy, ForeignEnergy)
        buffer = spread(run_samples(Path(source)), n) if tunable and source not in SYSTEMS else None
        try:
            work.phase("distilling", settings.steps + (settings.stretch_steps or 0), "steps")

            def on_round(done: int, total: int, loss: float) -> None:
                work.resize(100 * total + (settings.stretch_steps or 0), 100 * (done - 1))
                work.advance(100, f"loss {loss:.2g}")

            with stop.listening(work.say, "the end of the round"):
                checkpoint = run_distillation(
                    sampler.checkpoint,
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
        save_checkpoint(model, checkpoint)
        if energy is not None and tunable:
            samples = shipped_samples(source, n, seed + 1, work) if buffer is None else buffer
            wanted = {"consistency": NFES["consistency"]}
            work.phase("plans")
            start = time.perf_counter()
            planned = tune_plans(
                checkpoint, energy, samples, wanted, seed, lambda nfe, plan: work.say(plan_line(nfe, plan))
            )
            save_checkpoint(model, tuned(planned, energy.calls, time.perf_counter() - start))
        state.unlink()
    record = checkpoint.provenance["distillation"]
    seconds, miss = record["seconds"] + record["stretch_seconds"], record["jump_error"][0][-1]
    if as_json:
        print_json({"model": str(model), "seconds": seconds, "jump_error": miss})
    else:
        typer.echo(
            f"{model}: {seconds:.0f} s; from the highest to the lowest level a jump misses by {miss:.3f} of the noise"
        )
