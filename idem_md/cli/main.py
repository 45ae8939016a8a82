"""The command group, and what happens to errors."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from contextlib import nullcontext
from typing import Annotated

import typer

from ..errors import Advice, IdemError
from . import analyse, baseline, bench, check, compare, distill, extend, info, merge, sample, scan, systems, train, tune
from .console import json_alone
from .groups import GroupedCommand
from .renamed import with_new_names

__all__ = ["app", "main", "run_app"]

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="idem-md",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP_OPTIONS,
    help="Equilibrium samples of molecular systems with honest weights, from an energy function alone.",
)
for command in (
    systems.systems,
    sample.sample,
    extend.extend,
    scan.scan,
    merge.merge,
    check.check,
    train.train,
    tune.tune,
    distill.distill,
    baseline.baseline,
    analyse.analyse,
    compare.compare,
    info.info,
):
    app.command(cls=GroupedCommand)(command)
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"idem-md {version('idem-md')}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def callback(
    context: typer.Context,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = None,
) -> None:
    """Equilibrium samples of molecular systems with honest weights, from an energy function alone."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _what_came(error: Exception, words: list[str]) -> str | None:
    """The value of the option that a parse error is about, which its message may leave out."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for word, following in zip(words, [*words[1:], None]):
        name, equals, value = word.partition("=")
        if name in options:
            return value if equals else following
    return None


def _advise() -> None:
    """Advice is for the user: one line each, whatever the filters say."""
    shown = warnings.showwarning

    def show(message, category, *where, **more) -> None:
        if issubclass(category, Advice):
            print(f"idem-md: warning: {message}", file=sys.stderr)
        else:
            shown(message, category, *where, **more)

    warnings.showwarning = show
    warnings.simplefilter("always", Advice)


def main() -> None:
    """Entry point of ``idem-md``."""
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """Run a command line: errors made by the user are one line on stderr and exit code 2."""
    _advise()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ± gets a question mark
    # Files that are half written go when a queue ends the process, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with json_alone() if "--json" in sys.argv[1:] else nullcontext():
            code = app(with_new_names(sys.argv[1:]), standalone_mode=False)
        sys.exit(code)
    except (IdemError, OSError) as error:
        message = str(error)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        # Parse errors: typer's own class of them has moved between its releases, their method has not.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        message = format_message()
        came = _what_came(error, sys.argv[1:])
        if came is not None and came not in message:
            message = f"{message}, got {came!r}"
    print(f"idem-md: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
