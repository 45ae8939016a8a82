"""Arrays that come in blocks and may not fit into memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from .errors import UsageError

__all__ = ["Rows", "blocks_of", "check_room", "owned"]

# Bytes from which on rows go to a file, and of a block that is worked on at a time.
LIMIT = 2**28
BLOCK = 2**24


class Rows:
    """Rows of a float64 array, in memory or, once there are many, in a file without a name in the folder for temporary
    ones (``TMPDIR``).

    Parameters
    ----------
    shape : sequence of int
        Of a row.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)
        # In one piece: thousands of small arrays that stay would keep what lies between them from being used again.
        self._bytes = bytearray()
        self._file: IO[bytes] | None = None

    def append(self, block: np.ndarray) -> None:
        """Some more, shape (k, ...)."""
        self._bytes += np.ascontiguousarray(block, dtype=np.float64).data.cast("B") if block.size else b""
        if self._file is None and len(self._bytes) > LIMIT:
            self._file = tempfile.TemporaryFile()
        if self._file is not None:
            self._file.write(self._bytes)
            self._bytes.clear()

    def array(self) -> np.ndarray:
        """All of them, shape (n, ...), read-only, at the end; its pages come from the file if there is one."""
        if self._file is None:
            found = np.frombuffer(self._bytes, np.float64)
        else:
            with self._file:  # closed, it lives on as long as the array does
                self._file.flush()
                found = np.memmap(self._file, np.float64, "c")
        found.flags.writeable = False
        return np.asarray(found.reshape(-1, *self.shape))

    def copy(self, n: int) -> np.ndarray:
        """The first ``n``, shape (n, ...), while more may come."""
        if self._file is None:
            found = np.frombuffer(bytes(self._bytes), np.float64)
        else:
            self._file.flush()
            found = np.memmap(self._file, np.float64, "r")
        return np.array(found.reshape(-1, *self.shape)[:n])


def owned(array: np.ndarray) -> np.ndarray:
    """The same numbers, read-only and out of anyone's reach: a copy, unless nothing that can be written is behind."""
    behind: object = array
    while isinstance(behind, np.ndarray):
        if behind.flags.writeable:
            array = array.copy()
            array.flags.writeable = False
            break
        behind = behind.base
    return array


def blocks_of(x: np.ndarray) -> Iterator[slice]:
    """Slices of rows that are worked on one after the other, so that temporary arrays stay small."""
    rows = max(BLOCK // max(x[:1].nbytes, 1), 1)
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))


def check_room(name: str, n: int, shape: Sequence[int]) -> None:
    """Raise `UsageError` for a number of rows that the folder for temporary files has no room for."""
    wanted, folder = 8 * n * int(np.prod(shape)), tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if wanted > max(free, LIMIT):
        raise UsageError(
            f"{name}: expected at most {max(free, LIMIT) * n // wanted}, got {n}, which take {wanted / 2**30:.3g} GiB "
            f"of the {free / 2**30:.3g} GiB that are free in {folder} (TMPDIR)"
        )
