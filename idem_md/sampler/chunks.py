"""Samples in chunks, each with a random stream of its own: the same bits wherever and whenever they are drawn."""

from __future__ import annotations

import math
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from ..checks import check_fits, check_int
from ..diffusion import PathSampler, SamplingPlan, TwinPaths
from ..energies.workers import Pool, packed_for_workers
from ..ensemble import WeightSums
from ..errors import IdemError, ResultError
from ..rows import Rows, check_room
from ..seeds import chunk_generator
from ..systems import System
from ..torch_state import own_torch

__all__ = [
    "Chunk",
    "Drawing",
    "Drawn",
    "Gathered",
    "Wanted",
    "chunks_of",
    "draw_chunks",
    "gather",
    "room_for",
    "rounds",
]

# Energies, log weights and what statistics make of them; positions may be in a file.
BYTES_A_SAMPLE = 64
# One chunk to work on, and others so that the process need not wait.
CHUNKS_UNDER_WAY_PER_PROCESS = 3
# Chunks under way for an executor whose number of processes is unknown.
CHUNKS_UNDER_WAY = 256
MAX_ATTEMPTS_PER_CHUNK = 3


class Chunk(NamedTuple):
    """So many samples of the ``stream``-th stream of a seed."""

    stream: int
    size: int


class Drawn(NamedTuple):
    """One chunk of one system.

    Attributes
    ----------
    positions, energies, log_weights : numpy.ndarray, shapes (k, N, D), (k,), (k,), float64
    failed, energy_calls, twin_calls : int
    """

    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray
    failed: int
    energy_calls: int
    twin_calls: int


class Collected:
    """Chunks of one system, put together.

    Attributes
    ----------
    failed, energy_calls, twin_calls : int
    """

    def __init__(self, n_atoms: int, n_dims: int):
        self._positions, self._energies, self._log_weights = Rows((n_atoms, n_dims)), Rows(()), Rows(())
        self.failed, self.energy_calls, self.twin_calls = 0, 0, 0

    def add(self, part: Drawn) -> None:
        """The next one."""
        self._positions.append(part.positions)
        self._energies.append(part.energies)
        self._log_weights.append(part.log_weights)
        self.failed += part.failed
        self.energy_calls += part.energy_calls
        self.twin_calls += part.twin_calls

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, energies and log weights, at the end."""
        return self._positions.array(), self._energies.array(), self._log_weights.array()

    def copies(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of the first ``n``, while more may come."""
        return self._positions.copy(n), self._energies.copy(n), self._log_weights.copy(n)


class Gathered:
    """Chunks that have been drawn, whole ones, of each of some systems.

    Attributes
    ----------
    chunks : list of Chunk
    collected : list of Collected
        May be ahead of ``chunks`` if the work is interrupted.
    """

    def __init__(self, systems: Sequence[System]):
        self.chunks = list[Chunk]()
        self.collected = [Collected(s.n_atoms, s.n_dims) for s in systems]
        # Another thread may want them when the process is to end.
        self.lock = threading.RLock()

    def add(self, chunk: Chunk, parts: Sequence[Drawn]) -> None:
        """The next one."""
        with self.lock:
            for samples, part in zip(self.collected, parts):
                samples.add(part)
            self.chunks.append(chunk)

    @property
    def count(self) -> int:
        """Samples of each system."""
        return sum(chunk.size for chunk in self.chunks)


def chunks_of(n: int, size: int, first: int = 0, shard: tuple[int, int] = (0, 1)) -> list[Chunk]:
    """``n`` samples in chunks of ``size`` from index ``first`` on, the last one smaller; of these every m-th from the
    k-th on, for a shard (k, m)."""
    whole, rest = divmod(n, size)
    mine = range(shard[0], whole + bool(rest), shard[1])
    return [Chunk(first + k, size if k < whole else rest) for k in mine]


def room_for(systems: Sequence[System]) -> Callable[[int], None]:
    """What raises `UsageError` for a number of samples of each system for which there is no room."""

    def check(count: int) -> None:
        check_fits("n", count, BYTES_A_SAMPLE * len(systems))
        check_room("n", count * len(systems), (systems[0].n_atoms, systems[0].n_dims))

    return check


def rounds(
    n: int, size: int, first: int, shard: tuple[int, int], wanted: Wanted | None, check: Callable[[int], None]
) -> Iterator[list[Chunk]]:
    """Chunks to draw, all at once, or as many as seem to be wanted after each round: whole ones while there is much to
    do. ``check`` is told how many samples there will be, and may raise."""
    if wanted is None:
        check(min(n, -(-n // (size * shard[1])) * size))
        yield chunks_of(n, size, first, shard)
        return
    drawn = 0
    while drawn < n and (count := min(wanted.samples(max(drawn, size)), n - drawn)):
        count -= count % size if count >= size else 0
        check(drawn + count)
        chunks = chunks_of(count, size, first)
        first, drawn = first + len(chunks), drawn + count
        yield chunks


@dataclass(frozen=True)
class Wanted:
    """So many effective samples.

    Attributes
    ----------
    ess : float
    sums : WeightSums
        Of the samples so far.
    """

    ess: float
    sums: WeightSums

    def samples(self, most: int) -> int:
        """How many more it will take, up to ``most``: of few samples nobody knows how good they are."""
        missing, share = self.ess - self.sums.ess, self.sums.ess / max(self.sums.n, 1)
        if missing <= 0:
            return 0
        return most if share * most <= missing else math.ceil(1.02 * missing / share)


@dataclass(frozen=True)
class Drawing:
    """All that chunks depend on; it pickles.

    Attributes
    ----------
    systems : tuple of System
        That share the paths.
    paths : PathSampler or TwinPaths
    plan : SamplingPlan
        From which the paths were built.
    seed : int
    """

    systems: tuple[System, ...]
    paths: PathSampler | TwinPaths
    plan: SamplingPlan
    seed: int

    @own_torch
    def draw(self, chunk: Chunk) -> list[Drawn]:
        """One chunk, of each system."""
        generator = chunk_generator(self.seed, chunk.stream)
        energies, before = [system.energy() for system in self.systems], self.paths.cheap_calls
        if self.plan.weighted:
            drawn = self.paths.sample(energies, chunk.size, generator)
        else:
            raw = self.paths.raw_by_one_evaluation if self.plan.nfe == 1 else self.paths.raw
            drawn = [raw(energies[0], chunk.size, generator)]
        twin_calls = self.paths.cheap_calls - before
        return [
            Drawn(p.positions.numpy(), p.energies.numpy(), p.log_weights.numpy(), p.failed, energy.calls, twin_calls)
            for p, energy in zip(drawn, energies)
        ]


# What this process was last asked to draw from, by its token: it is unpacked once.
_known: dict[str, Drawing] = {}


def _draw_elsewhere(token: str, packed: bytes, chunk: Chunk, attempt: int) -> list[Drawn] | IdemError:
    """In a worker. An error of ours comes back as it is: it is no worker that died. Executors that remember what they
    were asked (Dask) take another ``attempt`` for another question."""
    if token not in _known:
        _known.clear()
        _known[token] = pickle.loads(packed)
    try:
        return _known[token].draw(chunk)
    except IdemError as error:
        return error


def draw_chunks(
    drawing: Drawing, chunks: Iterable[Chunk], executor: Executor | Pool | None
) -> Iterator[tuple[Chunk, list[Drawn]]]:
    """Draw chunks here or by an executor; yields them in their order.

    A chunk whose worker dies is drawn again by others.

    Raises
    ------
    UsageError
        Something that does not pickle.
    ResultError
        Workers failed on a chunk again and again.
    """
    if executor is None:
        for chunk in chunks:
            yield chunk, drawing.draw(chunk)
        return
    packed = packed_for_workers("executor", drawing, isinstance(executor, Pool))
    token, waiting = uuid.uuid4().hex, iter(chunks)
    window = CHUNKS_UNDER_WAY_PER_PROCESS * executor.workers if isinstance(executor, Pool) else CHUNKS_UNDER_WAY
    under_way: deque[tuple[Chunk, Future | None]] = deque()
    try:
        while True:
            while len(under_way) < window and (new := next(waiting, None)) is not None:
                under_way.append((new, _submitted(executor, token, packed, new)))
            if not under_way:
                return
            chunk, future = under_way.popleft()
            yield chunk, _result(executor, token, packed, chunk, future)
    finally:
        for _, future in under_way:
            if future is not None:
                future.cancel()


def _submitted(executor: Executor | Pool, token: str, packed: bytes, chunk: Chunk, attempt: int = 0) -> Future | None:
    try:
        return _of(executor).submit(_draw_elsewhere, token, packed, chunk, attempt)
    except (BrokenExecutor, RuntimeError):
        if not isinstance(executor, Pool):
            return None  # counts as lost
    executor.close()  # and starts again
    return _of(executor).submit(_draw_elsewhere, token, packed, chunk, attempt)


def _of(executor: Executor | Pool) -> Executor:
    return executor.get() if isinstance(executor, Pool) else executor


def _result(executor: Executor | Pool, token: str, packed: bytes, chunk: Chunk, future: Future | None) -> list[Drawn]:
    found: list[Drawn] | IdemError | None = None
    problem: Exception | None = None
    for attempt in range(1, MAX_ATTEMPTS_PER_CHUNK + 1):
        try:
            found = None if future is None else future.result()
        except Exception as error:  # a worker that dies takes down what the others were at: one failure says little
            problem = error
        if found is not None or attempt == MAX_ATTEMPTS_PER_CHUNK:
            break
        future = _submitted(executor, token, packed, chunk, attempt)
    if found is None and problem is not None:
        raise ResultError(
            f"executor: workers failed {MAX_ATTEMPTS_PER_CHUNK} times on chunk {chunk.stream} "
            f"({type(problem).__name__}: {problem}); "
            "a script that asks for processes needs if __name__ == '__main__':"
        )
    if found is None:
        raise ResultError(f"executor: expected one that takes work, chunk {chunk.stream} could not be submitted")
    if isinstance(found, IdemError):
        raise found
    return found


def gather(
    drawing: Drawing,
    rounds: Iterable[list[Chunk]],
    executor: Executor | int | None,
    tell: Callable[[np.ndarray], None],
    gathered: Gathered,
) -> None:
    """All chunks of some rounds, by an executor or so many processes of our own; ``tell`` is given the log weights of
    the first system as they come."""
    pool, where = None, cast("Executor | Pool | None", executor)
    if executor is not None and not isinstance(executor, Executor):
        pool = where = Pool(check_int("executor", executor, 1, 4096))
    try:
        for chunks in rounds:
            for chunk, parts in draw_chunks(drawing, chunks, where):
                gathered.add(chunk, parts)
                tell(parts[0].log_weights)
    except BaseException:
        if pool is not None:
            pool.abandon()
        raise
    if pool is not None:
        pool.close()
