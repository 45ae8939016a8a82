"""Files: DCD (Å), PDB topology and NPZ, written together or not at all."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError, UsageError
from ..files import atomic_set
from ..units import Units

if TYPE_CHECKING:
    import mdtraj

__all__ = ["check_writable", "companion_paths", "read_ensemble", "to_trajectory", "topology", "write_ensemble"]

ARRAYS = ("positions", "energies", "log_weights")


def companion_paths(path) -> dict[str, Path]:
    """The three files of an ensemble, from the path of the DCD (or of the NPZ).

    Raises
    ------
    UsageError
        Another suffix.
    """
    path = Path(path)
    if path.suffix not in (".dcd", ".npz"):
        raise UsageError(f"path: expected a file name ending in .dcd, got {str(path)!r}")
    return {kind: path.with_suffix(f".{kind}") for kind in ("dcd", "pdb", "npz")}


def check_writable(path) -> dict[str, Path]:
    """The three files of an ensemble, if they can be written there.

    Raises
    ------
    UsageError
        Another suffix than .dcd, no such folder, no permission, or a folder in the place of a file.
    """
    path = Path(path)
    if path.suffix != ".dcd":
        raise UsageError(f"out: expected a file name ending in .dcd, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"out: cannot write {path}, there is no folder {path.parent}")
    paths = companion_paths(path)
    for target in paths.values():
        if target.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"out: cannot write {target}")
    return paths


def topology(elements: tuple[str, ...]) -> mdtraj.Topology:
    """One chain, one residue an atom, as OpenMM and MDTraj describe noble gases."""
    import mdtraj

    top = mdtraj.Topology()
    chain = top.add_chain()
    for symbol in elements:
        kind = mdtraj.element.virtual if symbol == "X" else mdtraj.element.get_by_symbol(symbol)
        top.add_atom(symbol, kind, top.add_residue(symbol.upper(), chain))
    return top


def to_trajectory(positions: np.ndarray, elements: tuple[str, ...], units: Units) -> mdtraj.Trajectory:
    """MDTraj trajectory (nm, float32) of reduced positions (n, N, D); two dimensions get z = 0."""
    import mdtraj

    xyz = units.to_angstrom(np.asarray(positions, dtype=np.float64)) / 10.0
    if xyz.shape[2] < 3:
        xyz = np.concatenate([xyz, np.zeros((*xyz.shape[:2], 3 - xyz.shape[2]))], axis=2)
    return mdtraj.Trajectory(xyz.astype(np.float32), topology(elements))


def _write_dcd(path: Path, trajectory: mdtraj.Trajectory) -> None:
    trajectory.save_dcd(str(path))
    # The writer stamps the date into the second of the two 80-byte titles; the same samples should give the
    # same file on any day. Layout: 92 bytes of header record, then the record length and the title count.
    title = b"REMARKS reduced samples with weights in the NPZ file of the same name".ljust(80)
    with open(path, "r+b") as handle:
        handle.seek(92)
        length, count = struct.unpack("<ii", handle.read(8))
        if (length, count) == (164, 2):
            handle.seek(100 + 80)
            handle.write(title)


def _write_pdb(path: Path, trajectory: mdtraj.Trajectory) -> None:
    # Any frame that fits the format's fixed columns serves as topology; the first one may have failed.
    fits = np.flatnonzero(np.isfinite(trajectory.xyz).all((1, 2)) & (np.abs(trajectory.xyz) < 99).all((1, 2)))
    frame = trajectory[int(fits[0]) if len(fits) else 0]
    if not len(fits):
        frame.xyz = np.zeros_like(frame.xyz)
    frame.save_pdb(str(path))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("REMARK   1 CREATED WITH MDTraj")))


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> None:
    with open(path, "wb") as handle:
        columns: dict[str, Any] = {**arrays, "provenance": np.array(json.dumps(provenance, sort_keys=True))}
        np.savez(handle, **columns)


def write_ensemble(
    path, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any], elements: tuple[str, ...], units: Units
) -> list[Path]:
    """Write ``F.dcd``, ``F.pdb`` and ``F.npz``; returns their paths.

    Parameters
    ----------
    path : path of the DCD
    arrays : dict
        ``positions`` (n, N, D) in reduced length, ``energies`` (n,) and ``log_weights`` (n,), float64.
    provenance : dict
        Written as a JSON string into the NPZ.

    Raises
    ------
    UsageError
        The folder does not exist or cannot be written; nothing is left behind.
    """
    paths = check_writable(path)
    trajectory = to_trajectory(arrays["positions"], elements, units)
    try:
        with atomic_set(paths) as new:
            _write_dcd(new["dcd"], trajectory)
            _write_pdb(new["pdb"], trajectory)
            _write_npz(new["npz"], arrays, provenance)
    except OSError as error:
        raise UsageError(f"path: cannot write {paths['dcd']} ({error.strerror or error})") from None
    return list(paths.values())


def read_ensemble(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and provenance of an ensemble, from the NPZ beside the DCD.

    Raises
    ------
    FileFormatError
        Missing, truncated, foreign or inconsistent file.
    """
    path = companion_paths(path)["npz"]
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
