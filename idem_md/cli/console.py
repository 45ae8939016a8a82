"""What subcommands print with. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, Any

import typer

__all__ = [
    "DEVICE",
    "OVERWRITE",
    "Stop",
    "check_png",
    "folder_option",
    "json_alone",
    "picture",
    "print_json",
]


DEVICE = typer.Option("--device", help="cpu or cuda.")
OVERWRITE = typer.Option("--overwrite", help="Replace files that are there.")


# Where JSON goes, if not to stdout; see `json_alone`.
_answers: list[IO[str]] = []


def print_json(payload: Mapping[str, Any]) -> None:
    """One JSON object, on one line."""
    typer.echo(json.dumps(payload, allow_nan=False), file=_answers[-1] if _answers else None)


@contextmanager
def json_alone() -> Iterator[None]:
    """Within it stdout is for `print_json` alone: what else is printed, by compiled code and by processes that are
    started, too, goes to stderr. Potentials of other people print what they like."""
    if sys.stdout is None:  # closed from the beginning
        yield
        return
    sys.stdout.flush()
    with ExitStack() as stack:
        answer: IO[str] = sys.stdout
        if _descriptor(sys.stdout) == 1 and _descriptor(sys.stderr) == 2:
            kept = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
            answer = stack.enter_context(kept)
            os.dup2(2, 1)  # to the end of the process: what compiled code holds back comes when it exits
        _answers.append(answer)
        stack.callback(_answers.pop)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # what stands for it in a test, or in a notebook
        return None


def _folder(value: str | Path) -> Path:
    if not str(value).strip():
        raise typer.BadParameter(f"expected a folder, got {value!r}")
    return Path(value)


def folder_option(text: str) -> Any:
    """The option ``--out`` for a folder; an empty name is not the working one."""
    return typer.Option("--out", help=text, parser=_folder, metavar="FOLDER")


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
