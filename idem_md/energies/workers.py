"""Where configurations are evaluated one at a time: in this process, or spread over a `concurrent.futures` executor."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pickletools
import signal
import sys
import threading
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from ..checks import check_int
from ..errors import EnergyError, UsageError

__all__ = ["Evaluations", "Pool", "Recipe", "packed_for_workers", "start_worker"]

OWN_POOL = "; processes of workers= import the script: it needs if __name__ == '__main__':"

# Evaluators built in this process, by the token of the energy they belong to: a worker builds each one once. They have
# a state (the positions last set), so threads take turns.
_built: dict[str, Callable] = {}
_turn = threading.Lock()


class Recipe(ABC):
    """How to build an evaluator, picklable: what travels to the workers."""

    @abstractmethod
    def build(self) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """A function of one configuration (N, D) in reduced length: u in kT and forces (N, D)."""


def evaluate_chunk(token: str, recipe: Recipe, x: np.ndarray, attempt: int = 0):
    """Energies and forces of a few configurations, or (index, what happened) for the first that failed.

    Executors that remember what they were asked (Dask) take another ``attempt`` for another question.
    """
    u, f = np.empty(len(x)), np.empty_like(x)
    index = None
    with _turn:
        try:
            if token not in _built:
                _built[token] = recipe.build()
            for index, configuration in enumerate(x):
                energy, force = _built[token](configuration)
                if np.shape(energy) != () or np.shape(force) != configuration.shape:
                    raise ValueError(
                        f"expected one energy and forces of shape {configuration.shape}, got shapes "
                        f"{np.shape(energy)} and {np.shape(force)}"
                    )
                u[index], f[index] = energy, force
        except Exception as error:  # whatever a foreign calculator raises, it belongs to this configuration
            return index, f"{type(error).__name__}: {error}"
    return u, f


def start_worker(environment: dict[str, str] | None = None) -> None:
    """What a process of ours begins with; the server that it may come from has an older environment."""
    os.environ.update(environment or {})
    torch.set_num_threads(1)  # one process a core: threads on top would only get in each other's way
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def packed_for_workers(name: str, thing: Any, spawned: bool = True) -> bytes:
    """Pickled, for another process to import what it needs.

    Parameters
    ----------
    name : str
        What to call the argument in the error.
    spawned : bool
        Whether it goes to processes of our own, which do not have what a notebook has defined.

    Raises
    ------
    UsageError
        It does not pickle, or is made of what was defined where no other process finds it.
    """
    try:
        packed = pickle.dumps(thing)
    except Exception as error:
        raise UsageError(
            f"{name}: expected a potential that pickles, to be sent to other processes; define it at the top of a "
            f"module ({type(error).__name__}: {error})"
        ) from None
    if not spawned or _main_is_a_file():
        return packed
    lost = _names_in_main(packed)
    if lost:
        raise UsageError(
            f"{name}: expected a potential that other processes can import, {lost[0]} was defined in a notebook or on "
            "standard input; put it into a module (a .py file), and import it from there"
        )
    return packed


def _main_is_a_file() -> bool:
    return os.path.isfile(getattr(sys.modules["__main__"], "__file__", None) or "")


def _names_in_main(packed: bytes) -> list[str]:
    """What a pickle looks for in the main module."""
    found, strings, memo = [], list[str](), list[str | None]()
    last: str | None = None
    for code, argument, _ in pickletools.genops(packed):
        if code.name == "MEMOIZE":
            memo.append(last)
            continue
        last = argument if isinstance(argument, str) else None
        if code.name in ("BINGET", "LONG_BINGET"):
            last = memo[argument] if isinstance(argument, int) else None
        if code.name == "STACK_GLOBAL" and strings[-2:-1] == ["__main__"]:
            found.append(strings[-1])
        elif last is not None:
            strings.append(last)
    return found


def _processes() -> multiprocessing.context.BaseContext:
    """How processes of ours are started.

    Never by a fork of this one, which has threads, as torch has, and would deadlock. On Linux they are forks of a
    server that has imported torch, which takes a second or two for each otherwise. Nothing else: the server looks for
    modules in the working directory first, where there may be another of the same name.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


class Pool:
    """A process pool of our own, started when first needed and again after a crash."""

    def __init__(self, workers: int):
        self.workers = workers
        self.executor: Executor | None = None

    def get(self) -> Executor:
        if self.executor is not None:
            return self.executor
        if not _main_is_a_file() and hasattr(sys.modules["__main__"], "__file__"):
            sys.modules["__main__"].__file__ = None  # "<stdin>", which the new processes would look for
        executor = ProcessPoolExecutor(self.workers, _processes(), start_worker, (dict(os.environ),))
        weakref.finalize(self, executor.shutdown, wait=False, cancel_futures=True)
        self.executor = executor
        return executor

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.executor = None

    def abandon(self) -> None:
        """Wait for nothing: the processes end after what they are at."""
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = None


class Evaluations:
    """Evaluates chunks of configurations by a recipe, here or elsewhere.

    Parameters
    ----------
    recipe : Recipe
    owner : str
        What to call the energy in errors.
    workers, executor
        See `ForeignEnergy`.
    """

    def __init__(self, recipe: Recipe, owner: str, workers: int | None, executor: Executor | None):
        if workers is not None and executor is not None:
            raise UsageError("workers, executor: expected one of them at most")
        self.processes, self.has_executor = workers or 1, executor is not None  # which does not say how many it has
        self.recipe, self.owner, self.token = recipe, owner, uuid.uuid4().hex
        self._executor = executor
        self._pool = None if workers is None else Pool(check_int("workers", workers, 1))
        if self._pool is not None:
            packed_for_workers("workers", recipe)
        weakref.finalize(self, _built.pop, self.token, None)

    def __getstate__(self):
        """For another process, which evaluates by itself: one of many that sample, with no processes of its own."""
        return {**vars(self), "_executor": None, "_pool": None}

    def close(self) -> None:
        """Stop processes of our own; they start again when needed."""
        if self._pool is not None:
            self._pool.close()

    def __call__(self, chunks: dict[int, np.ndarray]) -> dict[int, tuple]:
        """For each chunk, by the index of its first configuration, what `evaluate_chunk` returns."""
        return self._here(chunks) if self._pool is None and self._executor is None else self._elsewhere(chunks)

    def _here(self, chunks: dict) -> dict:
        results = {}
        for first, x in chunks.items():
            results[first] = evaluate_chunk(self.token, self.recipe, x)
            if isinstance(results[first][1], str):  # the rest would only cost time
                return {k: results.get(k, results[first]) for k in chunks}
        return results

    def _elsewhere(self, chunks: dict) -> dict:
        futures: dict[int, Future] = {}
        try:
            return self._gathered(chunks, futures)
        except BaseException:  # an interrupt: nobody waits for the rest
            for future in futures.values():
                future.cancel()
            if self._pool is not None:
                self._pool.abandon()
            raise

    def _gathered(self, chunks: dict, futures: dict[int, Future]) -> dict:
        results, lost = {}, []

        def submit(first, attempt=0):
            executor = self._executor if self._pool is None else self._pool.get()
            assert executor is not None  # or it would not be called
            return executor.submit(evaluate_chunk, self.token, self.recipe, chunks[first], attempt)

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
                results[first] = submit(first, 1).result()
            except Exception as error:
                if self._pool is not None:
                    self._pool.close()
                raise EnergyError(
                    f"{self.owner}: workers failed twice on configurations {first} to "
                    f"{first + len(chunks[first]) - 1} ({type(error).__name__}: {error}"
                    f"{OWN_POOL if self._pool is not None else ''})",
                    first,
                ) from None
        return results
