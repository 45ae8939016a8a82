"""What a run leaves in its folder, and what may be there already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..errors import FileFormatError, UsageError
from ..files import write_atomic
from ..twin import forget_twin
from .config import TrainingConfig
from .journal import forget_calls

__all__ = ["CONFIG", "LOG", "MODEL", "STATE", "model_of", "write_config", "write_outputs"]

STATE, MODEL, LOG, CONFIG = "state.safetensors", "model.safetensors", "log.jsonl", "config.json"


def write_outputs(folder: Path, checkpoint: Checkpoint, log) -> None:
    """The model, with heads and plans that are there of the same network, and the log."""
    save_checkpoint(folder / MODEL, _with_what_came_after(folder / MODEL, checkpoint))
    write_atomic(folder / LOG, "".join(json.dumps(entry) + "\n" for entry in log).encode())


def model_of(path: Path, denoiser: torch.nn.Module) -> Checkpoint | None:
    """The model that is there, if it is of the same network; it may have heads and plans."""
    try:
        known = load_checkpoint(path)
    except FileFormatError:  # none, or one that is to be replaced anyway
        return None
    theirs = known.denoiser.state_dict()
    same = all(k in theirs and torch.equal(theirs[k], v.cpu()) for k, v in denoiser.state_dict().items())
    return known if same else None


def _with_what_came_after(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with heads and plans if the model that is there has some and is of the same network."""
    known = model_of(path, checkpoint.denoiser)
    return checkpoint if known is None else replace(known, provenance={**known.provenance, **checkpoint.provenance})


def write_config(config: TrainingConfig, folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise `UsageError` if there is a run and none is expected, or the other way round."""
    path = folder / STATE
    if resume and not path.exists():
        raise UsageError(f"resume: expected {path}, there is no such file")
    if resume:
        return
    if (path.exists() or (folder / MODEL).exists()) and not overwrite:
        raise UsageError(
            f"out: {folder} already holds a run; resume it with --resume, replace it with --overwrite, or choose "
            "another folder"
        )
    if (folder / CONFIG).exists():  # of a run, perhaps one that was killed early, or of another program
        try:  # one of another version will do
            ours = {"system", "noise", "optimizer"} <= json.loads((folder / CONFIG).read_text(encoding="utf-8")).keys()
        except (ValueError, AttributeError, RecursionError):
            ours = False
        if not ours:
            raise UsageError(f"out: {folder} has a {CONFIG} that is not of a run; choose another folder")
    if overwrite:
        for name in (STATE, MODEL, LOG, CONFIG):
            (folder / name).unlink(missing_ok=True)
        forget_calls(folder)
        forget_twin(folder)
    write_atomic(folder / CONFIG, json.dumps(config.model_dump(), indent=2).encode())
