"""Normalised weights as text, one a sample, for `numpy.loadtxt` and any function that takes weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..estimators import normalised
from .base import Contents, register_format

__all__ = ["write_weights"]


@register_format(".weights")
def write_weights(path: Path, contents: Contents) -> None:
    """They sum to one; failed samples have zero, so that lines are those of the trajectory."""
    header = (
        f"weights of {len(contents.log_weights)} samples of {contents.record['system']}, no logarithms; they sum to "
        f"one\nmade from: {contents.weights_are}"
    )
    np.savetxt(path, normalised(contents.log_weights), fmt="%.17g", header=header)
