"""What comes after the training of a network: springs and plans, for a fresh run or an old checkpoint."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import Checkpoint, load_checkpoint, read_tensors, save_checkpoint
from ..diffusion import SamplingPlan
from ..energies.foreign import ForeignEnergy
from ..errors import FileFormatError, TrainingWarning
from ..nets import HasFeatures
from ..systems import System
from ..torch_state import own_torch
from .levels import tune_levels
from .springs import SpringsTraining, add_springs
from .tuning import NFES, tune_plans

__all__ = ["NFES", "run_samples", "spread", "tune", "tuned"]

# Samples on which levels are tuned.
PILOT = 250


def run_samples(folder: Path) -> torch.Tensor:
    """The replay buffer of a run: samples of its system as far as the run has got, shape (n, N, D), float32."""
    path = Path(folder) / "state.safetensors"
    tensors, _ = read_tensors(path, "state")
    if "buffer.x" not in tensors:
        raise FileFormatError(f"{path}: expected the tensor buffer.x, there is none")
    return tensors["buffer.x"]


def spread(samples: torch.Tensor, n: int) -> torch.Tensor:
    """About ``n`` of the samples, evenly from the first to the last, which may be a history."""
    return samples[:: max(len(samples) // n, 1)]


def tuned(checkpoint: Checkpoint, energy_calls: int, seconds: float) -> Checkpoint:
    """With what tuning has cost, beside what it had cost before."""
    p = checkpoint.provenance
    calls = p.get("tuning_energy_calls", 0) + energy_calls
    record = {"tuning_energy_calls": calls, "tuning_seconds": p.get("tuning_seconds", 0.0) + seconds}
    return replace(checkpoint, provenance={**p, **record})


def _without_stale_plans(checkpoint: Checkpoint, nfes: Mapping[str, Sequence[int]]) -> Checkpoint:
    """Plans were chosen and measured with the springs before, and only those of ``nfes`` will be anew."""
    stale = sorted({n for method, plans in checkpoint.plans.items() for n in plans if n not in nfes.get(method, ())})
    if stale:
        warnings.warn(
            f"plans for {', '.join(map(str, stale))} evaluations were for other springs, and are gone; name these "
            "numbers as well, or keep the springs (steps = 0)",
            TrainingWarning,
            stacklevel=3,
        )
    return replace(checkpoint, plans={})


@own_torch
def tune(
    checkpoint: Checkpoint,
    samples: torch.Tensor,
    out: Path,
    *,
    system: System | None = None,
    springs: SpringsTraining | None = None,
    draws: int = 1,
    nfes: Mapping[str, Sequence[int]] = NFES,
    pilot: int = 1000,
    on_step: Callable[[int], None] = lambda _: None,
    on_plan: Callable[[int, SamplingPlan], None] = lambda *_: None,
) -> Checkpoint:
    """Springs where the network can carry them, then a plan for dear potentials and, unless the system's own is one,
    for each of ``nfes``; writes ``out``.

    Parameters
    ----------
    checkpoint : Checkpoint
    samples : torch.Tensor, shape (n, N, D)
        Of the system, in equilibrium; by the run's replay buffer or a baseline.
    out : Path
        The model file.
    system : System, optional
        By default the checkpoint's.
    springs : SpringsTraining, optional
        Its ``steps`` may be 0: none are trained then.
    draws : int
        Energy calls a sample of the plan for dear potentials; see `tune_levels`.
    nfes : dict of sequence of int
        By method; empty for no plans, which cost energy calls. Where springs are trained, others go.
    pilot : int
        Samples on which plans are tried.
    on_step, on_plan : callable
        For progress displays.

    Notes
    -----
    Plans for a number of evaluations spend energy calls in thousands a sample: a potential of foreign code gets none.
    """
    springs = springs or SpringsTraining()
    energy = (system or checkpoint.system).energy()  # before the work: it may not be known
    if springs.steps and isinstance(checkpoint.denoiser.net, HasFeatures):
        checkpoint = _without_stale_plans(add_springs(checkpoint, samples.float(), springs, on_step), nfes)
    start = time.perf_counter()
    checkpoint = tune_levels(checkpoint, spread(samples, PILOT), energy, draws, springs.seed)
    if nfes and not isinstance(energy, ForeignEnergy):
        checkpoint = tune_plans(checkpoint, energy, spread(samples, pilot), nfes, springs.seed, on_plan)
    save_checkpoint(out, tuned(checkpoint, energy.calls, time.perf_counter() - start))
    return load_checkpoint(out)
