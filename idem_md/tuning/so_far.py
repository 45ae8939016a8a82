"""What an interrupted tuning had done, beside the model that it was to write."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_digest
from ..diffusion import KERNELS, LAST_STEPS, SamplingPlan
from ..errors import FileFormatError
from ..tensor_files import read_tensors, write_tensors
from .pilots import Measured, Tried

__all__ = ["SoFar"]

KEY = "tuning_so_far"


class SoFar:
    """Heads and plans that are done, and what was measured for others, in files; another call with the same input goes
    on from there.

    Parameters
    ----------
    out : Path
        The model file.
    checkpoint : Checkpoint
        With which the tuning began.
    samples : torch.Tensor
    settings : any
        All else that decides what comes out, with a ``repr``.
    """

    def __init__(self, out: Path, checkpoint: Checkpoint, samples: torch.Tensor, settings: Any):
        out = Path(out)
        self.path, self.head, self.levels = (
            out.with_name(f"{out.stem}-{part}.safetensors") for part in ("tuning", "head", "levels")
        )
        found = hashlib.sha256(samples.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        began = weights_digest(checkpoint.denoiser), checkpoint.accuracy, checkpoint.config, checkpoint.plans
        found.update(f"{began!r} {settings!r}".encode())
        self.key = found.hexdigest()[:16]
        self.checkpoint: Checkpoint | None = None
        self.rungs, self.measured, self.has_expensive = 0, Measured(), False
        self.energy_calls, self.seconds, self._start = 0, 0.0, time.perf_counter()
        with suppress(FileFormatError):
            known = load_checkpoint(self.path)
            record = known.provenance.get(KEY, {})
            if record.get("key") == self.key:
                rest = {name: value for name, value in known.provenance.items() if name != KEY}
                self.checkpoint, self.rungs = replace(known, provenance=rest), record["rungs"]
                self.energy_calls, self.seconds = record["energy_calls"], record["seconds"]
                self.has_expensive = record.get("has_expensive", False)
                if not known.rungs:
                    wanted = record["nfes"]
                    self.measured.plans = {m: {n: known.plans[m][n] for n in nfes} for m, nfes in wanted.items()}
                self._load_levels()

    @property
    def total_seconds(self) -> float:
        """Wall time of plans, with that before an interruption."""
        return self.seconds + time.perf_counter() - self._start

    def begin_plans(self) -> None:
        """Heads are done, which count their seconds themselves."""
        self._start = time.perf_counter()

    def _load_levels(self) -> None:
        """What was measured for the rung that comes next, or for the only temperature."""
        with suppress(FileFormatError):
            tensors, header = read_tensors(self.levels, "levels")
            if header["key"] != [self.key, self.rungs]:
                return
            self.measured.levels = {m: [(k, kernel) for k, kernel in pairs] for m, pairs in header["levels"].items()}
            for place, rows in header["tried"].items():
                self.measured.tried[int(place)] = [
                    Tried(name, options, LAST_STEPS[name].build(options), tensors[f"{place}.{k}"], seconds)
                    for k, (name, options, seconds) in enumerate(rows)
                ]
            self.energy_calls = max(self.energy_calls, header["energy_calls"])
            self.seconds = max(self.seconds, header["seconds"])

    def measure(self, energy_calls: Callable[[], int]) -> Measured:
        """Where a search for plans finds and leaves what it measures; it is told how many energy calls there were in
        all."""
        self.measured.changed = lambda: self._save_levels(energy_calls())
        return self.measured

    def _save_levels(self, energy_calls: int) -> None:
        tried = self.measured.tried
        header = {
            "key": [self.key, self.rungs],
            "levels": self.measured.levels,
            "tried": {place: [(one.name, one.options, one.seconds) for one in rows] for place, rows in tried.items()},
            "energy_calls": energy_calls,
            "seconds": self.total_seconds,
        }
        tensors = {f"{place}.{k}": one.log_w for place, rows in tried.items() for k, one in enumerate(rows)}
        write_tensors(self.levels, "levels", tensors, header)

    def save(self, checkpoint: Checkpoint, energy_calls: int, rungs: int = 0, has_expensive: bool = False) -> None:
        """With its heads, its plan for expensive potentials, the plans that were found (see `add`), and those of so
        many rungs."""
        if rungs != self.rungs:  # of another temperature nothing is measured
            self.measured.levels.clear()
            self.measured.tried.clear()
        self.checkpoint, self.rungs, self.has_expensive = checkpoint, rungs, has_expensive
        record = {
            "key": self.key,
            "rungs": rungs,
            "has_expensive": has_expensive,
            "nfes": {m: list(plans) for m, plans in self.measured.plans.items()},
            "energy_calls": energy_calls,
            "seconds": self.total_seconds,
        }
        plans = {m: {**checkpoint.plans.get(m, {}), **plans} for m, plans in self.measured.plans.items()}
        whole = replace(checkpoint, plans={**checkpoint.plans, **plans}) if plans else checkpoint
        save_checkpoint(self.path, replace(whole, provenance={**checkpoint.provenance, KEY: record}))

    def add(self, plan: SamplingPlan, energy_calls: int) -> None:
        """A plan has been found, after so many energy calls in all."""
        assert plan.nfe is not None and self.checkpoint is not None
        self.measured.plans.setdefault(KERNELS[plan.kernel].method, {})[plan.nfe] = plan
        self.save(self.checkpoint, energy_calls, has_expensive=self.has_expensive)

    def remove(self) -> None:
        """The model is written."""
        for path in (self.path, self.head, self.levels):
            path.unlink(missing_ok=True)
