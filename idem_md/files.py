"""Files that are whole or not there, one by one and in sets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_set", "write_atomic"]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, then a rename."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def atomic_set(paths: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Write several files of one folder, all or none: gives paths to write to, and moves them into place at the end.

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
    with tempfile.TemporaryDirectory(dir=folder, prefix=".idem-md-") as scratch:
        new = {key: Path(scratch) / path.name for key, path in paths.items()}
        yield new
        for key, path in paths.items():
            os.replace(new[key], path)
