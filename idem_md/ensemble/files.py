"""Files: trajectories with a PDB topology and an NPZ beside them, and exports for other programs."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, UsageError
from ..files import atomic_set
from .formats import FORMATS, Contents

__all__ = ["check_writable", "read_ensemble", "write_ensemble"]

ARRAYS = ("positions", "energies", "log_weights")


def check_writable(path) -> dict[str, Path]:
    """The files of an ensemble by suffix, the asked one first, if they can be written there.

    Raises
    ------
    UsageError
        A suffix that is not known, no such folder, no permission, or a folder in the place of a file.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UsageError(f"out: expected a file name ending in one of {', '.join(FORMATS)}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"out: cannot write {path}, there is no folder {path.parent}")
    companions = (".pdb", ".npz") if FORMATS[path.suffix].whole else ()
    paths = {suffix: path.with_suffix(suffix) for suffix in (path.suffix, *companions)}
    for target in paths.values():
        if target.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"out: cannot write {target}")
    return paths


def write_ensemble(path, contents: Contents) -> list[Path]:
    """Write an ensemble in the format of the suffix, trajectories with ``F.pdb`` and ``F.npz``; returns the paths.

    Raises
    ------
    UsageError
        The folder does not exist or cannot be written; nothing is left behind.
    """
    paths = check_writable(path)
    try:
        with atomic_set(paths) as new:
            for suffix, target in new.items():
                FORMATS[suffix].write(target, contents)
    except OSError as error:
        raise UsageError(f"path: cannot write {path} ({error.strerror or error})") from None
    return list(paths.values())


def read_ensemble(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and provenance of an ensemble, from the NPZ beside the trajectory.

    Raises
    ------
    FileFormatError
        Missing, truncated, foreign or inconsistent file.
    """
    path = Path(path)
    if path.suffix not in (whole := [suffix for suffix in FORMATS if FORMATS[suffix].whole or suffix == ".npz"]):
        raise UsageError(f"path: expected a file name ending in one of {', '.join(whole)}, got {str(path)!r}")
    path = path.with_suffix(".npz")
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as data:
            missing = [key for key in (*ARRAYS, "provenance") if key not in data.files]
            if missing:
                raise FileFormatError(
                    f"{path}: expected the array '{missing[0]}', found {', '.join(data.files) or 'none'}"
                )
            arrays = {key: np.asarray(data[key], dtype=np.float64) for key in ARRAYS}
            provenance = json.loads(str(data["provenance"]))
    except FileNotFoundError:
        raise FileFormatError(f"{path}: expected the weights beside the trajectory, there is no such file") from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path}: expected an ensemble, it cannot be read ({error})") from None
    x = arrays["positions"]
    n = len(x) if x.ndim == 3 else -1
    if arrays["energies"].shape != (n,) or arrays["log_weights"].shape != (n,):
        raise FileFormatError(
            f"{path}: expected positions (n,N,D), energies (n,), log_weights (n,), got "
            + ", ".join(f"{k} {arrays[k].shape}" for k in ARRAYS)
        )
    if not isinstance(provenance, dict) or not isinstance(provenance.get("system"), str):
        raise FileFormatError(f"{path}: expected a provenance that names the system")
    return arrays, provenance
