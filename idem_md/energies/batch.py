"""Energies evaluated one configuration at a time, in this process or spread over a `concurrent.futures` executor."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor

import numpy as np
import torch

from ..checks import EnergyError, UsageError, check_float, check_int
from ..geometry import cubic_lattice
from ..units import Units
from .base import Energy

__all__ = ["DEFAULT_TRAP", "BatchEnergy", "Recipe"]

# kT / Å^2: a free atom would wander some 4.5 Å a coordinate from the centroid; the binding of a cluster hardly feels it.
DEFAULT_TRAP = 0.05

OWN_POOL = "; processes of workers= are spawned: a script that asks for them needs if __name__ == '__main__':"

# Evaluators built in this process, by the token of the energy they belong to: a worker builds each one once. They have a
# state (the positions last set), so threads take turns.
_built: dict[str, Callable] = {}
_turn = threading.Lock()


class Recipe(ABC):
    """How to build an evaluator, picklable: what travels to the workers."""

    @abstractmethod
    def build(self) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """A function of one configuration (N, D) in reduced length: u in kT and forces (N, D)."""


def _evaluate_chunk(token: str, recipe: Recipe, x: np.ndarray):
    """Energies and forces of a few configurations, or (index, what happened) for the first that failed."""
    u, f = np.empty(len(x)), np.empty_like(x)
    index = None
    with _turn:
        try:
            if token not in _built:
                _built[token] = recipe.build()
            for index, configuration in enumerate(x):
                energy, force = _built[token](configuration)
                if np.shape(energy) != () or np.shape(force) != configuration.shape:
                    raise ValueError(f"expected one energy and forces of shape {configuration.shape}, got shapes "
                                     f"{np.shape(energy)} and {np.shape(force)}")
                u[index], f[index] = energy, force
        except Exception as error:  # whatever a foreign calculator raises, it belongs to this configuration
            return index, f"{type(error).__name__}: {error}"
    return u, f


def _start_worker() -> None:
    torch.set_num_threads(1)  # one process a core: threads on top would only get in each other's way


class _Pool:
    """A process pool of our own, started when first needed and again after a crash."""

    def __init__(self, workers: int):
        self.workers, self.executor = workers, None

    def get(self) -> Executor:
        if self.executor is None:
            # spawn: forking a process that has threads, as torch has, can deadlock.
            self.executor = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _start_worker)
            weakref.finalize(self, self.executor.shutdown, wait=False, cancel_futures=True)
        return self.executor

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.executor = None


class BatchEnergy(Energy):
    """An energy whose configurations are evaluated one by one, by foreign code.

    Parameters
    ----------
    n_atoms, n_dims : int
    recipe : Recipe
    units : Units
    trap : float or None
        Stiffness in kT / Å^2 of a harmonic trap about the centroid, added to the potential. None: the weak
        `DEFAULT_TRAP`. 0: none, for a potential that confines by itself, which is checked.
    workers : int, optional
        Spread batches over that many processes of our own. They are started by ``spawn``: a script needs the usual
        ``if __name__ == "__main__":``.
    executor : concurrent.futures.Executor, optional
        Spread them over this one instead: ``Client.get_executor()`` of Dask, ``mpi4py.futures.MPIPoolExecutor``, a pool
        of your own. It is not shut down.
    chunk_size : int
        Configurations a task. The cut depends on nothing else; nor do the numbers, if the calculator has no memory.
    reference : array, shape (N, D), optional
        An ordinary geometry in Å, for the checks below; by default a lattice.

    Attributes
    ----------
    units : Units
    elements : tuple of str
        Set by the subclass; ``("X",) * n_atoms`` otherwise.

    Raises
    ------
    UsageError
        A potential that depends on where the centroid is; one that does not confine without a trap (judged by expanding
        it as a whole: fragments that fly apart one by one are yours to think of); something that does not pickle.
    EnergyError
        The reference geometry cannot be evaluated.

    Notes
    -----
    A configuration that fails raises `EnergyError` with its index and the cause. A worker that dies has its
    configurations evaluated once more; if that fails too, `EnergyError` says so.
    """

    def __init__(self, n_atoms: int, n_dims: int, recipe: Recipe, units: Units, trap: float | None = None,
                 workers: int | None = None, executor: Executor | None = None, chunk_size: int = 16, reference=None):
        super().__init__(n_atoms, n_dims)
        self.elements: tuple[str, ...] = ("X",) * n_atoms
        if workers is not None and executor is not None:
            raise UsageError("workers, executor: expected one of them at most")
        self.recipe, self.units, self.token = recipe, units, uuid.uuid4().hex
        self.chunk_size = check_int("chunk_size", chunk_size, 1)
        self.trap = DEFAULT_TRAP if trap is None else check_float("trap", trap, minimum=0.0)
        self._executor = executor
        self._pool = None if workers is None else _Pool(check_int("workers", workers, 1))
        if self._pool is not None:
            try:
                pickle.dumps(recipe)
            except Exception as error:
                raise UsageError(f"workers: expected a potential that pickles, to be sent to other processes; pass a factory "
                                 f"defined at the top of a module ({type(error).__name__}: {error})") from None
        weakref.finalize(self, _built.pop, self.token, None)
        self._check_potential(reference)

    def close(self) -> None:
        """Stop the processes of ``workers``; they start again when needed."""
        if self._pool is not None:
            self._pool.close()

    def _check_potential(self, reference) -> None:
        """Refuse absolute external fields, and potentials from which atoms escape."""
        x = None if reference is None else np.asarray(reference, dtype=np.float64) - np.mean(reference, axis=0)
        if x is None or np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)].min() < 0.5:
            x = 3.0 * cubic_lattice(self.n_atoms, self.n_dims).numpy()
        x = x / self.units.length_angstrom
        shift = 1.7 / self.units.length_angstrom
        u, _ = self._collect(np.stack([x, x + shift]))
        if not abs(u[1] - u[0]) <= 1e-3 * (1 + abs(u[0])) and np.isfinite(u).all():
            raise UsageError("potential: expected one that does not depend on where the cluster is, its energy changed by "
                             f"{u[1] - u[0]:.3g} kT on translation; external fields are not supported")
        if self.trap == 0.0:
            far = x * (1000 / (np.abs(x).max() * self.units.length_angstrom))
            u, _ = self._collect(np.stack([far, 2 * far]))
            # The volume open to the atoms grows by that factor; the Boltzmann factor has to fall faster.
            if not u[1] - u[0] > (self.n_atoms - 1) * self.n_dims * np.log(2):
                raise UsageError("trap: expected a positive stiffness (kT / Å^2), got 0 for a potential that lets atoms escape: "
                                 "its Boltzmann distribution cannot be normalised")

    def _collect(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(x):
            return np.empty(0), np.empty_like(x)
        starts = range(0, len(x), self.chunk_size)
        chunks = {first: x[first : first + self.chunk_size] for first in starts}
        results = self._here(chunks) if self._pool is None and self._executor is None else self._elsewhere(chunks)
        for first in starts:
            head, tail = results[first]
            if isinstance(tail, str):
                if head is None:
                    raise EnergyError(f"{type(self).__name__}: the calculator cannot be set up: {tail}")
                raise EnergyError(f"{type(self).__name__}: configuration {first + head} failed: {tail}", first + head)
        return tuple(np.concatenate([results[first][k] for first in starts]) for k in (0, 1))

    def _here(self, chunks: dict) -> dict:
        results = {}
        for first, x in chunks.items():
            results[first] = _evaluate_chunk(self.token, self.recipe, x)
            if isinstance(results[first][1], str):  # the rest would only cost time
                return {k: results.get(k, results[first]) for k in chunks}
        return results

    def _elsewhere(self, chunks: dict) -> dict:
        results, lost, futures = {}, [], {}
        submit = lambda first: (self._executor or self._pool.get()).submit(_evaluate_chunk, self.token, self.recipe, chunks[first])  # noqa: E731
        try:
            for first in chunks:
                futures[first] = submit(first)
        except (BrokenExecutor, RuntimeError):
            pass  # those that were not submitted count as lost
        for first in chunks:
            # The task itself never raises: an exception here is a worker that died, or an executor that failed.
            try:
                results[first] = futures[first].result()
            except Exception:
                lost.append(first)
        # A worker that dies takes down what the others were at. One by one, it is clear which part does it.
        for first in lost:
            if self._pool is not None and first == lost[0]:
                self._pool.close()
            try:
                results[first] = submit(first).result()
            except Exception as error:
                if self._pool is not None:
                    self._pool.close()
                raise EnergyError(f"{type(self).__name__}: workers failed twice on configurations {first} to "
                                  f"{first + len(chunks[first]) - 1} ({type(error).__name__}: {error}"
                                  f"{OWN_POOL if self._pool is not None else ''})", first) from None
        return results

    def evaluate(self, x):
        """See `Energy.evaluate`. Positions go out in float64; precision is the foreign code's."""
        u, f = (torch.from_numpy(a) for a in self._collect(x.detach().cpu().double().contiguous().numpy()))
        if self.trap:
            k = self.trap * self.units.length_angstrom**2
            y = (x - x.mean(1, keepdim=True)).detach().cpu().double()
            u, f = u + 0.5 * k * (y**2).sum((1, 2)), f - k * y
        u = u.to(x.device, x.dtype)
        # Overlaps: energies beyond the range of the dtype are infinite, and their forces of no use. NaN stays NaN.
        largest = torch.finfo(x.dtype).max
        f = f.clamp(-largest, largest).to(x.device, x.dtype)
        return u, torch.where((u == torch.inf)[:, None, None], torch.zeros_like(f), f)
