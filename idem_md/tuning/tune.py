"""What comes after the training of a network: heads and plans, for a fresh run or an old checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..callers import warn_caller
from ..checkpoint import Checkpoint, Rung, load_checkpoint, refuse_part, save_checkpoint
from ..diffusion import DiffusionKernel, SamplingPlan
from ..energies import Energy, bare
from ..energies.foreign import ForeignEnergy
from ..errors import TrainingWarning, UsageError
from ..nets import HasFeatures
from ..progress import reporting
from ..systems import System
from ..torch_state import own_torch
from .display import TuningDisplay
from .heads import HEAD_TRAININGS, HeadTraining
from .levels import tune_expensive_plan
from .plans import default_nfes, tune_plans
from .search import Search
from .so_far import SoFar

__all__ = ["evenly_spread", "tune", "with_tuning_cost"]

# Samples on which the noise levels of the plan for expensive potentials are tuned.
LEVEL_SAMPLES = 250
# Numbers of evaluations for which plans are tuned if there are several temperatures, and at which rungs.
RUNG_NFES, PLANNED_EVERY = (12,), 2
# Those for which plans are tuned with a twin, whose annealing takes most of the time anyway.
TWIN_NFES = (100,)


def evenly_spread(samples: torch.Tensor, n: int) -> torch.Tensor:
    """About ``n`` of the samples, evenly from the first to the last, which may be a history."""
    return samples[:: max(len(samples) // n, 1)]


def with_tuning_cost(checkpoint: Checkpoint, energy_calls: int, seconds: float) -> Checkpoint:
    """The checkpoint with what tuning has cost, beside what it had cost before; energy calls are those of the twin, if
    there is one."""
    p, key = checkpoint.provenance, "tuning_energy_calls" if checkpoint.twin is None else "tuning_twin_calls"
    record = {key: p.get(key, 0) + energy_calls, "tuning_seconds": p.get("tuning_seconds", 0.0) + seconds}
    return replace(checkpoint, provenance={**p, **record})


def _without_stale_plans(checkpoint: Checkpoint, nfes: Mapping[str, Sequence[int]]) -> Checkpoint:
    """The checkpoint without plans: they were measured with other heads, and only those of ``nfes`` will be anew."""
    stale = sorted({n for method, plans in checkpoint.plans.items() for n in plans if n not in nfes.get(method, ())})
    if stale:
        warn_caller(
            f"plans for {', '.join(map(str, stale))} evaluations were for another elastic network, and are gone; name "
            "these numbers as well, or keep the network (steps = 0)",
            TrainingWarning,
        )
    return replace(checkpoint, plans={}, rungs=tuple(replace(rung, plans={}) for rung in checkpoint.rungs))


@dataclass(frozen=True)
class _Planning:
    """How plans are found, at one temperature or several; see `tune`."""

    nfes: Mapping[str, Sequence[int]]
    candidates: int
    pilot: int
    seed: int
    on_plan: Callable[[SamplingPlan], None]
    on_rung: Callable[[float], None]
    so_far: SoFar
    search: Search

    def with_expensive(self, checkpoint: Checkpoint, samples: torch.Tensor, energy: Energy) -> Checkpoint:
        """A checkpoint with the plan for expensive potentials, by samples of its temperature."""
        few = evenly_spread(samples, LEVEL_SAMPLES)
        return tune_expensive_plan(checkpoint, few, energy, self.candidates, self.seed)

    def planned(self, checkpoint: Checkpoint, samples: torch.Tensor, energy: Energy, before: int = 0) -> Checkpoint:
        """A checkpoint with plans for ``nfes``, by samples of its temperature; there were so many energy calls before
        that ``energy`` does not count."""
        if not self.nfes:
            return checkpoint
        few, measured = evenly_spread(samples, self.pilot), self.so_far.measure(lambda: before + energy.calls)
        return tune_plans(checkpoint, energy, few, self.nfes, self.seed, self.on_plan, measured, self.search)

    def planned_by_rung(self, checkpoint: Checkpoint, samples: torch.Tensor, system: System) -> tuple[Checkpoint, int]:
        """A checkpoint for a range of temperatures with plans for every other rung, both ends and the own one, by
        samples of all rungs in turn; and the energy calls. A rung between takes the plans of the next colder one."""
        known, calls = checkpoint.rungs, self.so_far.energy_calls
        rungs = list[Rung](known[: self.so_far.rungs])
        for k, rung in enumerate(known[len(rungs) :], len(rungs)):
            energy = system.at(rung.kelvin).energy()
            anew = k % PLANNED_EVERY == 0 or k in (checkpoint.own_rung, len(known) - 1)
            planning = self if anew else replace(self, nfes={})
            if anew and self.nfes:
                self.on_rung(rung.kelvin)
            those = samples[k :: len(known)]
            here = self.with_expensive(checkpoint.at(rung.kelvin), those, energy)
            here = planning.planned(here, those, energy, calls)
            plans, planned_at = (here.plans, rung.kelvin) if anew else (rungs[-1].plans, rungs[-1].planned_at)
            rungs.append(replace(rung, plans=plans, planned_at=planned_at, expensive=here.expensive))
            calls += energy.calls
            self.so_far.save(replace(checkpoint, rungs=(*rungs, *known[k + 1 :])), calls, len(rungs))
        own = rungs[checkpoint.own_rung]
        return replace(checkpoint, rungs=tuple(rungs), plans=own.plans, expensive=own.expensive), calls


@own_torch
def tune(
    checkpoint: Checkpoint,
    samples: torch.Tensor,
    out: Path,
    *,
    system: System | None = None,
    heads: HeadTraining | None = None,
    candidates: int = 1,
    nfes: Mapping[str, Sequence[int]] | None = None,
    pilot: int = 1000,
    on_step: Callable[[int], None] | None = None,
    on_plan: Callable[[SamplingPlan], None] | None = None,
    on_rung: Callable[[float], None] | None = None,
) -> Checkpoint:
    """Train heads where the network can carry them, then find a plan for expensive potentials and, unless the system's
    own is one, for each of ``nfes``; writes ``out``.

    Parameters
    ----------
    checkpoint : Checkpoint
    samples : torch.Tensor, shape (n, N, D)
        Of the system, in equilibrium; by the run's replay buffer or a baseline. For a range of temperatures give those
        of all rungs in turn, as they lie in the buffer.
    out : Path
        The model file.
    system : System, optional
        By default the checkpoint's.
    heads : HeadTraining, optional
        Of every head in `HEAD_TRAININGS`; its ``steps`` may be 0: none are trained then.
    candidates : int
        Energy calls a sample of the plan for expensive potentials; see `tune_expensive_plan`.
    nfes : dict of sequence of int, optional
        By method, by default `default_nfes`, or `RUNG_NFES` for each rung of a range of temperatures; empty for no
        plans, which cost energy calls. Where heads are trained, others go.
    pilot : int
        Samples on which plans are tried.
    on_step, on_plan, on_rung : callable
        By default see `idem_md.quiet`; the last one with a temperature (K) whose plans come next.

    Raises
    ------
    UsageError
        A checkpoint at one temperature of its range, or samples that are not those of all rungs.

    Notes
    -----
    Plans for a number of evaluations spend energy calls in thousands a sample: a potential of foreign code gets none,
    unless the checkpoint has a twin, whose calls they are then.
    """
    heads, system = heads or HeadTraining(), system or checkpoint.system
    refuse_part(checkpoint)
    if checkpoint.rungs and len(samples) % len(checkpoint.rungs):
        raise UsageError(
            f"samples: expected those of {len(checkpoint.rungs)} rungs in turn, a multiple of that, got {len(samples)}"
        )
    search = Search()
    if checkpoint.twin is not None:
        search = Search.by_twin(system.energy().seconds_a_call if system.has_energy else 0.0)
        twin = checkpoint.twin
        system = system.with_energy(twin.scaled(twin.units.temperature_kelvin / system.units.temperature_kelvin))
    if nfes is None and checkpoint.twin is not None:
        nfes = {DiffusionKernel.method: TWIN_NFES}
    if nfes is None:
        nfes = dict.fromkeys(default_nfes(), RUNG_NFES) if checkpoint.rungs else default_nfes()
    energy = system.energy()  # before the work: it may not be known
    silent = not (on_step is on_plan is on_rung is None)
    so_far = SoFar(out, checkpoint, samples, (heads, candidates, nfes, pilot, system.describe(), energy.parameters))
    energy.calls, trained = so_far.energy_calls, heads.steps > 0 and isinstance(checkpoint.denoiser.net, HasFeatures)
    with reporting("tuning", silent=silent) as work:
        to_do = 0 if so_far.checkpoint or not trained else heads.steps * len(HEAD_TRAININGS)
        display = TuningDisplay(work, to_do)
        if so_far.checkpoint is not None:
            checkpoint = so_far.checkpoint
        elif trained:
            for name, train in HEAD_TRAININGS.items():
                settings = replace(heads, state=(so_far.head, f"{name} {so_far.key}"))
                checkpoint = train(checkpoint, samples.float(), settings, on_step or display.step)
            checkpoint = _without_stale_plans(checkpoint, nfes)
        so_far.begin_plans()
        so_far.save(checkpoint, so_far.energy_calls, so_far.rungs, so_far.has_expensive)
        tell = on_plan or display.plan

        def found(plan: SamplingPlan) -> None:
            if not checkpoint.rungs:
                so_far.add(plan, energy.calls)
            tell(plan)

        nfes = {} if isinstance(bare(energy), ForeignEnergy) else nfes
        planning = _Planning(nfes, candidates, pilot, heads.seed, found, on_rung or display.rung, so_far, search)
        if checkpoint.rungs:
            checkpoint, calls = planning.planned_by_rung(checkpoint, samples, system)
        else:
            if not so_far.has_expensive:
                checkpoint = planning.with_expensive(checkpoint, samples, energy)
                so_far.save(checkpoint, energy.calls, has_expensive=True)
            checkpoint, calls = planning.planned(checkpoint, samples, energy), energy.calls
    save_checkpoint(out, with_tuning_cost(checkpoint, calls, so_far.total_seconds))
    so_far.remove()
    return load_checkpoint(out)
