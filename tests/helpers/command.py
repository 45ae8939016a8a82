"""The command line within this process: most of the time of a short command is that of imports."""

import io
import signal
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from idem_md.cli import main


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


def run(*args, cwd=None, code=0, env=None, entry=main):
    """``idem-md`` (or another ``entry``) with these words; UserWarnings are errors."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", ["idem-md", *map(str, args)])
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
                entry()
        finally:
            signal.signal(signal.SIGTERM, handler)
    done = Done(out.getvalue(), err.getvalue())
    assert (stop.value.code or 0) == code, done.stderr
    return done
