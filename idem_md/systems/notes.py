"""What is known of a system and had best be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..energies import Topology

__all__ = ["notes_on"]

# Distances of nearest neighbours, in reduced length, for which presets were made.
EXPECTED = 0.6, 1.6


def notes_on(system: Any, nearest: float | None) -> list[str]:
    """Sentences; see `System.notes`. ``nearest`` is the distance of nearest neighbours in its geometry, reduced."""
    notes = [] if nearest is None else _of_lengths(nearest, system.units.length_angstrom)
    top = system.topology
    return notes if top is None or not top.bonds else notes + _of_molecule(system, top)


def _of_lengths(nearest: float, angstrom: float) -> list[str]:
    if EXPECTED[0] <= nearest <= EXPECTED[1]:
        return []
    return [
        f"nearest neighbours are {nearest:.2g} units of length apart; settings expect about one, as with "
        f"length_angstrom={nearest * angstrom:.3g}"
    ]


def _of_molecule(system: Any, top: Topology) -> list[str]:
    kinds, alike = len(set(system.kinds)), top.labels(system.elements)
    by_bonds = kinds == len(set(alike)) == len(set(zip(system.kinds, alike)))
    which = "say which are alike" if by_bonds else "do not alone say which are alike"
    notes = [
        f"{system.n_atoms} atoms of {kinds} kinds: {len(top.bonds)} bonds by the {top.source} {which}; give labels= "
        "(--labels) to choose others"
    ]
    if (parts := len(top.fragments())) > 1:
        notes.append(f"{parts} molecules, which nothing but their potential and the trap keep together")
    if top.source == "distances" and _electrons(system.elements) % 2:
        notes.append("an odd number of electrons: a radical or an ion, of which the calculator has to be told")
    if system.mirror_images:
        notes.append("mirror images are reflected back to the enantiomer of the geometry, which has the same energy")
    return notes


def _electrons(elements: Sequence[str]) -> int:
    """How many neutral atoms have."""
    from ase.data import atomic_numbers

    return sum(atomic_numbers[symbol] for symbol in elements)
