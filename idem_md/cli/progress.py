"""What a command says on stderr while it works: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from ..baselines.base import Progress as Tell

__all__ = ["Work", "by_share", "sampling", "working"]

# Without a terminal: after so many seconds without a word there is a line.
SILENCE = 1.5


class Work:
    """One thing after the other, each with a label and, if it is known how much there is to do, an amount; made by
    `working`."""

    def __init__(self, label: str):
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        # More to look at, in a terminal.
        self.detail: RenderableType = ""
        # What is to be let go of at the end, such as the lock of a folder.
        self.held = ExitStack()
        self.live = Live(
            get_renderable=self._view,
            console=self.console,
            transient=True,
            auto_refresh=self.terminal,
            redirect_stdout=False,  # results are for other programs
        )
        self._lock, self._over = threading.RLock(), threading.Event()
        self._heard = time.monotonic()
        self._silent = False
        self.phase(label)

    def _view(self) -> RenderableType:
        from rich.console import Group

        return Group(self.bar, self.detail)

    def phase(self, label: str, total: float | None = None, unit: str = "") -> None:
        """What is done from now on, and how much of it there is."""
        with self._lock:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.label, self.unit, self.note = label, unit, ""
            self._begin = (0.0, 0.0)  # seconds and amount from which on the speed is known
            self.task = self.bar.add_task(label, total=total, note=self._amount(0, total))

    def _amount(self, done: float, total: float | None) -> str:
        amount = "" if total is None else f"{done:g} of {total:g} {self.unit}".rstrip()
        return ", ".join(part for part in (amount, self.note) if part)

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """So much more is done."""
        self.note = self.note if note is None else note
        self.bar.advance(self.task, amount)
        now = self.bar.tasks[0]
        self.bar.update(self.task, note=self._amount(now.completed, now.total))

    def resize(self, total: float, done: float) -> None:
        """There is more or less to do than was thought."""
        with self._lock:
            now = self.bar.tasks[0]
            if done != now.completed:
                self._begin = (now.elapsed or 0.0, done)
            self.bar.update(self.task, total=total, completed=done, note=self._amount(done, total))

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            if self._silent:
                return
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._heard = time.monotonic()

    def silence(self) -> None:
        """Another process speaks from now on."""
        self.live.stop()
        self._silent = True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While something is printed on stdout."""
        if self.terminal:
            self.live.stop()
        try:
            yield
        finally:
            if self.terminal:
                self.live.start(refresh=True)

    def line(self) -> str:
        """Where the work is."""
        with self._lock:  # there is always one task, but for a moment
            task = self.bar.tasks[0]
            elapsed = task.elapsed or 0.0
            parts = [self._amount(task.completed, task.total), f"{elapsed:.0f} s"]
        (since, begin), total = self._begin, task.total or 0.0
        if begin < task.completed < total:
            left = (elapsed - since) * (total - task.completed) / (task.completed - begin)
            parts.append(f"about {left:.0f} s left")
        return f"{self.label}: {', '.join(part for part in parts if part)}"

    def _speak(self) -> None:
        while not self._over.wait(SILENCE / 15):
            if time.monotonic() - self._heard > SILENCE:
                self.say(self.line())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within it there is something to see."""
        if self.terminal:
            with self.live:
                yield
            return
        speaker = threading.Thread(target=self._speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            self._over.set()
            speaker.join()


@contextmanager
def working(label: str = "loading") -> Iterator[Work]:
    """Never silent for long within it."""
    work = Work(label)
    with work.held, work.shown():
        yield work


def sampling(work: Work, total: int, weighted: bool = True) -> Callable[[np.ndarray], None]:
    """For `Sampler.sample`: effective samples so far, if there are weights, and samples a second."""
    from ..ensemble import WeightSums

    sums, start = WeightSums(), time.perf_counter()
    work.phase("sampling", total, "samples")

    def tell(log_weights: np.ndarray) -> None:
        sums.add(log_weights)
        rate = f"{sums.n / (time.perf_counter() - start):.3g} a second"
        work.advance(len(log_weights), f"{sums.ess:.0f} effective, {rate}" if weighted else rate)

    return tell


def by_share(work: Work, label: str) -> Tell:
    """For engines of `idem_md.baselines`, which tell the share that is done."""
    work.phase(label, 100, "%")
    shown = 0

    def tell(share: float, note: str) -> None:
        nonlocal shown
        work.advance(int(100 * share) - shown, note)
        shown = int(100 * share)

    return tell
