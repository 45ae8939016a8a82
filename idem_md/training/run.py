"""A training run in a folder: budgets, log, state that resumes bit for bit, and the final checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..energies import Energy
from ..errors import BudgetExhausted, IdemError, UsageError
from ..files import write_atomic
from ..provenance import hardware, versions
from ..systems import System, get_system
from .budgets import Budget
from .config import TrainingConfig
from .loop import IterationReport, init, measure_accuracy, outer_iteration
from .state import TrainingState, load_state, save_state

__all__ = ["train"]

STATE, MODEL, LOG, CONFIG = "state.safetensors", "model.safetensors", "log.jsonl", "config.json"

OnIteration = Callable[[IterationReport, TrainingState, Energy], None]


def _write_outputs(folder: Path, config: TrainingConfig, state: TrainingState, calls: int, log, finished: bool) -> None:
    provenance = {
        "seed": config.seed,
        "iterations": state.iteration,
        "planned": state.total,
        "finished": finished,
        "seconds": state.seconds,
        "energy_calls": calls,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
    }
    accuracy = measure_accuracy(config, state)
    checkpoint = Checkpoint(state.ema, accuracy, config.model_dump(), state.system, provenance)
    save_checkpoint(folder / MODEL, checkpoint)
    write_atomic(folder / LOG, "".join(json.dumps(entry) + "\n" for entry in log).encode())


def _open_folder(config: TrainingConfig, folder: Path, resume: bool) -> list[Path]:
    """Make the run folder if it is not there; returns the folders that were made."""
    path = folder / STATE
    if not resume and (path.exists() or (folder / MODEL).exists()):
        raise UsageError(f"out: {folder} already holds a run; resume it with --resume or choose another folder")
    if resume and not path.exists():
        raise UsageError(f"resume: expected {path}, there is no such file")
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            write_atomic(folder / CONFIG, json.dumps(config.model_dump(), indent=2).encode())
    except OSError as error:
        raise UsageError(f"out: cannot write to the folder {folder} ({error.strerror})") from None
    return made


def _begin(config: TrainingConfig, folder: Path, system: System, energy: Energy, budget: Budget, stop) -> TrainingState:
    """The first state of a run, saved; if there cannot be one the folder is left as it was found."""
    made = _open_folder(config, folder, resume=False)
    start = time.perf_counter()
    try:
        state = init(config, system, energy, budget.guard(stop))
    except (IdemError, KeyboardInterrupt):
        (folder / CONFIG).unlink()
        for empty in made:
            empty.rmdir()
        raise
    state.filled = (time.perf_counter() - start, energy.calls)
    save_state(folder / STATE, config, state, energy.calls, [])
    return state


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    system: System | None = None,
    resume: bool = False,
    minutes: float | None = None,
    max_energy_calls: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[], None] = lambda: None,
    on_iteration: OnIteration = lambda *_: None,
) -> Checkpoint:
    """Train in ``folder``; leaves ``model.safetensors``, ``state.safetensors``, ``log.jsonl`` and ``config.json``.

    A budget shortens the run without spoiling it: once what is left of it is just what the final decay of the step size
    will take, the number of outer iterations is fixed, logged, and kept by later resumptions, so that the same
    run can be made again with ``optimizer.iterations`` set to it.

    Parameters
    ----------
    system : System, optional
        By default the built-in one that the configuration names.
    resume : bool
        Go on from the state in the folder.
    minutes : float, optional
        Budget of wall time, earlier sessions of the same run included.
    max_energy_calls : int, optional
        Budget of energy calls; never exceeded.
    stop : callable () -> bool
        Asked before every step, and now and then while the first buffer is made; if true the run ends at its last saved
        state.
    on_step, on_iteration : callable
        For progress displays.

    Raises
    ------
    UsageError
        The folder has a run and ``resume`` is false, or has none and it is true.
    ConfigError, FileFormatError
        The state does not fit.
    BudgetExhausted
        A budget, or ``stop``, ends the run before its first iteration is complete.
    Interrupted
        ``stop`` was true before there was a first buffer.
    IdemError
        The training diverged.
    """
    budget = Budget(minutes, max_energy_calls)
    system = get_system(config.system if system is None else system)
    if system.name != config.system:
        raise UsageError(f"system: expected the configuration's {config.system!r}, got {system.name!r}")
    folder = Path(folder)
    path = folder / STATE
    energy = system.energy()
    energy.max_calls = max_energy_calls
    start = time.perf_counter()
    if resume:
        _open_folder(config, folder, resume=True)
        state, energy.calls, log = load_state(path, config, system)
    else:
        state, log = _begin(config, folder, system, energy, budget, stop), []
    earlier = state.seconds
    finished = True
    while state.iteration < state.total:
        try:
            report = outer_iteration(config, energy, state, stop, on_step)
        except BudgetExhausted:
            report = None
        seconds = earlier + time.perf_counter() - start
        if report is None:
            # Half an iteration is worth nothing to a run that must be repeatable: back to the last whole one.
            # What it cost is not forgotten.
            state, _, log = load_state(path, config, system)
            state.seconds, finished = seconds, False
            save_state(path, config, state, energy.calls, log)
            break
        state.seconds = seconds
        used = budget.used(seconds, energy.calls)
        state.total = budget.shortened(
            state.iteration, state.total, used, budget.used(*state.filled), config.optimizer.decay_fraction
        )
        entry = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(report).items()}
        entry |= {"seconds": round(seconds, 2), "energy_calls": energy.calls, "planned": state.total}
        log.append(entry)
        save_state(path, config, state, energy.calls, log)
        on_iteration(report, state, energy)
        if used >= 1 and state.iteration < state.total:
            finished = False
            break
    if state.iteration == 0:
        raise BudgetExhausted(
            f"{folder}: stopped before the first iteration was complete, there is no model yet; "
            "resume goes on from here"
        )
    _write_outputs(folder, config, state, energy.calls, log, finished)
    return load_checkpoint(folder / MODEL)
