"""What functions on ensembles take and give, so that they need not know the class that is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..provenance import Provenance
from .estimators import Source

if TYPE_CHECKING:
    from ..systems import System

__all__ = ["Fields", "Samples"]


class Fields(NamedTuple):
    """The fields of a `WeightedEnsemble`, from which it is built."""

    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray
    system: System
    provenance: Provenance
    kind: str
    source: Source | None = None


class Samples(Protocol):
    """A `WeightedEnsemble`, as functions on it see it."""

    @property
    def positions(self) -> np.ndarray: ...

    @property
    def energies(self) -> np.ndarray: ...

    @property
    def log_weights(self) -> np.ndarray: ...

    @property
    def weights(self) -> np.ndarray: ...

    @property
    def system(self) -> System: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def kind(self) -> str | None: ...

    @property
    def source(self) -> Source | None: ...

    @property
    def ess(self) -> float: ...

    @property
    def ess_fraction(self) -> float: ...

    @property
    def pareto_k(self) -> float: ...

    @property
    def log_z(self) -> float: ...

    @property
    def log_z_err(self) -> float: ...

    @property
    def alive(self) -> np.ndarray: ...

    @property
    def advice(self) -> str: ...

    def __len__(self) -> int: ...
