"""``idem-md compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..progress import working
from .console import folder_option, print_json

__all__ = ["compare"]


def compare(
    ensembles: Annotated[list[Path], typer.Argument(help="Two to four DCD files; the last one is the reference.")],
    out: Annotated[Path, folder_option("Folder for the page, figures and tables.")] = Path("report"),
    aligned: Annotated[bool, typer.Option(help="Compute aligned W2, which may take a minute.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Compare ensembles: idem-md compare lj13.dcd md.dcd --out report/"""
    with working() as work:
        from ..ensemble import load_ensemble
        from ..errors import UsageError

        if not 2 <= len(ensembles) <= 4:
            raise UsageError(f"ensembles: expected two to four files, got {len(ensembles)}")
        if len({p.resolve() for p in ensembles}) < len(ensembles):
            raise UsageError("ensembles: expected different files, one is given twice")
        labels = [p.stem for p in ensembles]
        if len(set(labels)) < len(labels):
            labels = [str(p) for p in ensembles]
        loaded = {label: load_ensemble(p) for label, p in zip(labels, ensembles)}

        from .. import report
        from ..files import own_folder

        work.held.enter_context(own_folder(out))
        summary = report.compare(loaded, out, aligned, work.phase)
    if as_json:
        print_json(summary)
    else:
        typer.echo(report.table(summary))
