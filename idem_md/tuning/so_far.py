"""What an interrupted tuning had done, beside the model that it was to write."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_digest
from ..diffusion import KERNELS, SamplingPlan
from ..errors import FileFormatError

__all__ = ["SoFar"]

KEY = "tuning_so_far"


class SoFar:
    """Heads and plans that are done, in a file; another call with the same input goes on from there.

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
        self.path, self.head = (out.with_name(f"{out.stem}-{part}.safetensors") for part in ("tuning", "head"))
        found = hashlib.sha256(samples.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        began = weights_digest(checkpoint.denoiser), checkpoint.accuracy, checkpoint.config, checkpoint.plans
        found.update(f"{began!r} {settings!r}".encode())
        self.key = found.hexdigest()[:16]
        self.checkpoint: Checkpoint | None = None
        self.rungs, self.plans = 0, dict[str, dict[int, SamplingPlan]]()
        self.energy_calls, self.seconds, self._start = 0, 0.0, time.perf_counter()
        with suppress(FileFormatError):
            known = load_checkpoint(self.path)
            record = known.provenance.get(KEY, {})
            if record.get("key") == self.key:
                rest = {name: value for name, value in known.provenance.items() if name != KEY}
                self.checkpoint, self.rungs = replace(known, provenance=rest), record["rungs"]
                self.energy_calls, self.seconds = record["energy_calls"], record["seconds"]
                if not known.rungs:
                    wanted = record["nfes"]
                    self.plans = {m: {n: known.plans[m][n] for n in nfes} for m, nfes in wanted.items()}

    @property
    def total_seconds(self) -> float:
        """Wall time of plans, with that before an interruption."""
        return self.seconds + time.perf_counter() - self._start

    def begin_plans(self) -> None:
        """Heads are done, which count their seconds themselves."""
        self._start = time.perf_counter()

    def save(self, checkpoint: Checkpoint, energy_calls: int, rungs: int = 0) -> None:
        """With its heads, the plans that were found (see `add`), and those of so many rungs."""
        self.checkpoint, self.rungs = checkpoint, rungs
        record = {
            "key": self.key,
            "rungs": rungs,
            "nfes": {m: list(plans) for m, plans in self.plans.items()},
            "energy_calls": energy_calls,
            "seconds": self.total_seconds,
        }
        plans = {m: {**checkpoint.plans.get(m, {}), **plans} for m, plans in self.plans.items()}
        whole = replace(checkpoint, plans={**checkpoint.plans, **plans}) if plans else checkpoint
        save_checkpoint(self.path, replace(whole, provenance={**checkpoint.provenance, KEY: record}))

    def add(self, plan: SamplingPlan, energy_calls: int) -> None:
        """A plan has been found, after so many energy calls in all."""
        assert plan.nfe is not None and self.checkpoint is not None
        self.plans.setdefault(KERNELS[plan.kernel].method, {})[plan.nfe] = plan
        self.save(self.checkpoint, energy_calls)

    def remove(self) -> None:
        """The model is written."""
        for path in (self.path, self.head):
            path.unlink(missing_ok=True)
