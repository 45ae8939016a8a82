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
    from rich.padding import Padding

    console = Console(highlight=False)
    for name, s in SYSTEMS.items():
        exact, units = s.exact_mean_energy, s.units
        console.print(f"[bold]{name}[/bold]  {s.description}")
        parameters = ", ".join(f"{k} = {_shown(v)}" for k, v in s.parameters.items())
        lines = (
            f"{s.n_atoms} atom{'s' if s.n_atoms > 1 else ''} in {s.n_dims} dimensions",
            f"{parameters} (kT, reduced length)",
            f"length unit {units.length_angstrom:g} Å, {units.temperature_kelvin:g} K",
            *(() if exact is None else (f"exact mean energy {exact[0]} ± {exact[1]} kT",)),
        )
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 2)))
