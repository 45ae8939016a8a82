"""What engines of molecular dynamics share: long chains, their equilibration, how many samples they are worth."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
import torch

from ..callers import warn_caller
from ..chains import ChainState
from ..checks import check_float, check_int, energies_agree
from ..energies import Energy
from ..energies.workers import Pool, packed_for_workers
from ..errors import EnergyError, ResultError, UsageError, WeightWarning
from ..seeds import draw_seed
from ..systems import System
from .base import ROUNDS, Budget, Engine, EngineSamples, Progress, tuned_chains, tuning_calls
from .correlation import equilibration, slow_observables, statistical_inefficiency

__all__ = ["Dynamics", "DynamicsEngine", "Frames", "Recipe", "curvature"]

# Frames are kept for so many times the samples that are wanted: what equilibration takes is not known beforehand.
SPARE = 1.5
# The time step over the inverse of the frequency that the mean squared forces stand for; see `curvature`.
STEP = 0.08
# Where chains begin: that many Langevin steps from relaxed noise.
START_STEPS = 200
# Configurations, at least, whose forces tell the time step.
FORCES = 4
# Independent samples a chain below which chains do not know how many they are.
TRUSTED = 100
# The share of a budget of seconds that is spent on finding out how fast a run is.
TRIAL = 0.05


class Frames(NamedTuple):
    """Consecutive frames of one chain.

    Attributes
    ----------
    x : numpy.ndarray, shape (k, N, D), float64
        In reduced length.
    kinetic : numpy.ndarray, shape (k,)
        Kinetic energies over (degrees of freedom)/2 kT: one on average.
    """

    x: np.ndarray
    kinetic: np.ndarray


class Chain(NamedTuple):
    """Frames with their energies (k,) in kT, centroid removed."""

    x: np.ndarray
    kinetic: np.ndarray
    u: np.ndarray


class Dynamics(Protocol):
    """A running chain."""

    def potential_energy(self) -> float:
        """Where it is now, in kT."""
        ...

    def advance(self, frames: int, stride: int) -> Frames:
        """``frames`` frames, one after every ``stride`` steps."""
        ...


class Recipe(Protocol):
    """How to build one, picklable."""

    def build(self, x: np.ndarray, seed: int) -> Dynamics:
        """From positions (N, D) in reduced length."""
        ...


_running: dict[str, Dynamics] = {}


def _begin(recipe: Recipe, x: np.ndarray, seed: int) -> float:
    _running["chain"] = recipe.build(x, seed)
    return _running["chain"].potential_energy()


def _advance(frames: int, stride: int) -> Frames:
    return _running["chain"].advance(frames, stride)


def _submitted(pool: Executor, frames: int, stride: int) -> Callable[[], Frames]:
    return pool.submit(_advance, frames, stride).result


# Frames and stride to a function that waits for them.
Start = Callable[[int, int], Callable[[], Frames]]


@contextmanager
def _chains(recipe: Recipe, state: ChainState, seeds: Sequence[int]) -> Iterator[list[Start]]:
    """Chains that run: a single one here, several in a process each."""
    starts = state.x.double().numpy()
    if len(starts) == 1:
        chain = recipe.build(starts[0], seeds[0])
        _same_potential(state.u, [chain.potential_energy()])
        yield [lambda frames, stride: partial(chain.advance, frames, stride)]
        return
    with ExitStack() as stack:
        begun: list[Future[float]] = []
        running: list[Start] = []
        packed_for_workers("workers", recipe)
        for x, seed in zip(starts, seeds):
            own = Pool(1)
            pool = own.get()
            stack.callback(own.close)
            begun.append(pool.submit(_begin, recipe, x, seed))
            running.append(partial(_submitted, pool))
        _same_potential(state.u, [future.result() for future in begun])
        yield running


class DynamicsEngine(Engine):
    """Langevin dynamics: a chain a worker, from relaxed noise, or of a molecule from near its geometry; frames at equal
    distances.

    The start of each chain is left out as far as energies say that it has not equilibrated, and what remains counts for
    n/g independent samples, g the larger of the statistical inefficiencies of the energy and of the spread of the
    atoms. Modes between which no chain crosses are in neither.

    Parameters
    ----------
    workers : int
        Chains, a process each, for which a script needs ``if __name__ == "__main__":``; with one it runs in this
        process.
    timestep_fs : float, optional
        By default from the forces on the atoms, see `curvature`.
    friction_per_ps : float
    discard : float, optional
        Share of each chain that is left out, instead of what the energies say.
    inefficiency : float, optional
        Steps that one independent sample takes, instead of what the frames say.
    """

    default_steps: ClassVar[int | None] = 100_000
    minimum_steps: ClassVar[int] = 10

    def __init__(
        self,
        workers: int = 1,
        timestep_fs: float | None = None,
        friction_per_ps: float = 1.0,
        discard: float | None = None,
        inefficiency: float | None = None,
    ):
        self.workers = check_int("workers", workers, 1)
        self.timestep_fs = None if timestep_fs is None else check_float("timestep", timestep_fs, above=0.0)
        self.friction_per_ps = check_float("friction", friction_per_ps, above=0.0)
        self.discard = None if discard is None else check_float("discard", discard, minimum=0.0, below=1.0)
        self.inefficiency = None if inefficiency is None else check_float("inefficiency", inefficiency, minimum=1.0)

    @abstractmethod
    def recipe(self, system: System, timestep_fs: float) -> Recipe:
        """The dynamics of a system; raises `UsageError` for one that the engine cannot run."""

    @abstractmethod
    def masses(self, system: System) -> np.ndarray:
        """Masses of the atoms, (N,), in g/mol."""

    def planned(self, system: System, n: int, budget: Budget, seed: int) -> Budget:
        """See `Engine`; a number of seconds is kept to while chains run."""
        return budget if budget.seconds is not None else super().planned(system, n, budget, seed)

    def calls(self, n: int, n_steps: int) -> int:
        """See `Engine`."""
        frames = math.ceil(SPARE * n / self.workers)
        stride = max(n_steps // frames, 1)
        return max(self.workers, FORCES) * tuning_calls(START_STEPS) + self.workers * frames * (stride + 1) + n

    def draw(
        self, system: System, energy: Energy, n: int, budget: Budget, generator: torch.Generator, progress: Progress
    ) -> EngineSamples:
        """See `Engine`."""
        begin = time.perf_counter()
        frames = math.ceil(SPARE * n / self.workers)
        if budget.steps is not None and budget.steps < frames:
            raise UsageError(f"steps: expected at least {frames} for {n} samples, got {budget.steps}")
        state, _ = tuned_chains(system, energy, max(self.workers, FORCES), START_STEPS, generator)
        dt = self.timestep_fs or 1000 * STEP / curvature(system, state.f, self.masses(system))
        state = ChainState(*(a[: self.workers] for a in (state.x, state.u, state.f)))
        seeds = [draw_seed(generator) % (2**31 - 1) + 1 for _ in range(self.workers)]
        with _chains(self.recipe(system, dt), state, seeds) as running:
            if budget.steps is not None:
                stride = budget.steps // frames
            else:
                left = cast(float, budget.seconds) - (time.perf_counter() - begin)
                stride = _stride(running, energy, frames, left)
            chains: list[Chain] = []
            note, telling = "", 0.0
            rounds = min(ROUNDS, frames)
            for k in range(rounds):
                new = _together(running, energy, frames * (k + 1) // rounds - frames * k // rounds, stride)
                chains = [_joined(pair) for pair in zip(chains, new)] if chains else new
                facts = {"timestep_fs": dt, "friction_per_ps": self.friction_per_ps}
                self._so_far = partial(self._result, chains, n, stride, facts)
                now = time.perf_counter()
                # pymbar takes its time with long series, and may take a twentieth of the whole.
                if now - begin > 20 * telling or k == 0:
                    note = self._note(chains, stride)
                    telling += time.perf_counter() - now
                progress((k + 1) / rounds, note)
                if budget.seconds is not None and time.perf_counter() - begin > budget.seconds:
                    break
        return self._result(chains, n, stride, facts)._replace(energies=None)  # as of all engines, by the sampler's way

    def _equilibrated(self, chains: Sequence[Chain]) -> list[Chain]:
        """Chains without their start, which is as long for all."""
        if self.discard is not None:
            first = int(self.discard * len(chains[0].u))
        else:
            first = max(equilibration(chain.u) for chain in chains)
        return [Chain(*(a[first:] for a in chain)) for chain in chains]

    def _inefficiency(self, chains: Sequence[Chain], stride: int) -> float:
        """Frames for one independent sample."""
        if self.inefficiency is not None:
            return max(self.inefficiency / stride, 1.0)
        series = zip(*(slow_observables(chain.x, chain.u) for chain in chains))
        return max(statistical_inefficiency(same) for same in series)

    def _note(self, chains: Sequence[Chain], stride: int) -> str:
        kept = self._equilibrated(chains)
        g, kinetic = self._inefficiency(kept, stride), np.concatenate([chain.kinetic for chain in kept]).mean()
        n = sum(len(chain.u) for chain in kept)
        return f"{n / g:.0f} independent, one in {g * stride:.0f} steps, kinetic temperature {kinetic:.3f} T"

    def _result(self, chains: Sequence[Chain], n: int, stride: int, facts: dict[str, Any]) -> EngineSamples:
        kept = self._equilibrated(chains)
        g = self._inefficiency(kept, stride)
        x, kinetic, u = (np.concatenate([getattr(c, name) for c in kept]) for name in ("x", "kinetic", "u"))
        index = np.linspace(0, len(x) - 1, min(n, len(x))).round().astype(int)
        frames = len(chains[0].u)
        ess = len(x) / g
        if self.inefficiency is None and len(kept[0].u) < TRUSTED * g:
            warn_caller(
                f"fewer than {TRUSTED} independent samples in a chain: there may be fewer than they seem, and errors "
                "larger; ask for more steps",
                WeightWarning,
            )
        facts |= {
            "steps": frames * stride,
            "chains": len(chains),
            "stride": stride,
            "discarded": 1 - len(kept[0].u) / frames,
            "inefficiency": g * stride,
            "kinetic_temperature": float(kinetic.mean()),
            "chain_energies": [float(chain.u.mean()) for chain in kept],
        }
        return EngineSamples(torch.from_numpy(x[index]), facts, ess, torch.from_numpy(u[index]).double())


def curvature(system: System, forces: torch.Tensor, masses: np.ndarray) -> float:
    """The highest frequency that forces (B, N, D) in equilibrium stand for, in 1/ps.

    <f^2> = kT <d^2 U / dx^2> (integration by parts), so that omega^2 = <f^2> / (m kT) of an atom; atoms of a kind are
    taken together.
    """
    kT, length = system.units.kT_kJ_per_mol, system.units.length_angstrom / 10
    squares, kinds = (forces.double() ** 2).mean((0, 2)).numpy() / masses, np.array(system.kinds)
    return float(np.sqrt(max(squares[kinds == k].mean() for k in set(system.kinds)) * kT)) / length


def _together(running: Sequence[Start], energy: Energy, frames: int, stride: int) -> list[Chain]:
    """What all chains give."""
    waiting = [advance(frames, stride) for advance in running]
    energy.count(len(running) * frames * stride)
    found = []
    for result in waiting:
        x, kinetic = result()
        if not np.isfinite(x).all():
            raise ResultError("timestep: positions are no numbers any more; ask for a shorter step")
        x = x - x.mean(1, keepdims=True) if x.shape[1] > 1 else x
        found.append(Chain(x, kinetic, energy(torch.from_numpy(x))[0].numpy()))
    return found


def _stride(running: Sequence[Start], energy: Energy, frames: int, seconds: float) -> int:
    """How many steps between frames there is time for."""
    steps, begin = 10, time.perf_counter()
    while True:
        start = time.perf_counter()
        _together(running, energy, 1, steps)
        now = time.perf_counter()
        if now - start > TRIAL * seconds / 2:
            return max(int((seconds - (now - begin)) * steps / (now - start) / frames), 1)
        steps *= 2


def _joined(chains: Sequence[Chain]) -> Chain:
    return Chain(*(np.concatenate(a) for a in zip(*chains)))


def _same_potential(own: torch.Tensor, theirs: Sequence[float]) -> None:
    """The engine's energies are those of the system, or what follows is about something else."""
    for k, (a, b) in enumerate(zip(own.tolist(), theirs)):
        if not energies_agree(a, b, least=0.01):
            raise EnergyError(f"potential: expected the engine's to be that of the system, {a:.6g} kT, got {b:.6g}", k)
