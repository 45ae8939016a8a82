"""Files that are whole or not there, one by one and in sets; folders that one process works in at a time."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

import portalocker

from .errors import UsageError

__all__ = ["Claim", "atomic_set", "claimed", "free_name", "locked", "own_folder", "plain_path", "write_atomic"]

PREFIX = ".idem-md-"
OWNER = "owner"
LOCK = ".idem-md.lock"
# Longest name of a machine.
MAX_HOST = 255
# Seconds after which a scratch folder of another machine is left over: not every file system that machines share also
# shares locks.
DONE_BY_THEN = 24 * 3600.0


def _alone(handle: IO) -> bool:
    """Lock an open file; false if another process has it. The lock ends with the process, however that ends. Raises
    `OSError` where the file system knows no locks."""
    try:
        portalocker.lock(handle, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        raise OSError(errno.ENOLCK, str(error)) from None
    return True


def _is_left(left: Path) -> bool:
    """Whether this is a scratch folder of a process that is no more. What does not say so itself is someone else's."""
    try:
        if any(path.is_dir() for path in left.iterdir()):
            return False
        with open(left / OWNER, "r+b") as handle:
            host = handle.read(MAX_HOST + 1).decode(errors="replace")
            if len(host) > MAX_HOST or len(host.split()) > 1:  # we write the name of a machine and nothing else
                return False
            elsewhere = host not in ("", socket.gethostname())
            return _alone(handle) and (not elsewhere or time.time() - left.stat().st_mtime > DONE_BY_THEN)
    except OSError:  # there is no owner: perhaps it is just being made
        return False


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone in between
            if left.is_dir() and not left.is_symlink() and _is_left(left):
                shutil.rmtree(left, ignore_errors=True)


def _permissions(path: Path, fresh: int) -> int:
    """Permissions of the file that is to be replaced, or else those of a new one, which the umask decides."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return fresh


@contextmanager
def atomic_set(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Write several files of one folder, all or none: gives paths to write to, and moves them into place at the end,
    in their order. What killed processes left half-written there is removed.

    A file that is replaced keeps its permissions; new ones get those that the umask leaves. A symbolic link in the
    place of a file is replaced, not followed.

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
            fresh = stat.S_IMODE(os.fstat(owner.fileno()).st_mode)
            os.rename(owner.name, Path(scratch) / OWNER)  # locked before anyone can see it
            new = {key: Path(scratch) / path.name for key, path in paths.items()}
            yield new
            for key, path in new.items():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
                with suppress(OSError):  # a file system that knows no permissions
                    os.chmod(path, _permissions(paths[key], fresh))
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
def _held(path: Path, busy: Callable[[str], str]) -> Iterator[None]:
    """Within it no other process holds the lock of that name.

    Raises
    ------
    UsageError
        One does: ``busy`` of who it is.
    """
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
            raise UsageError(busy(owner))
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
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process works in the folder.

    Raises
    ------
    UsageError
        One does; names it.
    """
    with _held(folder / LOCK, lambda owner: f"out: expected a folder that is not in use, {owner} works in {folder}"):
        yield


class Claim:
    """Names of files that are to be written at the end of a long run, and what is there as it begins.

    Parameters
    ----------
    paths : sequence of Path
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = tuple(paths)
        self._found = [_identity(path) for path in self.paths]

    @property
    def broken(self) -> bool:
        """Whether someone else has written one of them since."""
        return [_identity(path) for path in self.paths] != self._found

    def free_name(self, path: Path) -> Path:
        """A name beside one of them, for what was to be written there; see `free_name`."""
        suffixes = {p.suffix for p in self.paths if p.stem == path.stem}
        return free_name(path, str(os.getpid()), lambda p: [p.with_suffix(suffix) for suffix in suffixes])


def free_name(path: Path, word: str, files: Callable[[Path], Iterable[Path]]) -> Path:
    """``F-word.dcd`` for ``F.dcd``, or ``F-word-2.dcd`` and so on: the first whose ``files`` are all missing."""
    for k in count(1):
        target = path.with_stem(f"{path.stem}-{word}" + (f"-{k}" if k > 1 else ""))
        if not any(os.path.lexists(file) for file in files(target)):
            break
    return target


def _identity(path: Path) -> tuple[int, ...] | None:
    """Inode, time and size of a file, which change when it is written anew; None if it is not there."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def claimed(name: str, paths: Sequence[Path]) -> Iterator[Claim]:
    """Within it no other run that asks for one of these names begins. Where a file system knows no locks, the claim is
    `Claim.broken` at the end.

    Parameters
    ----------
    name : str
        What to call the option in the error.
    paths : sequence of Path

    Raises
    ------
    UsageError
        Another process has claimed one of them; names it.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(paths):
            text = f"{name}: expected a name that no other run writes to, {path} is for"
            with suppress(OSError):  # what keeps a lock away says so when the file is written
                lock = path.with_name(f"{PREFIX}{path.name}.lock")
                stack.enter_context(_held(lock, lambda owner, text=text: f"{text} {owner}"))  # type: ignore[misc]
        yield Claim(paths)


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
