"""Samplers of shipped systems, run folders and checkpoint files."""

from __future__ import annotations

import torch

from ..checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from ..errors import FileFormatError
from ..progress import current
from ..systems import System
from ..torch_state import own_torch
from .sampler import Sampler

__all__ = ["expectation", "load_sampler"]


@own_torch
def load_sampler(
    source, system: System | None = None, device: torch.device | str = "cpu", twin: System | None = None
) -> Sampler:
    """The sampler of a shipped system (``"lj13"``), a run folder or a checkpoint file.

    Of a run that was killed before it wrote its model: that after the last whole iteration.

    Parameters
    ----------
    source : str or path
    system : System, optional
        Needed for a potential that is not built in; see `Sampler`.
    device, twin
        See `Sampler`.

    Raises
    ------
    UsageError
        No such system or path, or a device that cannot be used.
    FileFormatError
        Not a checkpoint.
    """
    path = checkpoint_path(source)
    if (work := current()) is not None:
        work.phase(f"loading {source}")
    if not path.exists() and (path.parent / "state.safetensors").exists():
        from ..training import recover  # a run that was killed

        return Sampler(recover(path.parent), system, device, twin)
    if not path.exists():
        raise FileFormatError(f"{path.parent}: expected a run folder with model.safetensors, there is none")
    return Sampler(load_checkpoint(path), system, device, twin)


def expectation(checkpoint: Checkpoint) -> str:
    """What samples by the default plan should be worth, for people; empty if that was not measured."""
    plan = Sampler(checkpoint).plan()
    if plan.ess_fraction is None or plan.seconds is None:
        return ""
    share, ms = 100 * plan.ess_fraction, 1e3 * plan.seconds
    if rounds := checkpoint.provenance.get("twin", {}).get("rounds"):
        share *= rounds[-1]["kept"]  # plans were tuned on the twin alone
    return f"by default {share:.0f}% of the samples should be effective, {ms:.2g} ms each"
