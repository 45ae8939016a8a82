"""The ``idem-md`` command, one subcommand a file; what a subcommand needs is imported when it runs."""

from .main import app, main

__all__ = ["app", "main"]
