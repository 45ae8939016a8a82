"""Torsions by name: dihedral:i,j,k,l of any four atoms, phi, psi and omega of residues."""

from __future__ import annotations

import re

import numpy as np

from ..checks import check_int
from ..ensemble import WeightedEnsemble
from ..errors import UsageError
from ..systems import System, torsions

__all__ = ["TORSIONS", "is_torsion", "torsion_atoms", "torsion_values", "torsions_of", "turned"]

PREFIX = "dihedral:"
# Torsion, and the number of its residue, after its chain if several have that number.
OF_RESIDUE = re.compile(r"(phi|psi|omega)([A-Za-z]?-?\d+)?")
# The names of the four atoms, for the backbone; those of a neighbouring residue have its offset.
TORSIONS = {
    "phi": (("C", -1), ("N", 0), ("CA", 0), ("C", 0)),
    "psi": (("N", 0), ("CA", 0), ("C", 0), ("N", 1)),
    "omega": (("CA", 0), ("C", 0), ("N", 1), ("CA", 1)),
}


def is_torsion(name: str) -> bool:
    """Whether an observable is a torsion: ``dihedral:0,1,2,3``, ``phi``, or ``phi2`` of the residue with number 2."""
    return name.startswith(PREFIX) or OF_RESIDUE.fullmatch(name) is not None


def torsion_values(e: WeightedEnsemble, name: str) -> np.ndarray:
    """Degrees from -180 to 180, shape (n,), of the samples of some weight.

    Raises
    ------
    UsageError
        No such atoms, or not one residue that has such a torsion.
    """
    return turned(e, torsion_atoms(e.system, name))


def turned(e: WeightedEnsemble, atoms: tuple[int, ...]) -> np.ndarray:
    """The same for four atoms by their numbers, whatever the file knows of names."""
    return torsions(e.positions[e.alive], atoms)


def torsions_of(system: System) -> list[str]:
    """Names of the torsions to look at: those of the backbone, phi and psi, or else about each bond that turns,
    see `systems.Chemistry`; none of clusters."""
    molecule = system.chemistry
    if molecule is None:
        return []
    backbone = []
    for kind in ("phi", "psi"):
        numbers = _residues_with(system, kind)
        backbone += [kind] if len(numbers) == 1 else [f"{kind}{number}" for number in numbers]
    if backbone:
        return backbone
    return [PREFIX + ",".join(map(str, atoms)) for atoms in molecule.turning]


def _residues_with(system: System, kind: str) -> dict[str, tuple[int, ...]]:
    """The four atoms of such a torsion of the backbone, by the number of the residue, after its chain if others have
    the same; neighbouring residues are bonded."""
    top = system.named_atoms
    at = {(top.residue_of[k], own): k for k, own in reversed(list(enumerate(top.names)))}
    bonds, found = {frozenset(bond) for bond in top.bonds}, list[tuple[str, str, tuple[int, ...]]]()
    for r, (_, number, chain) in enumerate(top.residues):
        atoms = [at.get((r + offset, own)) for own, offset in TORSIONS[kind]]
        known = tuple(k for k in atoms if k is not None)
        if len(known) == 4 and all(frozenset(pair) in bonds for pair in zip(known, known[1:])):
            found.append((number or str(r + 1), chain, known))
    numbers = [number for number, _, _ in found]
    return {number if numbers.count(number) == 1 else f"{chain}{number}": atoms for number, chain, atoms in found}


def torsion_atoms(system: System, name: str) -> tuple[int, ...]:
    """The numbers of its four atoms.

    Raises
    ------
    UsageError
        See `torsion_values`.
    """
    if system.n_dims != 3:
        raise UsageError(f"observable: expected none of torsions in the plane, got {name!r}")
    if not name.startswith(PREFIX):
        return _backbone(system, name)
    parts = name.removeprefix(PREFIX).split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"observable: expected dihedral:i,j,k,l with the numbers of four atoms, from 0, got {name!r}")
    atoms = tuple(check_int("dihedral", int(part), 0, system.n_atoms - 1) for part in parts)
    if len(set(atoms)) != 4:
        raise UsageError(f"observable: expected four different atoms, got {name!r}")
    return atoms


def _backbone(system: System, name: str) -> tuple[int, ...]:
    match = OF_RESIDUE.fullmatch(name)
    assert match is not None  # as `is_torsion` said
    kind, wanted = match[1], match[2] or ""
    found = _residues_with(system, kind)
    if wanted and wanted in found:
        return found[wanted]
    if wanted or len(found) != 1:
        there = ", ".join(f"{kind}{number}" for number in found) or "none"
        raise UsageError(f"observable: expected a residue with such a torsion, there are {there}; got {name!r}")
    return next(iter(found.values()))
