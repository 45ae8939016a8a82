"""How far sampling is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np

from ..ensemble import WeightSums
from ..progress import reporting

__all__ = ["sampling"]

Tell = Callable[[np.ndarray], None]

# Effective samples from which on it is said how many samples make as many as are wanted.
LEAST_EFFECTIVE = 10


@contextmanager
def sampling(
    total: int, weighted: bool, sums: WeightSums, progress: Tell | None, ess: float | None = None
) -> Iterator[Tell]:
    """What to call with the log weights of samples that are finished: adds them to the sums, and tells ``progress`` or,
    by default, shows how many samples there are, how many of them are effective, and how many a second. With
    ``ess`` the total that is shown is the number of samples that are expected to reach it."""
    before, start = sums.n, time.perf_counter()
    with reporting("sampling", total, "samples") if progress is None else nullcontext() as work:

        def tell(log_weights: np.ndarray) -> None:
            sums.add(log_weights)
            if progress is not None:
                progress(log_weights)
            elif work is not None:
                rate = f"{(sums.n - before) / (time.perf_counter() - start):.3g} a second"
                if ess is not None and sums.ess >= LEAST_EFFECTIVE:
                    done, expected = sums.n - before, round(ess / sums.ess * sums.n) - before
                    work.resize(min(max(expected, done), total), done - len(log_weights))
                work.advance(len(log_weights), f"{sums.ess:.0f} effective, {rate}" if weighted else rate)

        yield tell
