"""Energies evaluated one configuration at a time, in this process or spread over a `concurrent.futures` executor."""

from __future__ import annotations

import multiprocessing
import pickle
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor

import numpy as np
import torch

from ..checks import EnergyError, UsageError, check_float, check_int
from ..units import Units
from .base import Energy

__all__ = ["DEFAULT_TRAP", "BatchEnergy", "Recipe"]

# kT / Å^2: a free atom would wander some 4.5 Å a coordinate from the centroid; the binding of a cluster hardly feels it.
DEFAULT_TRAP = 0.05

OWN_POOL = "; processes of workers= are spawned: a script that asks for them needs if __name__ == '__main__':"

# Evaluators built in this process, by the token of the energy they belong to: a worker builds each one once.
_built: dict[str, Callable] = {}


class Recipe(ABC):
    """How to build an evaluator, picklable: what travels to the workers."""

    @abstractmethod
    def build(self) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """A function of one configuration (N, D) in reduced length: u in kT and forces (N, D)."""


def _evaluate_chunk(token: str, recipe: Recipe, x: np.ndarray):
    """Energies and forces of a few configurations, or (index, what happened) for the first that failed."""
    u, f = np.empty(len(x)), np.empty_like(x)
    index = 0
    try:
        if token not in _built:
            _built[token] = recipe.build()
        for index, configuration in enumerate(x):
            u[index], f[index] = _built[token](configuration)
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
        Configurations a task. The cut depends on nothing else, so neither do the numbers.

    Raises
    ------
    UsageError
        A potential that does not confine without a trap; something that does not pickle.

    Notes
    -----
    A configuration that fails raises `EnergyError` with its index and the cause. A worker that dies has its
    configurations evaluated once more; if that fails too, `EnergyError` says so.
    """

    def __init__(self, n_atoms: int, n_dims: int, recipe: Recipe, units: Units, trap: float | None = None,
                 workers: int | None = None, executor: Executor | None = None, chunk_size: int = 16):
        super().__init__(n_atoms, n_dims)
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
        if self.trap == 0.0:
            self._check_confined()

    def close(self) -> None:
        """Stop the processes of ``workers``; they start again when needed."""
        if self._pool is not None:
            self._pool.close()

    def _check_confined(self) -> None:
        """A potential that no longer grows between a thousand and two thousand Å would let atoms go for ever."""
        side = int(np.ceil(self.n_atoms ** (1 / self.n_dims)))
        lattice = np.stack(np.meshgrid(*[np.arange(float(side))] * self.n_dims, indexing="ij"), -1).reshape(-1, self.n_dims)
        x = lattice[: self.n_atoms] * (1000 / self.units.length_angstrom)
        u, _ = self._collect(np.stack([x, 2 * x]))
        if not u[1] > u[0] + 1:
            raise UsageError("trap: expected a positive stiffness (kT / Å^2), got 0 for a potential that lets atoms escape: its "
                             "Boltzmann distribution cannot be normalised")

    def _collect(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = range(0, len(x), self.chunk_size)
        chunks = {first: x[first : first + self.chunk_size] for first in starts}
        results = self._here(chunks) if self._pool is None and self._executor is None else self._elsewhere(chunks)
        for first in starts:
            head, tail = results[first]
            if isinstance(tail, str):
                raise EnergyError(f"{type(self).__name__}: configuration {first + head} failed: {tail}", first + head)
            if head.shape != (len(chunks[first]),) or tail.shape != chunks[first].shape:
                raise EnergyError(f"{type(self).__name__}: expected {len(chunks[first])} energies and their forces, got shapes "
                                  f"{head.shape} and {tail.shape}", first)
        return tuple(np.concatenate([results[first][k] for first in starts]) for k in (0, 1))

    def _here(self, chunks: dict) -> dict:
        results = {}
        for first, x in chunks.items():
            results[first] = _evaluate_chunk(self.token, self.recipe, x)
            if isinstance(results[first][1], str):  # the rest would only cost time
                return results | {k: results[first] for k in chunks if k not in results}
        return results

    def _elsewhere(self, chunks: dict) -> dict:
        results, lost = {}, dict.fromkeys(chunks)
        for _ in range(2):
            executor, futures = self._executor or self._pool.get(), {}
            try:
                for first in lost:
                    futures[first] = executor.submit(_evaluate_chunk, self.token, self.recipe, chunks[first])
            except BrokenExecutor:
                pass  # those that were not submitted count as lost
            before, lost = lost, {}
            for first in before:
                # The task itself never raises: an exception here is a worker that died, or an executor that failed.
                try:
                    results[first] = futures[first].result()
                except KeyError:
                    lost[first] = "not started, the executor was broken"
                except Exception as error:
                    lost[first] = f"{type(error).__name__}: {error}"
            if not lost:
                return results
            if self._pool is not None:
                self._pool.close()
        first, cause = next(iter(lost.items()))
        spans = ", ".join(f"{k} to {k + len(chunks[k]) - 1}" for k in list(lost)[:4])
        raise EnergyError(f"{type(self).__name__}: workers failed twice on configurations {spans}{' ...' if len(lost) > 4 else ''} "
                          f"({cause}{OWN_POOL if self._pool is not None else ''})", first)

    def evaluate(self, x):
        """See `Energy.evaluate`. Always computed in float64."""
        u, f = (torch.from_numpy(a) for a in self._collect(x.detach().cpu().double().contiguous().numpy()))
        # Overlaps: foreign code reports them as an infinite energy, with forces that are then of no use.
        f = torch.where((u == torch.inf)[:, None, None], torch.zeros_like(f), f)
        if self.trap:
            k = self.trap * self.units.length_angstrom**2
            y = (x - x.mean(1, keepdim=True)).detach().cpu().double()
            u, f = u + 0.5 * k * (y**2).sum((1, 2)), f - k * y
        return u.to(x.device, x.dtype), f.to(x.device, x.dtype)
