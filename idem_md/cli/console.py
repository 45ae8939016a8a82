"""What subcommands print with. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Stop", "made", "print_json", "progress_bar", "sampling_bar"]


def print_json(payload: Mapping[str, Any]) -> None:
    """One JSON object, on one line."""
    typer.echo(json.dumps(payload, allow_nan=False))


def made(folder: Path) -> Path:
    """The folder that ``--out`` names, made if it is missing; raises `UsageError` if it cannot be."""
    from ..errors import UsageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out: cannot write to the folder {folder} ({error.strerror})") from None
    return folder


@contextmanager
def progress_bar(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr; gives a function that advances it, and may be told a new ``unit``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total, unit=unit)

        def advance(k: int, unit: str | None = None) -> None:
            bar.update(task, advance=k)
            if unit is not None:
                bar.update(task, unit=unit)

        yield advance


@contextmanager
def sampling_bar(total: int, weighted: bool = True) -> Iterator[Callable[[np.ndarray], None]]:
    """A bar for `Sampler.sample`, with effective samples so far, if there are weights, and samples a second."""
    from ..ensemble import WeightSums

    sums, start = WeightSums(), time.perf_counter()
    with progress_bar("sampling", total, "samples") as advance:

        def tell(log_weights: np.ndarray) -> None:
            sums.add(log_weights)
            rate = sums.n / (time.perf_counter() - start)
            effective = f" {sums.ess:.0f} effective," if weighted else ""
            advance(len(log_weights), f"samples,{effective} {rate:.3g} a second")

        yield tell


class Stop:
    """Whether Ctrl-C was pressed; a second one does not wait."""

    def __init__(self):
        self.asked = False

    @contextmanager
    def listening(self, say: Callable[[str], object], until: str = "the last whole iteration") -> Iterator[None]:
        """Within it Ctrl-C only sets ``asked``, and says where the work will end."""

        def interrupt(*_):
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            say(f"stopping at {until} ...")

        previous = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
