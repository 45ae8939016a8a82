"""``idem-md merge``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..progress import working
from .console import OVERWRITE, print_json
from .outputs import claim_outputs
from .results import print_table, result

__all__ = ["merge"]


def merge(
    files: Annotated[list[Path], typer.Argument(help="Samples of the jobs, as idem-md sample --shard wrote them.")],
    out: Annotated[Path, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")],
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put samples of several jobs together: idem-md merge part-*.dcd --out all.dcd

    Samples come in the order in which one process would have drawn them. Parts that do not belong together are refused.
    """
    with working("reading") as work:
        from ..ensemble import WeightedEnsemble, load_ensemble

        outputs = claim_outputs(work, [out], overwrite)
        whole = WeightedEnsemble.concatenate([load_ensemble(path) for path in files])
        mean = whole.mean_energy
        summary = result(whole, mean, outputs.save([whole])[0])
    if as_json:
        return print_json(summary)
    print_table(whole, summary)
