"""Where commands write samples and pictures: names that are claimed as a run begins, and what is kept if it is
interrupted."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import Work
from .console import check_png, picture

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble
    from ..files import Claim

__all__ = ["Outputs", "PlotOption", "claim_outputs", "keeping"]


PlotOption = Annotated[Path | None, typer.Option("--plot", help="F.png: energies and pair distances.")]


@dataclass(frozen=True)
class Outputs:
    """Names that nobody else writes to while a command runs; made by `claim_outputs`.

    Attributes
    ----------
    paths : sequence of Path or None
        Of the trajectories, one for each ensemble; None for one that is not saved.
    plot : Path, optional
    claim, plot_claim : Claim
        All files of the trajectories, and the picture.
    name : str
        What to call the option in errors.
    """

    paths: Sequence[Path | None]
    plot: Path | None
    claim: Claim
    plot_claim: Claim
    name: str = "out"

    def save(self, ensembles: Sequence[WeightedEnsemble]) -> list[list[str]]:
        """Write the ensembles; the files of each.

        Raises
        ------
        UsageError
            Someone else has written to one of the names since the run began: all is saved beside it, and the error says
            where.
        """
        from ..errors import UsageError

        broken = self.claim.broken
        targets = [self.claim.free_name(path) if broken and path is not None else path for path in self.paths]
        pairs = list(zip(ensembles, targets))
        files = [[] if target is None else [str(p) for p in e.save(target)] for e, target in pairs]
        if broken:
            beside = ", ".join(str(target) for target in targets if target is not None)
            raise UsageError(
                f"{self.name}: expected {next(p for p in self.paths if p)} as it was when the run began, another "
                f"process has written it; all is in {beside}"
            )
        return files

    @contextmanager
    def picture(self, path: Path) -> Iterator[Path]:
        """Where to draw the plot.

        Raises
        ------
        UsageError
            As for `save`.
        """
        from ..errors import UsageError

        target = self.plot_claim.free_name(path) if self.plot_claim.broken else path
        with picture("plot", target) as new:
            yield new
        if target != path:
            raise UsageError(
                f"plot: expected {path} as it was when the run began, another process has written it; the picture is "
                f"{target}"
            )

    def keep(self, ensembles: Sequence[WeightedEnsemble], again: Callable[[int], str] | None = None) -> list[str]:
        """Write what an interrupted run has drawn beside what it was to write; says where, and how to go on: ``again``
        of the number of samples that there are, which ends before the name."""
        from ..ensemble import check_writable
        from ..files import free_name

        said = []
        for e, path in zip(ensembles, self.paths):
            if path is None:
                said.append(f"{len(e)} samples were drawn, and are lost: there is no --out for them")
                continue
            target = free_name(path, "interrupted", lambda p: check_writable(p).values())
            e.save(target)
            how = "" if again is None else f"; {again(len(e))} {target}"
            said.append(f"{len(e)} samples were drawn, and are in {target}{how}")
        return said or ["nothing was drawn yet"]


def claim_outputs(
    work: Work, paths: Sequence[Path | None], overwrite: bool, plot: Path | None = None, name: str = "out"
) -> Outputs:
    """Claim the names of trajectories, with the files beside them, and of a picture, until the work is over.

    Parameters
    ----------
    work : Work
    paths, plot
        See `Outputs`.
    overwrite : bool
        Whether what is there may be replaced.
    name : str
        What to call the trajectories in errors.

    Raises
    ------
    UsageError
        One of them cannot be written, is there already and not to be replaced, or claimed by another process.
    """
    from ..ensemble import check_writable
    from ..errors import UsageError
    from ..files import claimed

    files = [file for path in paths if path is not None for file in check_writable(path).values()]
    pictures = [] if plot is None else [plot]
    if plot is not None:
        check_png("plot", plot)
    held = work.held.enter_context
    claims = held(claimed(name, files)), held(claimed("plot", pictures))
    for option, names in ((name, files), ("plot", pictures)):
        # A link that leads nowhere is there as well.
        taken = [file for file in names if os.path.lexists(file)]
        if taken and not overwrite:
            raise UsageError(
                f"{option}: expected a name that is not taken, there is {taken[0]}; replace it with --overwrite"
            )
    return Outputs(paths, plot, *claims, name)


@contextmanager
def keeping(work: Work, keep: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Within it Ctrl-C, or the end of a queue (SIGTERM), ends the process with what there is: exit code 130 or 143.

    A thread of its own does that, as compiled code does not look up for as long as a chunk of samples takes.

    Parameters
    ----------
    keep : callable () -> sequence of str
        Saves what there is; what to say of it.
    """
    over = b"\0"
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while (number := os.read(read, 1)) not in (over, b""):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                _leave(work, keep, number[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]  # as of nohup
    handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
    descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(write, over)
        watcher.join()
        os.close(read)
        os.close(write)


def _leave(work: Work, keep: Callable[[], Sequence[str]], number: int) -> None:
    """End the process with what there is, whatever else fails: nobody may listen any more."""
    try:
        with suppress(OSError):
            _say(work, keep)
        for step in (work.live.stop, work.held.close, _close_semaphores, lambda: sys.stdout.flush()):
            with suppress(Exception):
                step()
    finally:
        os._exit(128 + number)  # processes that draw end with it


def _say(work: Work, keep: Callable[[], Sequence[str]]) -> None:
    try:
        lines = [f"idem-md: interrupted: {line}" for line in keep()]
    except BaseException as error:
        lines = [f"idem-md: interrupted, and what was drawn could not be saved ({type(error).__name__}: {error})"]
    for line in lines:
        work.say(line)


def _close_semaphores() -> None:
    """Let go of those of pools, of which there is a complaint otherwise."""
    getattr(multiprocessing.util, "_run_finalizers")(0)  # noqa: B009
