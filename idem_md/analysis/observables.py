"""Observables of configurations, by name: functions of positions (n, N, D), in reduced length, for `expectation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from ..registry import Registry
from .distances import pair_distances

__all__ = ["OBSERVABLES", "Observable", "radius_of_gyration", "register_observable"]


class Observable(Protocol):
    """One call: positions (n, N, D) to values (n,) or (n, ...)."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...


OBSERVABLES: Registry[Observable] = Registry("observable")

F = TypeVar("F", bound=Callable)


def register_observable(name: str) -> Callable[[F], F]:
    """Decorator: makes a function of positions known under that name."""
    return OBSERVABLES.register(name)


@register_observable("rg")
def radius_of_gyration(x: np.ndarray) -> np.ndarray:
    """Root mean square distance of the atoms from their centroid, shape (n,); all atoms weigh the same."""
    x = np.asarray(x, dtype=np.float64)
    return np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))


register_observable("pair-distances")(pair_distances)
