"""What subcommands print with. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

__all__ = [
    "DEVICE",
    "OVERWRITE",
    "Stop",
    "check_png",
    "folder_option",
    "picture",
    "print_json",
    "refuse_to_overwrite",
]


DEVICE = typer.Option("--device", help="cpu or cuda.")
OVERWRITE = typer.Option("--overwrite", help="Replace files that are there.")


def print_json(payload: Mapping[str, Any]) -> None:
    """One JSON object, on one line."""
    typer.echo(json.dumps(payload, allow_nan=False))


def _folder(value: str | Path) -> Path:
    if not str(value).strip():
        raise typer.BadParameter(f"expected a folder, got {value!r}")
    return Path(value)


def folder_option(text: str) -> Any:
    """The option ``--out`` for a folder; an empty name is not the working one."""
    return typer.Option("--out", help=text, parser=_folder, metavar="FOLDER")


def refuse_to_overwrite(out: Path, overwrite: bool) -> None:
    """Raises `UsageError` if there is an ensemble already and nobody asked to replace it."""
    from ..ensemble import check_writable
    from ..errors import UsageError

    taken = [path for path in check_writable(out).values() if path.exists()]
    if taken and not overwrite:
        raise UsageError(f"out: expected a name that is not taken, there is {taken[0]}; replace it with --overwrite")


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
    """Whether Ctrl-C was pressed, or a queue has asked for an end (SIGTERM); a second time does not wait."""

    def __init__(self):
        self.signal = 0

    @property
    def asked(self) -> bool:
        """Whether it is time to stop."""
        return bool(self.signal)

    @property
    def code(self) -> int:
        """The exit code that says why: 130 or 143."""
        return 128 + self.signal

    @contextmanager
    def listening(self, say: Callable[[str], object], until: str = "the last whole iteration") -> Iterator[None]:
        """Within it a signal only sets ``asked``, and says where the work will end."""

        def interrupt(number: int, _) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.signal = number
            say(f"stopping at {until} ...")

        previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
