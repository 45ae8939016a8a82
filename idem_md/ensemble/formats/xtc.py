"""XTC, in nm to three digits: GROMACS, MDTraj, MDAnalysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...files import plain_path
from .base import Contents, register_format, save_whole

__all__ = ["write_xtc"]


@register_format(".xtc", whole=True)
def write_xtc(path: Path, contents: Contents) -> None:
    """Failed samples, whose weight is zero, are there with all atoms at the origin: the format has no NaN."""
    trajectory = contents.trajectory[:]
    trajectory.xyz = np.nan_to_num(trajectory.xyz, nan=0.0, posinf=0.0, neginf=0.0)
    with plain_path(path) as plain:
        save_whole(trajectory.save_xtc, plain)
