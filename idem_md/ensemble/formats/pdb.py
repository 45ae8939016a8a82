"""PDB of one frame: the topology that trajectories lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Contents, register_format

__all__ = ["write_pdb"]


@register_format(".pdb")
def write_pdb(path: Path, contents: Contents) -> None:
    """One frame, as topology."""
    for trajectory in contents.trajectories():
        # Any frame that fits the format's fixed columns serves as topology; the first one may have failed.
        fits = np.flatnonzero((np.abs(trajectory.xyz) < 99).all((1, 2)))
        frame = trajectory[int(fits[0]) if len(fits) else 0]
        if len(fits):
            break
        frame.xyz = np.zeros_like(frame.xyz)
    frame.save_pdb(str(path))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("REMARK   1 CREATED WITH MDTraj")))
