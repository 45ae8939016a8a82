"""Files that are whole or not there, one by one and in sets; folders that one process works in at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import UsageError

__all__ = ["atomic_set", "locked", "own_folder", "plain_path", "write_atomic"]

PREFIX = ".idem-md-"
OWNER = "owner"
LOCK = ".idem-md.lock"
# Seconds after which a scratch folder without an owner will have none.
MADE_BY_THEN = 60.0
# And after which one of another machine is left over: not every file system that machines share also shares locks.
DONE_BY_THEN = 24 * 3600.0


def _alone(handle: IO) -> bool:
    """Lock an open file; false if another process has it. The lock ends with the process, however that ends. Raises
    `OSError` where the file system knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_dead(left: Path) -> bool:
    """Whether the process that made a scratch folder is no more."""
    try:
        with open(left / OWNER, "r+b") as handle:
            elsewhere = handle.read().decode(errors="replace") not in ("", socket.gethostname())
            return _alone(handle) and (not elsewhere or time.time() - left.stat().st_mtime > DONE_BY_THEN)
    except FileNotFoundError:  # killed while it was made, or just being made
        return time.time() - left.stat().st_mtime > MADE_BY_THEN
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone in between
            if left.is_dir() and _is_dead(left):
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
        with open(Path(scratch) / f".{OWNER}", "wb") as owner:
            with suppress(OSError):
                _alone(owner)
            owner.write(socket.gethostname().encode())
            owner.flush()
            os.rename(owner.name, Path(scratch) / OWNER)  # locked before anyone can see it
            new = {key: Path(scratch) / path.name for key, path in paths.items()}
            yield new
            for path in new.values():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
                os.chmod(path, 0o644)
            for key, path in paths.items():
                os.replace(new[key], path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    try:
        with atomic_set({"": path}) as new:
            new[""].write_bytes(data)
    except OSError as error:
        raise UsageError(f"path: cannot write {path} ({error.strerror or error})") from None


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
        try:
            alone = _alone(handle)
        except OSError:  # a file system without locks
            break
        if not alone:
            handle.seek(0)
            owner = handle.read().decode(errors="replace") or "another process"
            handle.close()
            raise UsageError(f"out: expected a folder that is not in use, {owner} works in {folder}")
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle.fileno()).st_ino:
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


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """`locked`, the folder made if it is missing; one that was made for nothing goes again.

    Raises
    ------
    UsageError
        It cannot be made or written to, or another process works in it.
    """
    made = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            except OSError as error:
                raise UsageError(f"out: cannot write to the folder {folder} ({error.strerror or error})") from None
            yield
    finally:
        for empty in made:
            if os.path.isdir(empty) and not any(empty.iterdir()):
                empty.rmdir()
