"""Systematic resampling."""

from __future__ import annotations

import numpy as np

__all__ = ["systematic_indices"]


def systematic_indices(weights: np.ndarray, n: int, shift: float) -> np.ndarray:
    """Draw ``n`` ascending indices: each sample n times its share of the weights (m,), rounded up or down (Douc and
    Cappe, ISPA 2005).

    Parameters
    ----------
    weights : array, shape (m,)
        Not negative, not all zero.
    n : int
    shift : float
        The one random number, uniform in [0, 1).
    """
    edges = np.cumsum(weights)
    # Rounding can leave the last edge a hair below one, and the last of the n numbers at one.
    at = (np.arange(n) + shift) / n
    return np.minimum(np.searchsorted(edges / edges[-1], at, side="right"), len(edges) - 1)
