"""A training run in a folder: budgets, log, state that resumes bit for bit, and the final checkpoint."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ..callers import warn_caller
from ..checkpoint import Checkpoint, Rung, load_checkpoint, weights_digest
from ..energies import Energy, bare
from ..errors import BudgetExhausted, FileFormatError, TrainingWarning, UsageError
from ..files import own_folder
from ..geometry import subspace_dimension
from ..native import check_device
from ..progress import reporting
from ..provenance import hardware, versions
from ..systems import System, get_system, system_described
from ..systems.exchanges import refuse_unlike
from ..tensor_files import read_tensors
from ..torch_state import own_torch
from ..twin import MadeTwin, TwinSettings, forget_twin, has_twin, load_made
from .accuracy import measure_accuracy
from .budgets import Budget, decaying_now
from .config import TrainingConfig
from .display import TrainingDisplay
from .first_buffer import FirstBuffer, calls_an_iteration
from .gain import LEAST_ITERATIONS, enough, gain
from .journal import Journal
from .loop import IterationReport, init, outer_iteration
from .on_twin import twin_first
from .outputs import CONFIG, MODEL, STATE, model_of, write_config, write_outputs
from .ranks import ALONE, ProcessGroup, Ranks
from .resampling import out_of_equilibrium
from .state import TRAP, SavedRun, TrainingState, load_state, save_state

__all__ = ["recover", "train"]

# With the energy calls so far, in all processes.
OnIteration = Callable[[IterationReport, TrainingState, int], None]


def _checkpoint(
    config: TrainingConfig,
    state: TrainingState,
    calls: int,
    finished: bool,
    processes: int,
    made: MadeTwin | None = None,
) -> Checkpoint:
    provenance: dict[str, Any] = {
        "seed": config.seed,
        "iterations": state.iteration,
        "planned": state.total,
        "finished": finished,
        "seconds": state.seconds,
        "energy_calls": calls,
        "device": state.device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
    }
    if state.system.trap is not None:
        provenance[TRAP] = state.system.trap
    if made is not None:
        provenance |= {"energy_calls": made.energy_calls, "twin_calls": calls}
        provenance |= {"seconds": state.seconds + made.seconds, "twin": made.record()}
    ema, ladder = copy.deepcopy(state.ema).cpu(), state.ladder
    twin = None if made is None else made.twin
    if ladder is None:
        accuracy = measure_accuracy(config, state)
        return Checkpoint(ema, accuracy, config.model_dump(), state.system, provenance, twin=twin)
    own = state.system.units.temperature_kelvin
    rungs = tuple(Rung(own / beta, measure_accuracy(config, state, rung=k)) for k, beta in enumerate(ladder.betas))
    checkpoint = Checkpoint(
        ema, rungs[ladder.own].accuracy, config.model_dump(), state.system, provenance, rungs=rungs, twin=twin
    )
    return replace(checkpoint, accuracy=checkpoint.at(own).accuracy)


@own_torch
def recover(folder: Path) -> Checkpoint:
    """The model of a run that was killed, as it was after its last whole iteration.

    Raises
    ------
    FileFormatError
        No state, a damaged one, or one of before the first iteration was complete.
    """
    path = Path(folder) / STATE
    _, header = read_tensors(path, "state")
    try:
        config = TrainingConfig.parse(header["config"], str(path))
        name = config.system
        system = system_described(name, header.get("system"))
        if not system.parameters and header.get(TRAP) is not None:
            system = replace(system, parameters={TRAP: float(header[TRAP])})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"{path}: its contents do not describe a training state ({error})") from None
    state, calls, _, processes = load_state(path, config, system)
    if state.iteration == 0:
        raise FileFormatError(f"{path}: expected a whole iteration, there is none yet; --resume goes on with the run")
    checkpoint = _checkpoint(config, state, calls, False, processes, load_made(Path(folder), system))
    return replace(checkpoint, digest=weights_digest(state.ema))


@own_torch
def train(
    config: TrainingConfig,
    folder: Path,
    *,
    system: System | None = None,
    resume: bool = False,
    overwrite: bool = False,
    minutes: float | None = None,
    max_energy_calls: int | None = None,
    twin: TwinSettings | bool | None = None,
    device: torch.device | str = "cpu",
    group: distributed.ProcessGroup | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[], None] | None = None,
    on_iteration: OnIteration | None = None,
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
    overwrite : bool
        Replace the run that the folder may hold.
    minutes : float, optional
        Budget of wall time, earlier sessions of the same run included; with a twin that of the training on it.
    max_energy_calls : int, optional
        Budget of energy calls; never exceeded.
    twin : TwinSettings or bool, optional
        Fit a twin to some thousand energy calls first, and train on that: for expensive potentials; see `make_twin`.
        The calls are kept in ``energy_calls.bin``, which ``overwrite`` leaves there. ``resume`` knows whether there is
        a twin.
    device : torch.device or str
        ``cpu`` or ``cuda``, for networks, buffer and native energies. A run may be resumed on another.
    group : torch.distributed.ProcessGroup, optional
        Processes that train together, each of which calls this function with a device of its own and a folder that all
        of them see: gradients are averaged; buffer, batches and budget of energy calls are shared out. By default this
        process alone.
    stop : callable () -> bool
        Asked before every step, and now and then while the first buffer is made; if true the run ends at its last saved
        state.
    on_step, on_iteration : callable
        Called in every process of a group; by default see `idem_md.quiet`.

    Raises
    ------
    UsageError
        The folder has a run and neither ``resume`` nor ``overwrite`` is asked for, or has none to resume; it cannot be
        written, or another process works in it. Or this process is not of the group, or its backend not for the device.
    ConfigError, FileFormatError
        The state does not fit; buffer and batch cannot be shared out evenly among the processes.
    BudgetExhausted
        A budget, or ``stop``, ends the run before its first iteration is complete.
    Interrupted
        ``stop`` was true before there was a first buffer.
    IdemError
        The training diverged, or another process of the group is gone.

    Warns
    -----
    TrainingWarning
        A run goes on with another number of processes than it had, or the mean energies of its replay buffer and
        of its weighted samples differ at the end; see `out_of_equilibrium`.
    """
    budget, device = Budget(minutes, max_energy_calls), check_device("device", device)
    ranks = ALONE if group is None else ProcessGroup(group, device)
    ranks.check(config)
    system = get_system(config.system if system is None else system)
    if system.name != config.system:
        raise UsageError(f"system: expected the configuration's {config.system!r}, got {system.name!r}")
    if resume and overwrite:
        raise UsageError("overwrite: expected none beside resume, got both")
    if not str(folder):
        raise UsageError("out: expected a folder, got an empty name")
    folder = Path(folder)
    energy = system.energy()
    run = _Run(config, folder, system, energy, budget, device, ranks)
    energy.max_calls = None if max_energy_calls is None else ranks.part(max_energy_calls)
    begun, has = resume and (folder / STATE).exists(), has_twin(folder)
    if begun and twin and not has:
        raise UsageError(f"twin: expected none, the run in {folder} was begun without, got one")
    twin = twin or (resume and has)
    if twin and group is not None:
        raise UsageError("twin: expected none in a group of processes, got one")
    # What was interrupted while its twin was made has no state yet.
    resume = begun or (resume and not twin)
    with ExitStack() as stack:
        problem = None
        if ranks.first:
            try:
                stack.enter_context(own_folder(folder))
                write_config(config, folder, resume, overwrite)
                if not (twin or resume):
                    forget_twin(folder)
            except UsageError as error:
                problem = error
        if problem := ranks.broadcast(problem):
            raise problem
        silent = not ranks.first or on_step is not None or on_iteration is not None
        work = stack.enter_context(reporting("training", silent=silent))
        try:
            for note in [] if resume else system.notes:
                work.say(note)
            if twin:
                made = twin_first(system, folder, twin, begun, config.seed, max_energy_calls, stop)
                on = system.with_energy(made.twin)
                run = replace(run, system=on, energy=on.energy(), budget=Budget(minutes), made=made)
            what = "calls of the twin" if twin else "energy calls"
            display = TrainingDisplay(work, config.optimizer.inner_steps, resume, config.least_gain > 0, what)
            return _train(run, resume, stop, display, on_step or display.step, on_iteration or display.iteration)
        except BaseException:
            if ranks.first and not (folder / STATE).exists() and not has_twin(folder):  # nothing to go on from
                (folder / CONFIG).unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class _Run:
    """What does not change in the course of a run."""

    config: TrainingConfig
    folder: Path
    system: System
    energy: Energy
    budget: Budget
    device: torch.device
    ranks: Ranks
    made: MadeTwin | None = None

    def load(self) -> SavedRun:
        """The last state."""
        return load_state(self.folder / STATE, self.config, self.system, self.device, self.ranks)

    def save(self, state: TrainingState, calls: int, log: list[dict]) -> None:
        """The next one, with the energy calls of all processes; from here on each has an even part of them."""
        save_state(self.folder / STATE, self.config, state, calls, log, self.ranks)
        self.energy.calls = self.ranks.part(calls)


def _unlike_atoms(run: _Run, state: TrainingState) -> UsageError | None:
    """What `refuse_unlike` says of a system that was made without a geometry, on which it would have been tried."""
    energy = bare(run.energy)
    if not energy.users_code or energy.floor is not None:
        return None
    samples = state.buffer.samples
    lowest = samples.x[int(samples.u.argmin())].double().cpu().numpy()
    try:
        refuse_unlike(run.energy, lowest, run.system.kinds, run.system.elements, run.device)
    except UsageError as error:
        return error
    except BudgetExhausted:  # it ends the run soon enough
        pass
    return None


def _begin(run: _Run, stop: Callable[[], bool], display: TrainingDisplay) -> TrainingState:
    """The first state of a run, saved."""
    start = time.perf_counter()
    plan, energy = FirstBuffer.of(run.config, run.system, run.ranks), run.energy
    if energy.max_calls is None or energy.calls + plan.calls <= energy.max_calls:  # or there is no run
        size = run.ranks.size
        each = calls_an_iteration(run.config, size * plan.walkers)
        display.cost(size * plan.calls, each, run.config, energy.seconds_a_call / size)
    energy.on_count = display.first_buffer
    # Several processes would have to agree on it.
    alone = run.ranks.size == 1
    guard = run.budget.guard(stop, lambda: energy.calls / max(plan.calls, 1) if alone else 0.0)
    state = init(run.config, run.system, energy, guard, run.device, run.ranks)
    display.began()
    problem = _unlike_atoms(run, state) if run.ranks.first else None
    if problem := run.ranks.broadcast(problem):
        raise problem
    calls = sum(run.ranks.gather(run.energy.calls))
    state.filled = (run.ranks.broadcast(time.perf_counter() - start), calls)
    run.save(state, calls, [])
    return state


def _go_on(run: _Run, journal: Journal) -> tuple[TrainingState, list[dict]]:
    """The last state of a run, and its log."""
    ranks = run.ranks
    state, calls, log, processes = run.load()
    calls += ranks.broadcast(journal.lost(calls, processes))
    run.energy.calls = ranks.part(calls)
    if processes != ranks.size:
        run.save(state, calls, log)
        if ranks.first:
            journal.close()
            warn_caller(
                f"{run.folder}: a run of {processes} processes goes on with {ranks.size}: other random numbers from "
                "here on, not what it would have been to the bit",
                TrainingWarning,
            )
    return state, log


def _train(
    run: _Run,
    resume: bool,
    stop: Callable[[], bool],
    display: TrainingDisplay,
    on_step: Callable[[], None],
    on_iteration: OnIteration,
) -> Checkpoint:
    config, folder, energy, budget, ranks = run.config, run.folder, run.energy, run.budget, run.ranks
    journal, count = Journal(folder, ranks), "energy_calls" if run.made is None else "twin_calls"
    start = time.perf_counter()
    state, log = _go_on(run, journal) if resume else (_begin(run, stop, display), [])
    earlier, calls = state.seconds, sum(ranks.gather(energy.calls))
    finished = True
    energy.on_count = journal.note
    while state.iteration < state.total:
        # Or a run that its budget had ended would go on by an iteration whenever it is resumed.
        if state.iteration and budget.used(state.seconds, calls) >= 1:
            finished = False
            break
        report = outer_iteration(config, energy, state, stop, on_step, ranks)
        seconds = ranks.broadcast(earlier + time.perf_counter() - start)
        calls = sum(ranks.gather(energy.calls))
        if report is None:
            # Half an iteration is worth nothing to a run that must be repeatable: back to the last whole one.
            # What it cost is not forgotten.
            state, _, log, _ = run.load()
            state.seconds, finished = seconds, False
            run.save(state, calls, log)
            break
        state.seconds = seconds
        used = budget.used(seconds, calls)
        state.total = budget.shortened(
            state.iteration, state.total, used, budget.used(*state.filled), config.optimizer.decay_fraction
        )
        entry = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(report).items()}
        entry |= {"seconds": round(seconds, 2), count: calls}
        log.append(entry)
        if len(log) >= LEAST_ITERATIONS:
            report.gain = gain(log, state.denoiser, subspace_dimension(energy.n_atoms, energy.n_dims))
            if enough(report.gain, config.least_gain):
                state.total = decaying_now(state.iteration, state.total, config.optimizer.decay_fraction)
            entry |= {"gain": report.gain.nats, "gain_err": report.gain.error}
        entry["planned"] = state.total
        run.save(state, calls, log)
        if ranks.size > 1:
            journal.restart(energy.calls)
        on_iteration(report, state, calls)
    if state.iteration == 0:
        raise BudgetExhausted(
            f"{folder}: stopped before the first iteration was complete, there is no model yet; "
            "resume goes on from here"
        )
    there = model_of(folder / MODEL, state.ema) if resume and ranks.size == 1 and state.seconds == earlier else None
    if there is not None and (there.provenance["finished"], there.provenance.get(count)) == (finished, calls):
        return there  # nothing was left to do
    if ranks.first:
        whole = state if ranks.size == 1 else replace(run, ranks=ALONE).load().state
        write_outputs(folder, _checkpoint(config, whole, calls, finished, ranks.size, run.made), log)
        journal.close()
    display.ended(config, log)
    ranks.broadcast(None)  # it is there
    if ranks.first and (sentence := out_of_equilibrium(log)):
        warn_caller(sentence, TrainingWarning)
    return load_checkpoint(folder / MODEL)
