"""Energy calls of an outer iteration that may never be complete."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

from .ranks import Ranks, part_of

__all__ = ["Journal", "forget_calls"]

CALLS = ".energy-calls"
NOTED_EVERY = 1.0  # seconds


class Journal:
    """Energy calls of an iteration that may never be complete, noted now and then: a kill does not make them free.

    A process notes its own; those of the last state count as shared out evenly.
    """

    def __init__(self, folder: Path, ranks: Ranks):
        self.folder, self.path, self._noted = folder, self._of(folder, ranks.rank), -math.inf

    @staticmethod
    def _of(folder: Path, rank: int) -> Path:
        return folder / (f"{CALLS}-{rank}" if rank else CALLS)

    def note(self, calls: int) -> None:
        """So many so far."""
        if (now := time.monotonic()) - self._noted >= NOTED_EVERY:
            self._noted = now
            with suppress(OSError):  # on a full disk the state says so
                self.path.write_text(f"{calls:20d}")

    def lost(self, calls: int, processes: int) -> int:
        """How many more were noted than the ``calls`` of the last state, by so many processes."""
        lost = 0
        for rank in range(processes):
            with suppress(OSError, ValueError):
                noted = int(self._of(self.folder, rank).read_text())
                lost += max(noted - part_of(calls, rank, processes), 0)
        return lost

    def restart(self, calls: int) -> None:
        """With this process's part of those of the last state."""
        self._noted = -math.inf
        self.note(calls)

    def close(self) -> None:
        """All is in the state."""
        forget_calls(self.folder)


def forget_calls(folder: Path) -> None:
    for path in folder.glob(f"{CALLS}*"):
        path.unlink(missing_ok=True)
