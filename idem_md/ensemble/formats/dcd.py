"""DCD, in Å: MDTraj, MDAnalysis, VMD."""

from __future__ import annotations

import struct
from pathlib import Path

from .base import Contents, register_format

__all__ = ["write_dcd"]


@register_format(".dcd", whole=True)
def write_dcd(path: Path, contents: Contents) -> None:
    """Failed samples are there, as NaN."""
    contents.trajectory.save_dcd(str(path))
    # The writer stamps the date into the second of the two 80-byte titles; the same samples should give the
    # same file on any day. Layout: 92 bytes of header record, then the record length and the title count.
    title = b"REMARKS reduced samples with weights in the NPZ file of the same name".ljust(80)
    with open(path, "r+b") as handle:
        handle.seek(92)
        length, count = struct.unpack("<ii", handle.read(8))
        if (length, count) == (164, 2):
            handle.seek(100 + 80)
            handle.write(title)
