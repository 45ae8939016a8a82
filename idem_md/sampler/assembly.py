"""From chunks to ensembles: all of them at the end, or those that there are when the work is interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..checkpoint import Checkpoint
from ..diffusion import KERNELS
from ..energies import Energy
from ..ensemble import WeightedEnsemble
from ..provenance import provenance
from ..seeds import runs_of
from ..systems import System
from ..twin import judged
from .chunks import Drawing, Gathered

__all__ = ["Assembly", "SoFar", "origin_of"]


@dataclass(frozen=True)
class Assembly:
    """What a call that draws samples is to return.

    Attributes
    ----------
    systems : sequence of System
    kind : str
    facts : dict
        Of provenances, the same for all systems; ``seed`` is one of them.
    start : float
        When the call began, by `time.perf_counter`.
    after : WeightedEnsemble, optional
        Samples that new ones are put together with.
    closing : dict
        What provenances are to say besides, of a whole set only.
    twin : Energy, optional
        By which the samples are drawn.
    """

    systems: Sequence[System]
    kind: str
    facts: dict[str, Any]
    start: float
    after: WeightedEnsemble | None = None
    closing: dict[str, Any] = field(default_factory=dict)
    twin: Energy | None = None
    gathered: Gathered = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "gathered", Gathered(self.systems))

    def ensembles(self, whole: bool = True) -> list[WeightedEnsemble]:
        """Put the chunks that there are together, one ensemble a system; ``whole`` if these are all."""
        with self.gathered.lock:
            chunks, count = list(self.gathered.chunks), self.gathered.count
            if not chunks:
                return [] if self.after is None else [self.after]
            seed = self.facts["seed"]
            facts = {**self.facts, "chunks": [list(run) for run in runs_of((seed, *chunk) for chunk in chunks)]}
            facts |= self.closing if whole else {}
            ensembles = []
            for system, samples in zip(self.systems, self.gathered.collected):
                calls, parameters = samples.energy_calls, system.energy().parameters
                if samples.twin_calls:
                    facts["twin_calls"] = samples.twin_calls
                record = provenance(system.name, parameters, calls, self.start, failed=samples.failed, **facts)
                x, u, log_w = samples.arrays() if whole else samples.copies(count)
                new = WeightedEnsemble(system.of_one_hand(x), u, log_w, system, record, self.kind)
                new = new if self.after is None else WeightedEnsemble.concatenate([self.after, new])
                ensembles.append(judged(new, self.twin))
        return ensembles


def origin_of(drawing: Drawing, checkpoint: Checkpoint, device: torch.device, twin: System | None) -> dict[str, Any]:
    """What provenances say of how samples are drawn, with the cheaper potential that was given as a twin."""
    plan = drawing.plan
    facts: dict[str, Any] = {
        "checkpoint": checkpoint.digest,
        "training": checkpoint.training_cost,
        "seed": drawing.seed,
        "device": device.type,
        "method": KERNELS[plan.kernel].method,
        "kernel": plan.kernel,
        "last_step": plan.last_step,
        "plan": plan.table(),
        "nfe": plan.nfe,
    }
    if twin is not None:
        facts["twin_parameters"] = twin.energy().parameters
    if checkpoint.path:
        facts["checkpoint_file"] = checkpoint.path
    own = checkpoint.tuned_here and all(system is checkpoint.system for system in drawing.systems)
    if plan.weighted and plan.ess_fraction is not None and own:
        facts["expected_ess_fraction"] = plan.ess_fraction  # it was tuned for no other system or temperature
    return facts


class SoFar:
    """What a call has drawn: ensembles of temperatures that are done, and those of the work that is under way."""

    def __init__(self) -> None:
        self._done: Sequence[WeightedEnsemble] = ()
        self._work: Assembly | None = None

    def begin(self, work: Assembly, done: Sequence[WeightedEnsemble]) -> Assembly:
        """Work is under way, after other that is ``done``."""
        self._done, self._work = tuple(done), work
        return work

    def end(self, work: Assembly | None = None) -> None:
        """Forget it all; or if that is the work under way."""
        if work is None or self._work is work:
            self._done, self._work = (), None

    def ensembles(self) -> list[WeightedEnsemble]:
        """See `Sampler.so_far`."""
        return [*self._done, *([] if self._work is None else self._work.ensembles(whole=False))]
