"""Seeds: of native streams, drawn from the one generator that a computation owns, and of chunks of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import torch

__all__ = ["Run", "chunk_generator", "draw_seed", "runs_of", "stream_of"]

# Seeds of torch's CPU generator: beyond, its streams repeat.
STREAMS = 2**32


class Run(NamedTuple):
    """Chunks of samples that were drawn with a seed: of ``range(start, stop, step)``, with ``size`` samples each."""

    seed: int
    start: int
    stop: int
    step: int
    size: int

    @property
    def indices(self) -> range:
        """Numbers of the chunks."""
        return range(self.start, self.stop, self.step)


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a native stream."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def stream_of(seed: int | str, chunk: int) -> int:
    """The seed of a chunk of samples, below 2^32.

    Chunks of one seed never share a stream, and those of two only if where they begin happens to be closer than there
    are chunks, which can be told from the seeds.
    """
    begin = int.from_bytes(hashlib.sha256(f"idem-md samples {seed}".encode()).digest()[:4], "little")
    return (begin + chunk) % STREAMS


def chunk_generator(seed: int, chunk: int) -> torch.Generator:
    """The random numbers of a chunk of samples."""
    return torch.Generator().manual_seed(stream_of(seed, chunk))


def runs_of(chunks: Iterable[tuple[int, int, int]]) -> list[Run]:
    """Chunks, each a seed, an index and a number of samples, in few words."""
    runs: list[Run] = []
    for seed, index, size in chunks:
        last = runs[-1] if runs and (runs[-1].seed, runs[-1].size) == (seed, size) else None
        if last is not None and len(last.indices) == 1 and index > last.start:
            runs[-1] = Run(seed, last.start, index + 1, index - last.start, size)
        elif last is not None and index == last.indices[-1] + last.step:
            runs[-1] = last._replace(stop=index + 1)
        else:
            runs.append(Run(seed, index, index + 1, 1, size))
    return runs
