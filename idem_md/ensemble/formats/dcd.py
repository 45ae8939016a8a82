"""DCD, in Å: MDTraj, MDAnalysis, VMD."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np

from ...files import plain_path
from .base import Contents, register_format, save_whole

__all__ = ["write_dcd"]


# Bytes before the first frame.
HEADER = 276


@register_format(".dcd", whole=True)
def write_dcd(path: Path, contents: Contents) -> None:
    """Failed samples are there, as NaN."""
    from mdtraj.formats import DCDTrajectoryFile

    def save(to: str) -> None:
        with DCDTrajectoryFile(to, "w") as handle:
            for trajectory in contents.trajectories():
                handle.write(trajectory.xyz * np.float32(10))

    n, n_atoms = len(contents.energies), len(contents.elements)
    with plain_path(path) as plain:
        save_whole(save, plain)
        size, wanted = os.path.getsize(plain), HEADER + n * 3 * (4 * n_atoms + 8)
        if size != wanted:  # the writer does not look at what becomes of its bytes
            raise OSError(errno.EIO, f"{size} of {wanted} bytes were written")
    # The writer stamps the date into the second of the two 80-byte titles; the same samples should give the
    # same file on any day. Layout: 92 bytes of header record, then the record length and the title count.
    title = b"REMARKS reduced samples with weights in the NPZ file of the same name".ljust(80)
    with open(path, "r+b") as handle:
        handle.seek(92)
        length, count = struct.unpack("<ii", handle.read(8))
        if (length, count) == (164, 2):
            handle.seek(100 + 80)
            handle.write(title)
