"""Files: trajectories with a PDB topology and an NPZ beside them, and exports for other programs."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, UsageError
from ..files import atomic_set
from .formats import FORMATS, Contents

__all__ = ["READABLE", "check_writable", "read_ensemble", "write_ensemble"]

ARRAYS = ("positions", "energies", "log_weights")
# Suffixes of trajectories with weights beside them.
READABLE = tuple(suffix for suffix in FORMATS if FORMATS[suffix].whole or suffix == ".npz")
# The key in the record of an NPZ under which the digests of its trajectories stand.
TRAJECTORIES = "trajectories"
# What a damaged NPZ makes of NumPy and of the readers below it.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    SyntaxError,
    tokenize.TokenError,
)


def check_writable(path) -> dict[str, Path]:
    """The files of an ensemble by suffix, the asked one first, if they can be written there.

    Raises
    ------
    UsageError
        A suffix that is not known, no such folder, no permission, or a folder in the place of a file.
    """
    path = Path(path)
    if path.suffix not in FORMATS or path.suffix == ".pdb":  # of one frame, the topology beside the others
        known = ", ".join(suffix for suffix in FORMATS if suffix != ".pdb")
        raise UsageError(f"out: expected a file name ending in one of {known}, got {str(path)!r}")
    if not os.path.isdir(path.parent):
        raise UsageError(f"out: cannot write {path}, there is no folder {path.parent}")
    companions = (".pdb", ".npz") if FORMATS[path.suffix].whole else ()
    paths = {suffix: path.with_suffix(suffix) for suffix in (path.suffix, *companions)}
    for target in paths.values():
        try:
            os.stat(target)
        except FileNotFoundError:
            pass
        except OSError as error:  # the name is too long, and the like
            raise UsageError(f"out: cannot write {target} ({error.strerror})") from None
        if os.path.isdir(target) or not os.access(path.parent, os.W_OK):
            raise UsageError(f"out: cannot write {target}")
    return paths


def write_ensemble(path, contents: Contents) -> list[Path]:
    """Write an ensemble in the format of the suffix, trajectories with ``F.pdb`` and ``F.npz``; returns the paths.

    Raises
    ------
    UsageError
        The folder does not exist or cannot be written; nothing is left behind.
    """
    path, paths = Path(path), check_writable(path)
    try:
        with atomic_set(paths) as new:  # in their order: the NPZ, which knows the trajectory, comes last
            for suffix, target in new.items():
                if suffix == ".npz":
                    contents = replace(contents, record={**contents.record, TRAJECTORIES: _bound(path, new, contents)})
                FORMATS[suffix].write(target, contents)
    except OSError as error:
        raise UsageError(f"path: cannot write {path} ({error.strerror or error})") from None
    return list(paths.values())


def _bound(path: Path, new: Mapping[str, Path], contents: Contents) -> dict[str, str]:
    """Digests of the trajectories that belong to an NPZ, by suffix: the new one, and others of the same samples."""
    others: dict[str, str] = {}
    try:
        arrays, record = read_ensemble(path.with_suffix(".npz"))
        if all(np.array_equal(arrays[key], getattr(contents, key), equal_nan=True) for key in ARRAYS):
            others = record.get(TRAJECTORIES, {})
    except FileFormatError:
        pass
    return others | {suffix: _digest(file) for suffix, file in new.items() if suffix not in (".pdb", ".npz")}


def _digest(path: Path) -> str:
    """SHA-256 of a file, first 16 hex digits."""
    found = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(2**20):
            found.update(block)
    return found.hexdigest()[:16]


def _check_bound(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse a trajectory that is not the one that its NPZ was written with; older files do not know."""
    known = record.get(TRAJECTORIES)
    if known is None or path.suffix == ".npz":
        return
    wanted = known.get(path.suffix)
    if wanted is None or not path.is_file():
        what = "there is none" if not path.is_file() else f"only {', '.join(known)} belongs to it"
        raise FileFormatError(f"{path}: expected the trajectory of {path.stem}.npz, {what}")
    if _digest(path) != wanted:
        raise FileFormatError(
            f"{path}: expected the trajectory that {path.stem}.npz was written with, this is another or a damaged one"
        )


def read_ensemble(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and provenance of an ensemble, from the NPZ beside the trajectory.

    Raises
    ------
    FileFormatError
        Missing, truncated, foreign or inconsistent file.
    """
    path = Path(path)
    if path.suffix not in READABLE:
        raise UsageError(f"path: expected a file name ending in one of {', '.join(READABLE)}, got {str(path)!r}")
    asked, path = path, path.with_suffix(".npz")
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as data:
            missing = [key for key in (*ARRAYS, "provenance") if key not in data.files]
            if missing:
                raise FileFormatError(
                    f"{path}: expected the array '{missing[0]}', found {', '.join(data.files) or 'none'}"
                )
            arrays = {key: np.asarray(data[key], dtype=np.float64) for key in ARRAYS}
            for array in arrays.values():
                array.flags.writeable = False  # nobody else has them
            provenance = json.loads(str(data["provenance"]))
    except FileNotFoundError:
        raise FileFormatError(f"{path}: expected the weights beside the trajectory, there is no such file") from None
    except UNREADABLE as error:
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
    bound = provenance.get(TRAJECTORIES, {})
    if not isinstance(bound, dict) or not all(isinstance(digest, str) for digest in bound.values()):
        raise FileFormatError(f"{path}: expected digests of trajectories, got {bound!r}")
    _check_bound(asked, provenance)
    return arrays, provenance
