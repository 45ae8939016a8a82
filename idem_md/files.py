"""Files that are whole or not there, one by one and in sets; folders that one process works in at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import UsageError

__all__ = ["atomic_set", "locked", "plain_path", "write_atomic"]

PREFIX = ".idem-md-"
OWNER = "owner"
LOCK = ".lock"


def _alone(handle: IO) -> bool:
    """Lock an open file; false if another process has it. The lock ends with the process, however that ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in folder.glob(f"{PREFIX}*"):
        try:
            with open(left / OWNER, "rb") as handle:
                dead = _alone(handle)
        except OSError:  # just being made, or not ours
            continue
        if dead:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def atomic_set(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Write several files of one folder, all or none: gives paths to write to, and moves them into place at the end,
    in their order. What killed processes left half-written there is removed.

    Parameters
    ----------
    paths : mapping
        Where the files are to be, by any key; all in one existing folder.

    Yields
    ------
    dict
        By the same keys, where to write them.
    """
    folder = next(iter(paths.values())).parent
    _sweep(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX) as scratch:
        with open(Path(scratch) / OWNER, "wb") as owner:
            _alone(owner)
            new = {key: Path(scratch) / path.name for key, path in paths.items()}
            yield new
            for path in new.values():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
                os.chmod(path, 0o644)
            for key, path in paths.items():
                os.replace(new[key], path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_set({"": path}) as new:
        new[""].write_bytes(data)


@contextmanager
def plain_path(path: Path) -> Iterator[str]:
    """A path in ASCII to write to, for libraries that know no other; what is there goes to ``path`` at the end."""
    if str(path).isascii():
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="idem-md-") as scratch:
        new = os.path.join(scratch, f"file{path.suffix}")
        yield new
        shutil.copyfile(new, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process works in the folder.

    Raises
    ------
    UsageError
        One does; names it.
    """
    path = folder / LOCK
    while True:
        handle = open(path, "a+b")
        if not _alone(handle):
            handle.seek(0)
            owner = handle.read().decode(errors="replace") or "another process"
            handle.close()
            raise UsageError(f"out: expected a folder that is not in use, {owner} works in {folder}")
        if path.exists() and os.stat(path).st_ino == os.fstat(handle.fileno()).st_ino:
            break
        handle.close()  # whoever had it has just removed it
    try:
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        handle.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()
