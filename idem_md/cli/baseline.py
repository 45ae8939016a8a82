"""``idem-md baseline``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["baseline"]


def baseline(
    system: Annotated[str, typer.Argument(help="A built-in system; idem-md systems lists them.")],
    engine: Annotated[str, typer.Option(help="mala, pt or exact.")] = "mala",
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 2000,
    steps: Annotated[int | None, typer.Option(help="Steps a chain; 20,000 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same samples.")] = 0,
    out: Annotated[Path, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = Path("md.dcd"),
) -> None:
    """Reference samples without a network: idem-md baseline lj13 --engine pt -n 10000 --out reference.dcd

    mala: one independent chain a sample. pt: parallel tempering, samples from the coldest rungs. exact: by formula
    (gmm40).
    """
    from ..baselines import ENGINES
    from ..ensemble import check_writable

    chosen = ENGINES.find(engine)
    check_writable(out)
    ensemble = chosen.run(system, n, steps, seed=seed)
    ensemble.save(out)
    (mean, error), p = ensemble.mean_energy, ensemble.provenance
    typer.echo(
        f"{out}: {n} samples, mean energy {mean:.2f} ± {error:.2f} kT, {p['seconds']:.1f} s, "
        f"{p['energy_calls']} energy calls"
    )
