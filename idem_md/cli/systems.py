"""``idem-md systems``"""

from __future__ import annotations

from typing import Annotated

import typer

from .console import print_json

__all__ = ["systems"]


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def systems(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """What is built in, with parameters."""
    from ..systems import SYSTEMS

    if as_json:
        rows = {
            name: {
                "description": s.description,
                "n_atoms": s.n_atoms,
                "n_dims": s.n_dims,
                "parameters": s.parameters,
                "length_unit_angstrom": s.units.length_angstrom,
                "temperature_kelvin": s.units.temperature_kelvin,
                "exact_mean_energy": s.exact_mean_energy,
            }
            for name, s in SYSTEMS.items()
        }
        return print_json(rows)
    from rich.console import Console
    from rich.table import Table

    headings = "system", "atoms", "dim", "parameters (kT, reduced length)", "length (Å)", "T (K)"
    grid = Table(*headings, "exact mean energy (kT)")
    for name, s in SYSTEMS.items():
        exact = s.exact_mean_energy
        parameters = ", ".join(f"{k}={_shown(v)}" for k, v in s.parameters.items())
        grid.add_row(
            name,
            str(s.n_atoms),
            str(s.n_dims),
            parameters,
            f"{s.units.length_angstrom:g}",
            f"{s.units.temperature_kelvin:g}",
            "–" if exact is None else f"{exact[0]} ± {exact[1]}",
        )
    Console().print(grid)
