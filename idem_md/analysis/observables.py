"""Observables of configurations, by name: functions of positions (n, N, D), for `WeightedEnsemble.expectation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from ..registry import Registry
from ..units import as_numbers
from .distances import pair_distances

__all__ = ["OBSERVABLES", "POWERS", "Observable", "positions_of", "radius_of_gyration", "register_observable"]


class Observable(Protocol):
    """A function of positions (n, N, D) with values (n,) or (n, ...), in their unit of length."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...


@runtime_checkable
class Trajectory(Protocol):
    """A trajectory like MDTraj's."""

    @property
    def xyz(self) -> np.ndarray:
        """Positions (n, N, 3), in nm."""
        ...


OBSERVABLES: Registry[Observable] = Registry("observable")
# The power of a length that an observable is, by its name; observables that are not here have a unit of their own.
POWERS: dict[str, int] = {}

F = TypeVar("F", bound=Callable)


def register_observable(name: str, power: int | None = None) -> Callable[[F], F]:
    """Decorator: makes a function of positions known under that name, and what power of a length its values are."""
    if power is not None:
        POWERS[name] = power
    return OBSERVABLES.register(name)


def positions_of(x) -> np.ndarray:
    """Positions (n, N, D), float64, of an array or an MDTraj trajectory (then in nm)."""
    return as_numbers("x", x.xyz if isinstance(x, Trajectory) else x, "an array in one unit of length")


@register_observable("rg", power=1)
def radius_of_gyration(x) -> np.ndarray:
    """Root mean square distance of the atoms from their centroid, shape (n,); all atoms weigh the same.

    Parameters
    ----------
    x : array_like, shape (n, N, D), or mdtraj.Trajectory
    """
    x = positions_of(x)
    return np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))


@register_observable("pair-distances", power=1)
def distances(x) -> np.ndarray:
    """Distances of all pairs i < j, shape (n, N(N-1)/2).

    Parameters
    ----------
    x : array_like, shape (n, N, D), or mdtraj.Trajectory
    """
    return pair_distances(positions_of(x))
