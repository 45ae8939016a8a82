"""What subcommands print with. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

__all__ = ["Stop", "check_png", "made", "picture", "print_json"]


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


def check_png(name: str, path: Path) -> None:
    """Raises `UsageError` if no picture can be written there."""
    from ..errors import UsageError

    if path.suffix != ".png":
        raise UsageError(f"{name}: expected a file name ending in .png, got {str(path)!r}")
    if not path.parent.is_dir():
        raise UsageError(f"{name}: cannot write {path}, there is no folder {path.parent}")


@contextmanager
def picture(name: str, path: Path) -> Iterator[Path]:
    """Where to write a picture that then is whole or not there; raises `UsageError` if that fails."""
    from ..errors import UsageError
    from ..files import atomic_set

    try:
        with atomic_set({name: path}) as new:
            yield new[name]
    except OSError as error:
        raise UsageError(f"{name}: cannot write {path} ({error.strerror or error})") from None


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
