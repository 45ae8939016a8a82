"""Bond-orientational order of clusters, by freud."""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from ..extras import import_extra
from .observables import positions_of, register_observable

__all__ = ["steinhardt"]

# Neighbours are nearer than so many times the median distance of nearest neighbours: between the first and the second
# shell of Lennard-Jones clusters and close packings.
REACH = 1.4


def steinhardt(x, order: int) -> np.ndarray:
    """Global order parameter Q_l of each configuration, shape (n,).

    Q_l = sqrt(4 pi / (2l + 1) sum_m |<Y_lm>|^2), the mean over atoms of their means over bonds (Steinhardt, Nelson &
    Ronchetti, Phys. Rev. B 28, 784, 1983). Q_6 is 0.57 for pieces of an fcc crystal, and small for a liquid and for an
    icosahedron of 13 atoms, as its bonds cancel. A bond joins atoms nearer than 1.4 times the configuration's median
    distance of nearest neighbours; atoms without any do not count.

    Parameters
    ----------
    x : array_like, shape (n, N, 3), or mdtraj.Trajectory
    order : int
        l.

    Raises
    ------
    UsageError
        Other than three dimensions, a single atom, or freud is not installed (the extra ``steinhardt``).
    """
    x = positions_of(x)
    if x.shape[2] != 3 or x.shape[1] < 2:
        raise UsageError(f"observable: expected two or more atoms in three dimensions, got shape {x.shape}")
    freud = import_extra("freud", "steinhardt", "observable")
    compute = freud.order.Steinhardt(order, weighted=False)
    values = np.empty(len(x))
    for k, points in enumerate(x - x.mean(1, keepdims=True)):
        square = ((points[:, None] - points[None]) ** 2).sum(-1)
        np.fill_diagonal(square, np.inf)
        reach = REACH * float(np.median(np.sqrt(square.min(1))))
        box = freud.box.Box.cube(4 * float(np.abs(points).max()) + 4 * reach)
        bonded = (square < reach**2).any(1)
        points, square = points[bonded], square[bonded][:, bonded]
        pairs = np.argwhere(square < reach**2)
        vectors = points[pairs[:, 1]] - points[pairs[:, 0]]
        neighbours = freud.locality.NeighborList.from_arrays(len(points), len(points), *pairs.T, vectors)
        values[k] = compute.compute((box, points), neighbors=neighbours).order
    return values


@register_observable("q4", power=0)
def q4(x) -> np.ndarray:
    """`steinhardt` of order 4."""
    return steinhardt(x, 4)


@register_observable("q6", power=0)
def q6(x) -> np.ndarray:
    """`steinhardt` of order 6."""
    return steinhardt(x, 6)
