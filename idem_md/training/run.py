"""A training run in a folder: budgets, log, state that resumes bit for bit, and the final checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from ..checks import BudgetExhausted, ConfigError, FileFormatError, IdemError, UsageError, check_float, check_int
from ..energies import Energy
from ..files import write_atomic
from ..systems import System, get_system
from .buffer import Buffer
from .checkpoint import Checkpoint, build_denoiser, load_checkpoint, read_tensors, save_checkpoint, write_tensors
from .config import TrainingConfig
from .loop import IterationReport, TrainingState, init, make_optimizers, measure_error, outer_iteration

__all__ = ["load_state", "save_state", "train"]

STATE, MODEL, LOG, CONFIG = "state.safetensors", "model.safetensors", "log.jsonl", "config.json"

# Part of a time or call budget kept back for the last measurements, and for a machine that slows down.
MARGIN = 0.96


def save_state(path: Path, config: TrainingConfig, state: TrainingState, energy_calls: int, log: list[dict]) -> None:
    """Write everything that `load_state` needs, as one safetensors file."""
    tensors = {f"denoiser.{k}": v for k, v in state.denoiser.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for n, optimizer in enumerate(state.optimizers):
        for i, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{n}.{i}.{k}": v for k, v in slots.items()}
    b = state.buffer
    tensors |= {"buffer.x": b.x, "buffer.u": b.u, "buffer.f": b.f, "generator": state.generator.get_state()}
    write_tensors(path, "state", tensors, {
        "config": config.model_dump(), "iteration": state.iteration, "total": state.total, "mala_step": state.mala_step,
        "seconds": state.seconds, "filled": state.filled, "next": b.next, "energy_calls": energy_calls, "log": log,
        "system": state.system.describe()})


def load_state(path: Path, config: TrainingConfig, system: System) -> tuple[TrainingState, int, list[dict]]:
    """Read a state; returns it with the energy calls so far and the log.

    Raises
    ------
    FileFormatError
        Not a state file, or a damaged one.
    ConfigError
        It belongs to a run with another configuration; names the first key that differs.
    """
    tensors, header = read_tensors(path, "state")
    try:
        theirs = TrainingConfig.parse(header["config"], str(path)).model_dump()
        for table, value in config.model_dump().items():
            if theirs[table] != value:
                old, new, key = theirs[table], value, table
                if isinstance(value, dict):
                    inner = next(k for k in value if old[k] != value[k])
                    old, new, key = old[inner], value[inner], f"{table}.{inner}"
                raise ConfigError(f"{path}: cannot resume: {key} was {old!r} in that run, now it is {new!r}")
        part = lambda prefix: {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        for key, value in system.describe().items():
            if header["system"][key] != value:
                raise ConfigError(f"{path}: cannot resume: the system's {key} was {header['system'][key]!r} in that run, now it is {value!r}")
        denoiser, ema = build_denoiser(config.network, system), build_denoiser(config.network, system)
        denoiser.load_state_dict(part("denoiser."))
        ema.load_state_dict(part("ema."))
        optimizers = make_optimizers(config, denoiser)
        for n, optimizer in enumerate(optimizers):
            slots: dict[int, dict] = {}
            for key, value in part(f"optimizer.{n}.").items():
                index, name = key.split(".")
                slots.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        generator = torch.Generator()
        generator.set_state(tensors["generator"])
        buffer = Buffer(tensors["buffer.x"], tensors["buffer.u"], tensors["buffer.f"], header["next"])
        state = TrainingState(denoiser, ema.eval().requires_grad_(False), optimizers, buffer, generator,
                              header["iteration"], header["total"], header["mala_step"], system, header["seconds"], tuple(header["filled"]))
        return state, header["energy_calls"], header["log"]
    except ConfigError:
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: its contents do not describe a training state ({error})") from None


def _used(seconds: float, calls: int, minutes: float | None, max_calls: int | None) -> float:
    """Share of the tighter budget that is spent."""
    shares = [0.0]
    if minutes is not None:
        shares.append(seconds / (60 * minutes))
    if max_calls is not None:
        shares.append(calls / max_calls)
    return max(shares) / MARGIN


def _write_outputs(folder: Path, config, state, energy: Energy, log, finished: bool) -> None:
    provenance = {
        "seed": config.seed, "iterations": state.iteration, "planned": state.total, "finished": finished,
        "seconds": state.seconds, "energy_calls": energy.calls, "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("idem-md", "torch")},
    }
    save_checkpoint(folder / MODEL, Checkpoint(state.ema, measure_error(config, state), config, state.system, provenance))
    write_atomic(folder / LOG, "".join(json.dumps(entry) + "\n" for entry in log).encode())


def train(
    config: TrainingConfig, folder: Path, *, system: System | None = None, resume: bool = False, minutes: float | None = None,
    max_energy_calls: int | None = None, stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[], None] = lambda: None,
    on_iteration: Callable[[IterationReport, TrainingState, Energy], None] = lambda *_: None,
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
        Asked before every step; if true the run ends at its last saved state.
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
    IdemError
        The training diverged.
    """
    if minutes is not None:
        check_float("minutes", minutes, above=0.0)
    if max_energy_calls is not None:
        check_int("max_energy_calls", max_energy_calls, 1)
    system = get_system(config.system if system is None else system)
    if system.name != config.system:
        raise UsageError(f"system: expected the configuration's {config.system!r}, got {system.name!r}")
    folder = Path(folder)
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
    energy = system.energy()
    start = time.perf_counter()
    if resume:
        state, energy.calls, log = load_state(path, config, system)
        energy.max_calls = max_energy_calls
    else:
        energy.max_calls = max_energy_calls
        try:
            limit = math.inf if minutes is None else 60 * minutes
            state, log = init(config, system, energy, lambda: time.perf_counter() - start > limit), []
            state.filled = (time.perf_counter() - start, energy.calls)
        except IdemError:
            (folder / CONFIG).unlink()
            for empty in made:
                empty.rmdir()
            raise
        save_state(path, config, state, energy.calls, log)
    earlier = state.seconds
    decay = config.optimizer.decay_fraction
    finished = True
    while state.iteration < state.total:
        try:
            report = outer_iteration(config, energy, state, stop, on_step)
        except BudgetExhausted:
            report = None
        used = _used(earlier + time.perf_counter() - start, energy.calls, minutes, max_energy_calls)
        if report is None:
            # Half an iteration is worth nothing to a run that must be repeatable: back to the last whole one.
            # What it cost is not forgotten.
            state, _, log = load_state(path, config, system)
            state.seconds, finished = earlier + time.perf_counter() - start, False
            save_state(path, config, state, energy.calls, log)
            break
        state.seconds = earlier + time.perf_counter() - start
        entry = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(report).items()}
        log.append({**entry, "seconds": round(state.seconds, 2), "energy_calls": energy.calls})
        # The first buffer is paid for once.
        each = (used - _used(*state.filled, minutes, max_energy_calls)) / len(log)
        if 1 - used <= each * state.iteration * decay / (1 - decay) and state.iteration < (1 - decay) * state.total:
            # Rounded up: no step taken so far may lie in the decay of the shortened schedule.
            state.total = math.ceil(state.iteration / (1 - decay) - 1e-9)
        log[-1]["planned"] = state.total
        save_state(path, config, state, energy.calls, log)
        on_iteration(report, state, energy)
        if used >= 1 and state.iteration < state.total:
            finished = False
            break
    if state.iteration == 0:
        raise BudgetExhausted(f"{folder}: stopped before the first iteration was complete, there is no model yet; resume goes on from here")
    _write_outputs(folder, config, state, energy, log, finished)
    return load_checkpoint(folder / MODEL)
