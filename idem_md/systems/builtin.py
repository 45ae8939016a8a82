"""The systems that are built in; plain data, so that listing them imports no numerics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..units import Units
from .system import TAKEN_NAMES, Potential, System

__all__ = ["SYSTEMS", "built_in_name", "get_system", "system_described"]

# Argon (Rahman's parameters): r_m = 3.8220 Å, epsilon/k_B = 119.8 K. The benchmarks have epsilon = 2 kT.
_ARGON = Units(length_angstrom=3.8220, temperature_kelvin=119.8 / 2.0)


def _lennard_jones(name, description, elements, sigma_data, exact=None, units=_ARGON, **parameters) -> System:
    potential = Potential("LennardJones", {"n_atoms": len(elements), **parameters})
    return System(name, description, potential, elements, units, sigma_data, exact, parameters=parameters)


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        _lennard_jones(
            "lj13",
            "13 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
            ("Ar",) * 13,
            0.68,
            (-42.92, 0.02),
            epsilon=2.0,
            r_min=1.0,
            trap=1.0,
        ),
        _lennard_jones(
            "lj55",
            "55 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
            ("Ar",) * 55,
            0.97,
            (-325.8, 0.3),
            epsilon=2.0,
            r_min=1.0,
            trap=1.0,
        ),
        _lennard_jones(
            "argon",
            "13 argon atoms at 40 K in a trap of 0.1 kT/r_m^2",
            ("Ar",) * 13,
            0.68,
            units=Units(3.8220, 40.0),
            epsilon=119.8 / 40.0,
            r_min=1.0,
            trap=0.1,
        ),
        _lennard_jones(
            "binary",
            "10 + 3 Lennard-Jones atoms with the ratios of Kob and Andersen, trap 1 kT/r_m^2",
            ("Ar",) * 10 + ("Ne",) * 3,
            0.64,
            epsilon=[[2.0, 3.0], [3.0, 1.0]],
            r_min=[[1.0, 0.8], [0.8, 0.88]],
            trap=1.0,
            species=[0] * 10 + [1] * 3,
        ),
        System(
            "dw4",
            "4 particles in 2D with a pairwise double well (literature benchmark)",
            Potential("DoubleWell"),
            ("Ar",) * 4,
            Units(),
            1.8,
            (-22.536, 0.002),
            n_dims=2,
            parameters={"a": 0.9, "b": -4.0, "d0": 4.0},
        ),
        System(
            "gmm40",
            "a point in a mixture of 40 Gaussians in the plane (literature benchmark)",
            Potential("GaussianMixture"),
            ("Ar",),
            Units(),
            23.0,
            (6.8594, 0.0002),
            n_dims=2,
            parameters={"components": 40, "sd": 1.3132616875182228},
        ),
    )
}

TAKEN_NAMES.update(SYSTEMS)


def get_system(name: str | System) -> System:
    """The named system; a system is returned as it is.

    Raises
    ------
    UsageError
        No such system; lists those there are.
    """
    if isinstance(name, System):
        return name
    if name not in SYSTEMS:
        raise UsageError(f"system: expected one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]


def system_described(name: str, table: Mapping[str, Any] | None) -> System:
    """The system that a file calls by that name: the built-in one, if its description is of that one or missing; else a
    system without an energy, as described.

    Raises
    ------
    KeyError, TypeError, ValueError
        See `System.described`.
    """
    known = SYSTEMS.get(name)
    if table is None and known is not None:
        return known
    if table is None:
        raise ValueError("there is no description")
    described = System.described(table)
    if described.name != name:
        raise ValueError(f"{name!r} is described as {described.name!r}")
    if known is None:
        return described
    ours, theirs = known.describe(), described.describe()
    # The words may be those of another version; of what that did not say, nothing is known to differ.
    said = ours.keys() & table.keys() - {"description"}
    return known if all(ours[key] == theirs[key] for key in said) else described


def built_in_name(system: System) -> str | None:
    """The built-in system whose potential that of ``system`` is, at whatever temperature; None if there is none."""
    return next((name for name, known in SYSTEMS.items() if known.make_energy == system.origin), None)
