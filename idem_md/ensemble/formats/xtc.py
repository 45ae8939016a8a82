"""XTC, in nm to three digits: GROMACS, MDTraj, MDAnalysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Contents, register_format

__all__ = ["write_xtc"]


@register_format(".xtc", whole=True)
def write_xtc(path: Path, contents: Contents) -> None:
    """Failed samples, whose weight is zero, are there with all atoms at the origin: the format has no NaN."""
    trajectory = contents.trajectory[:]
    trajectory.xyz = np.nan_to_num(trajectory.xyz, nan=0.0, posinf=0.0, neginf=0.0)
    trajectory.save_xtc(str(path))
