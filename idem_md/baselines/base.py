"""The seam of engines: each draws positions; what they share is here."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from ..chains import ChainState, equilibrate, first_step, noise_start
from ..checks import check_int
from ..energies import Energy, ExactSamples
from ..ensemble import WeightedEnsemble
from ..errors import UsageError
from ..provenance import provenance
from ..registry import Registry
from ..seeds import draw_seed
from ..systems import System, get_system

__all__ = ["ENGINES", "Draws", "Engine", "reference_engine", "register_engine", "tuned_chains"]


class Draws(NamedTuple):
    """What an engine found.

    Attributes
    ----------
    positions : torch.Tensor, shape (n, N, D)
        Of equal weight.
    facts : dict
        What the provenance is to say of them beside cost and origin; JSON.
    """

    positions: torch.Tensor
    facts: dict[str, Any]


class Engine(ABC):
    """Draws equilibrium samples of a system without a network.

    Attributes
    ----------
    name : str
        Set by `register_engine`.
    default_steps : int or None
        Steps a chain; None for engines that take none.
    minimum_steps : int
    """

    name: str = ""
    default_steps: ClassVar[int | None] = 20_000
    minimum_steps: ClassVar[int] = 1

    def run(self, system: str | System, n: int, n_steps: int | None = None, seed: int = 0) -> WeightedEnsemble:
        """Equally weighted samples, energies evaluated in double precision.

        Parameters
        ----------
        system : str or System
        n, seed : int
        n_steps : int, optional
            Steps a chain; by default those of the engine.

        Raises
        ------
        UsageError
            Unknown system, one that the engine cannot sample, or a number out of range.
        """
        n, seed = check_int("n", n, 1), check_int("seed", seed, 0, 2**31 - 1)
        if self.default_steps is None:
            if n_steps is not None:
                raise UsageError(f"steps: expected none for the engine {self.name!r}, got {n_steps}")
        else:
            n_steps = check_int("steps", self.default_steps if n_steps is None else n_steps, self.minimum_steps)
        target = get_system(system)
        energy = target.energy()
        start = time.perf_counter()
        draws = self.draw(target, energy, n, n_steps or 0, torch.Generator().manual_seed(seed))
        x = draws.positions.double()
        u, _ = energy(x)
        steps = {} if n_steps is None else {"steps": n_steps}
        record = provenance(
            target.name, energy.parameters, energy.calls, start, method=self.name, seed=seed, **steps, **draws.facts
        )
        return WeightedEnsemble(x.numpy(), u.numpy(), np.zeros(len(x)), target, record, kind="equilibrium")

    @abstractmethod
    def draw(self, system: System, energy: Energy, n: int, n_steps: int, generator: torch.Generator) -> Draws:
        """``n`` samples."""


ENGINES: Registry[Engine] = Registry("engine")

EngineType = TypeVar("EngineType", bound=Engine)


def register_engine(name: str) -> Callable[[type[EngineType]], type[EngineType]]:
    """Class decorator: makes an `Engine` known to ``idem-md baseline --engine`` under that name."""

    def add(kind: type[EngineType]) -> type[EngineType]:
        engine = ENGINES.register(name)(kind())
        engine.name = name
        return kind

    return add


def reference_engine(system: str | System) -> Engine:
    """The engine of reference sets: ``exact`` where the energy has samples by formula, else ``pt``."""
    return ENGINES["exact" if isinstance(get_system(system).energy(), ExactSamples) else "pt"]


def tuned_chains(
    system: System, energy: Energy, n: int, n_steps: int, generator: torch.Generator, rounds: int = 50
) -> tuple[ChainState, float]:
    """``n`` chains from relaxed noise after ``n_steps`` of MALA in ``rounds``, and the step tuned in between."""
    start = noise_start(energy, system.sigma_data, n, 200, generator)
    steps_a_round = max(n_steps // rounds, 1)
    return equilibrate(
        energy, start, first_step(system.sigma_data), rounds, steps_a_round, lambda: draw_seed(generator)
    )
