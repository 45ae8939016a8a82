"""What commands and functions say on stderr while they work: a live view in a terminal or a notebook, plain lines
elsewhere."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Work", "current", "note_calls", "quiet", "reported", "reporting", "working"]

Function = TypeVar("Function", bound=Callable[..., Any])

# Without a terminal: after so many seconds without a word there is a line.
SILENCE = 1.5
# Functions say nothing if this variable is set; see also `quiet`.
QUIET = "IDEM_MD_QUIET"

_current: ContextVar[Work | None] = ContextVar("current", default=None)
_quiet = False
# Whether this process has said a word: the first one comes at once, after the silence of loading.
_spoke = False


class Work:
    """One thing after the other, each with a label and, if it is known how much there is to do, an amount; made by
    `working` or `reporting`; ``silent`` says nothing."""

    def __init__(self, label: str, silent: bool = False):
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        if self.console.is_jupyter and find_spec("ipywidgets"):  # without which lines have to do
            self.terminal = True
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
        self._heard = time.monotonic() if _spoke else -math.inf
        self._silent, self._unsaid = silent, list[str]()
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
        global _spoke
        with self._lock:
            if self._silent:
                return
            busy = bool(self._unsaid)  # a signal came in the midst of a line, which would be written twice
            self._unsaid.append(text)
            if busy:
                return
            try:
                while self._unsaid:
                    self.console.print(self._unsaid[0], highlight=False, markup=False, soft_wrap=True)
                    del self._unsaid[0]
            finally:
                self._unsaid.clear()
            self._heard, _spoke = time.monotonic(), True

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
        if self._silent:
            yield
            return
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
def working(label: str = "loading PyTorch", silent: bool = False) -> Iterator[Work]:
    """Never silent for long within it, unless it is to be; functions that work within it say so there."""
    work = Work(label, silent)
    token = _current.set(work)
    try:
        with work.held, work.shown():
            yield work
    finally:
        _current.reset(token)


def current() -> Work | None:
    """What is going on, if anything is."""
    return _current.get()


@contextmanager
def reporting(label: str, total: float | None = None, unit: str = "", silent: bool = False) -> Iterator[Work]:
    """A phase of what is going on, or else of work of its own, silent if it is to be or after `quiet`; see
    `Work.phase`."""
    if (work := current()) is not None and not silent:
        work.phase(label, total, unit)
        yield work
    else:
        with working(label, silent or _quiet or os.environ.get(QUIET, "0") not in ("", "0")) as work:
            work.phase(label, total, unit)
            yield work


def reported(label: str) -> Callable[[Function], Function]:
    """Decorator: a function that works within `reporting`."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def wrapped(*args, **kwargs):
            with reporting(label):
                return function(*args, **kwargs)

        return cast(Function, wrapped)

    return decorate


def note_calls(calls: int) -> None:
    """So many energy calls so far; for `Energy.on_count` where nobody knows how many there will be."""
    if (work := current()) is not None:
        work.advance(0, f"{calls:,} energy calls")


def quiet(silent: bool = True) -> None:
    """Let functions say nothing of their progress from now on, or something again with ``False``; commands always do.

    The environment variable ``IDEM_MD_QUIET=1`` does the same, for worker processes and batch jobs.
    """
    global _quiet
    _quiet = silent
