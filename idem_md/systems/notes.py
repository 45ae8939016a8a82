"""What is known of a molecule and had best be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["notes_on"]


def notes_on(system: Any) -> list[str]:
    """Sentences; see `System.notes`."""
    top = system.topology
    if top is None or not top.bonds:
        return []
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
