"""From chunks to ensembles: all of them at the end, or those that there are when the work is interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ensemble import WeightedEnsemble
from ..provenance import provenance
from ..seeds import runs_of
from ..systems import System
from .chunks import Gathered

__all__ = ["Assembly"]


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
    """

    systems: Sequence[System]
    kind: str
    facts: dict[str, Any]
    start: float
    after: WeightedEnsemble | None = None
    closing: dict[str, Any] = field(default_factory=dict)
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
                record = provenance(system.name, parameters, calls, self.start, failed=samples.failed, **facts)
                new = WeightedEnsemble(
                    *(samples.arrays() if whole else samples.copies(count)), system, record, self.kind
                )
                ensembles.append(new if self.after is None else WeightedEnsemble.concatenate([self.after, new]))
        return ensembles
