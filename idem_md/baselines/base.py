"""The extension point of engines: each draws positions; what they share is here."""

from __future__ import annotations

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from ..callers import warn_caller
from ..chains import ChainState, equilibrate, first_step, geometry_start, noise_start
from ..checks import check_fits, check_float, check_int
from ..energies import Energy, ExactSamples
from ..energies.floor import FloorError
from ..ensemble import WeightedEnsemble, warn
from ..ensemble.estimators import Source
from ..errors import EnergyError, UsageError, WeightWarning
from ..progress import reporting
from ..provenance import provenance
from ..registry import Registry
from ..seeds import draw_seed
from ..systems import System, get_system
from ..torch_state import own_torch

__all__ = [
    "ENGINES",
    "Budget",
    "EngineSamples",
    "Engine",
    "Progress",
    "reference_engine",
    "register_engine",
    "silent",
    "telling",
    "tuned_chains",
    "tuning_calls",
]


# Positions of chains and of samples, in double precision, with forces.
BYTES_A_COORDINATE = 48
# A hundred million a second for a year.
MAX_CALLS = 3 * 10**15
# Steps of relaxing noise, and rounds of tuning a step, before chains run.
RELAX_STEPS, ROUNDS = 200, 50
# Noise on the geometry, for chains that start there, in units of its extent.
NEAR = 0.02


class EngineSamples(NamedTuple):
    """Positions that an engine drew, and facts for their provenance.

    Attributes
    ----------
    positions : torch.Tensor, shape (n, N, D)
        Of equal weight.
    facts : dict
        What the provenance is to say of them beside cost and origin; JSON.
    ess : float, optional
        How many independent samples they are worth; by default all are.
    energies : torch.Tensor, shape (n,), float64, optional
        If they have been evaluated.
    """

    positions: torch.Tensor
    facts: dict[str, Any]
    ess: float | None = None
    energies: torch.Tensor | None = None


class Budget(NamedTuple):
    """What a run may cost: one of these, or none for what the engine does by default.

    Attributes
    ----------
    steps : int, optional
        Of each chain.
    seconds : float, optional
        Roughly, judged by trials that count; rather less than more.
    energy_calls : int, optional
        Never exceeded.
    """

    steps: int | None = None
    seconds: float | None = None
    energy_calls: int | None = None

    def checked(self) -> Budget:
        """Raises `UsageError` for more than one, or numbers out of range."""
        if len(given := [name for name, value in self._asdict().items() if value is not None]) > 1:
            raise UsageError(f"{given[1]}: expected one of steps, seconds and energy_calls at most, got {given[0]} too")
        if self.seconds is not None:
            check_float("seconds", self.seconds, above=0.0)
        if self.energy_calls is not None:
            check_int("energy_calls", self.energy_calls, 1, MAX_CALLS)
        if self.steps is not None:
            check_int("steps", self.steps, 1)
        return self


# Share of the work that is done, and what to say of it.
Progress = Callable[[float, str], None]


def silent(share: float, note: str) -> None:
    """A `Progress` that says nothing."""


@contextmanager
def telling(engine: str, progress: Progress | None) -> Iterator[Progress]:
    """``progress``, or by default a display of the share that is done."""
    if progress is not None:
        highest = 0.0

        def rising(share: float, note: str) -> None:
            nonlocal highest
            highest = max(highest, share)
            progress(highest, note)

        yield rising
        return
    with reporting(engine, 100, "%") as work:
        shown = 0

        def tell(share: float, note: str) -> None:
            nonlocal shown
            share = max(shown, int(100 * share))
            work.advance(share - shown, note)
            shown = int(share)

        yield tell


def _by_calls(tell: Progress, total: int) -> Callable[[int], None]:
    """What tells the share of energy calls that are done, where there are many counts of few."""
    told = time.perf_counter()

    def count(calls: int) -> None:
        nonlocal told
        if (now := time.perf_counter()) - told > 0.5:
            told = now
            tell(min(calls / total, 1.0), f"{calls:,} energy calls")

    return count


class Engine(ABC):
    """A way to draw equilibrium samples of a system without a network.

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
    # Whether progress is told by energy calls, which come many times in a run.
    counts_calls: ClassVar[bool] = False

    @own_torch
    def run(
        self,
        system: str | System,
        n: int,
        n_steps: int | None = None,
        seed: int = 0,
        seconds: float | None = None,
        energy_calls: int | None = None,
        progress: Progress | None = None,
    ) -> WeightedEnsemble:
        """Equally weighted samples, energies evaluated in double precision.

        Parameters
        ----------
        system : str or System
        n, seed : int
        n_steps : int, optional
            Steps a chain; by default those of the engine.
        seconds, energy_calls : float, int, optional
            As many steps as fit instead; see `Budget`.
        progress : callable (share, note), optional
            Called now and then with the share of the work that is done, and what there is to say; by default see
            `idem_md.quiet`.

        Returns
        -------
        WeightedEnsemble
            Of the kind ``equilibrium`` if the samples are independent, else ``chain``, with an effective size of what
            they are worth.

        Raises
        ------
        UsageError
            Unknown system, one that the engine cannot sample, or a number out of range.

        Warns
        -----
        WeightWarning
            There are so few independent samples that neither averages nor their errors can be trusted.
        """
        n, seed = check_int("n", n, 1), check_int("seed", seed, 0, 2**31 - 1)
        budget = Budget(n_steps, seconds, energy_calls).checked()
        target = get_system(system)
        check_fits("n", n, BYTES_A_COORDINATE * target.n_atoms * target.n_dims)
        takes_steps = self.default_steps is not None
        if budget.steps is not None and takes_steps and (calls := self.calls(n, budget.steps)) > MAX_CALLS:
            raise UsageError(
                f"steps: expected fewer, got {budget.steps}, of which {calls:.3g} energy calls take more than a year"
            )
        energy = target.energy()
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)

        def ensemble(draws: EngineSamples) -> WeightedEnsemble:
            x = draws.positions.double()
            u = energy(x)[0] if draws.energies is None else draws.energies
            record = provenance(target.name, energy.parameters, energy.calls, start, method=self.name, seed=seed)
            record.update(draws.facts)  # type: ignore[typeddict-item]
            source = None if draws.ess is None else Source(len(x), min(draws.ess, len(x)), math.nan, math.nan)
            kind = "equilibrium" if source is None else "chain"
            return WeightedEnsemble(x.numpy(), u.numpy(), np.zeros(len(x)), target, record, kind, source)

        self._so_far, self._ensemble = None, ensemble
        with telling(self.name, progress) as tell:
            planned = self.planned(target, n, budget, seed)
            if planned.steps is not None and self.counts_calls:
                energy.on_count = _by_calls(tell, self.calls(n, planned.steps))
            found = ensemble(self.draw(target, energy, n, planned, generator, tell))
        self._so_far = self._ensemble = None
        warn(found)
        return found

    # What `draw` has, while it is at work; set by engines that draw one thing after the other.
    _so_far: Callable[[], EngineSamples] | None = None
    _ensemble: Callable[[EngineSamples], WeightedEnsemble] | None = None

    def so_far(self) -> list[WeightedEnsemble]:
        """What a `run` that was interrupted had drawn, or one that is under way in another thread has: an ensemble, or
        none if there is nothing yet, as from engines whose samples all come at the end."""
        return [] if self._so_far is None or self._ensemble is None else [self._ensemble(self._so_far())]

    def configured(self, **options: Any) -> Engine:
        """An engine of this kind with other options than its defaults.

        Raises
        ------
        UsageError
            One that it does not take, or out of range.
        """
        taken = inspect.signature(type(self)).parameters
        for name, value in options.items():
            if name not in taken:
                raise UsageError(f"{name}: expected none for the engine {self.name!r}, got {value!r}")
        engine = type(self)(**options)
        engine.name = self.name
        return engine

    @property
    def takes_workers(self) -> bool:
        """Whether it spreads over processes if told to."""
        return "workers" in inspect.signature(type(self)).parameters

    def planned(self, system: System, n: int, budget: Budget, seed: int) -> Budget:
        """The budget in steps; engines that stop by themselves leave seconds as they are.

        Raises
        ------
        UsageError
            The budget does not suffice for the fewest steps, or the engine takes none.
        """
        if self.default_steps is None:
            given = [(name, value) for name, value in budget._asdict().items() if value is not None]
            if given:
                raise UsageError(f"{given[0][0]}: expected none for the engine {self.name!r}, got {given[0][1]}")
            return budget
        if budget.energy_calls is not None:
            return Budget(self._steps_of_calls(n, budget.energy_calls))
        if budget.seconds is not None:
            return Budget(self._steps_of_seconds(system, n, budget.seconds, seed))
        steps = self.default_steps if budget.steps is None else budget.steps
        return Budget(check_int("steps", steps, self.minimum_steps))

    def _steps_of_calls(self, n: int, calls: int) -> int:
        low, high = self.minimum_steps, calls
        if self.calls(n, low) > calls:
            raise UsageError(
                f"energy_calls: expected at least {self.calls(n, low)} for {n} samples by the engine {self.name!r}, "
                f"got {calls}"
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.calls(n, middle) <= calls else (low, middle)
        return low

    def _steps_of_seconds(self, system: System, n: int, seconds: float, seed: int) -> int:
        """From trials that count, of ever more steps until one is a twentieth of what there is."""
        start, calls = time.perf_counter(), self.calls(n, self.minimum_steps)
        while True:
            steps, before = self._steps_of_calls(n, calls), time.perf_counter()
            self.draw(system, system.energy(), n, Budget(steps), torch.Generator().manual_seed(seed), silent)
            now = time.perf_counter()
            trial, left = now - before, seconds - (now - start)
            if trial > seconds / 20 or left < 4 * trial:
                return self._steps_of_calls(n, int(calls * max(left / trial, 1.0)))
            calls *= 4

    def calls(self, n: int, n_steps: int) -> int:
        """Energy calls of ``n`` samples by so many steps a chain."""
        raise NotImplementedError(f"{type(self).__name__} takes no steps")

    @abstractmethod
    def draw(
        self, system: System, energy: Energy, n: int, budget: Budget, generator: torch.Generator, progress: Progress
    ) -> EngineSamples:
        """``n`` samples by what `planned` made of the budget."""


ENGINES: Registry[Engine] = Registry("engine")

EngineType = TypeVar("EngineType", bound=Engine)


def register_engine(name: str) -> Callable[[type[EngineType]], type[EngineType]]:
    """Class decorator: makes an `Engine` known to the option ``--engine`` of ``idem-md baseline`` under that name."""

    def add(kind: type[EngineType]) -> type[EngineType]:
        engine = ENGINES.register(name)(kind())
        engine.name = name
        return kind

    return add


def reference_engine(system: str | System) -> Engine:
    """The engine of reference sets: ``exact`` where the energy has samples by formula, else ``pt``."""
    return ENGINES["exact" if isinstance(get_system(system).energy(), ExactSamples) else "pt"]


def tuned_chains(
    system: System, energy: Energy, n: int, n_steps: int, generator: torch.Generator
) -> tuple[ChainState, float]:
    """``n`` chains from relaxed noise after ``n_steps`` of MALA in rounds, and the step tuned in between; from near the
    geometry of the system if it is a molecule, or if its potential fails on noise, as quantum chemistry may."""

    def near_geometry() -> ChainState:
        geometry = torch.tensor(system.geometry, dtype=torch.float64)
        return geometry_start(energy, geometry, NEAR * system.sigma_data, n, generator)

    try:
        molecule = system.chemistry is not None
        start = near_geometry() if molecule else noise_start(energy, system.sigma_data, n, RELAX_STEPS, generator)
    except EnergyError as error:
        if system.chemistry is not None or system.geometry is None or isinstance(error, FloorError):
            raise
        warn_caller(f"chains start near the geometry, as the potential fails on noise: {error}", WeightWarning)
        start = near_geometry()
    return equilibrate(
        energy, start, first_step(system.sigma_data), ROUNDS, max(n_steps // ROUNDS, 1), lambda: draw_seed(generator)
    )


def tuning_calls(n_steps: int) -> int:
    """Energy calls a chain of `tuned_chains`, at most: molecules are not relaxed."""
    return RELAX_STEPS + 1 + ROUNDS * (max(n_steps // ROUNDS, 1) + 1)
