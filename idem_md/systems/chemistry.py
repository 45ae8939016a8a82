"""What makes a configuration one of a molecule: its bonds, the hand of its stereocentres, its rigid torsions."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..energies import Topology

__all__ = ["Chemistry", "Rotations", "torsions"]

# A bond is broken if it is so many times as long as in the geometry of the system.
STRETCH = 1.5
# Å: carbon atoms with three neighbours each that are no farther apart share a double bond.
DOUBLE = 1.40


class Rotations(NamedTuple):
    """Bonds of a molecule that turn.

    Attributes
    ----------
    bonds : tuple of (int, int, list of int)
        See `Chemistry.rotations`.
    contacts : array, shape (N, N)
        See `Chemistry.contacts`.
    """

    bonds: tuple[tuple[int, int, list[int]], ...]
    contacts: np.ndarray


def torsions(x, atoms: Sequence[int]) -> np.ndarray:
    """Dihedral angles (n,) in degrees, from -180 to 180, of four atoms in positions (n, N, 3); IUPAC sign."""
    a, b, c, d = (np.asarray(x, dtype=np.float64)[:, k] for k in atoms)
    axis = c - b
    left, right = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = (np.cross(left, right) * axis).sum(-1) / np.linalg.norm(axis, axis=-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(-1)))


@dataclass(frozen=True)
class Chemistry:
    """A molecule by its bonds, and what they are like in its geometry.

    Attributes
    ----------
    bonds : array, shape (b, 2)
    lengths : array, shape (b,)
        In the geometry, in reduced length.
    centres : tuple of (int, int, int, int)
        Stereocentres: an atom of four different neighbours, and three of these, the directions to which have a positive
        triple product in the geometry.
    rigid : tuple of (int, int, int, int)
        Torsions about amide and double bonds.
    trans : array, shape (r,)
        Whether these are beyond 90 degrees in the geometry.
    turning : tuple of (int, int, int, int)
        Torsions about bonds that turn: in no ring, not rigid, with more on either side than atoms that are all alike,
        as those of a methyl group. The outer atoms are the first neighbours, hydrogen last.
    rotations : tuple of (int, int, list of int)
        For each of these bonds its two atoms, and those on its smaller side, which turn with the second.
    """

    bonds: np.ndarray
    lengths: np.ndarray
    centres: tuple[tuple[int, int, int, int], ...]
    rigid: tuple[tuple[int, int, int, int], ...]
    trans: np.ndarray
    turning: tuple[tuple[int, int, int, int], ...]
    rotations: tuple[tuple[int, int, list[int]], ...]

    @classmethod
    def of(cls, topology: Topology, elements: Sequence[str], geometry, length_angstrom: float) -> Chemistry:
        """The molecule of a topology with bonds, in its geometry (N, 3), reduced length."""
        x, bonds = np.asarray(geometry, dtype=np.float64), np.array(topology.bonds, dtype=int).reshape(-1, 2)
        labels = topology.labels(elements)
        near, lengths = topology.neighbours(), np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=-1)
        colours, centres = _colours(near, elements), []
        for atom, others in enumerate(map(sorted, near)):
            if len(others) == 4 and len({colours[k] for k in others}) == 4:
                a, b, c = others[:3]
                left = float(_volume(x[None], (atom, a, b, c))[0]) > 0
                centres.append((atom, a, b, c) if left else (atom, b, a, c))
        rigid = []
        for (a, b), r in zip(bonds.tolist(), lengths * length_angstrom):
            amide = _is_amide(a, b, near, elements) or _is_amide(b, a, near, elements)
            stiff = amide or _is_double(a, b, near, elements, r)
            # Two atoms that are alike, as at the end of CONH2, may change places.
            if stiff and not any(_are_alike(near[k] - {j}, labels) for k, j in ((a, b), (b, a))):
                rigid.append((min(near[a] - {b}), a, b, min(near[b] - {a})))
        trans = np.array([abs(torsions(x[None], atoms)[0]) > 90 for atoms in rigid], dtype=bool)
        turning = _turning(topology, elements, near, {frozenset(atoms[1:3]) for atoms in rigid})
        sides = ([(b, c, _beyond(b, c, near)), (c, b, _beyond(c, b, near))] for _, b, c, _ in turning)
        rotations = tuple(min(both, key=lambda side: len(side[2])) for both in sides)
        return cls(bonds, lengths, tuple(centres), tuple(rigid), trans, turning, rotations)

    @property
    def digest(self) -> str:
        """Eight characters by which isomers differ: their bonds, and the hand of their stereocentres.

        Not cis from trans: which bonds are double is told by their length, which changes as the molecule moves.
        """
        known = sorted(map(sorted, self.bonds.tolist())), self.centres
        return f"{zlib.crc32(repr(known).encode()):08x}"

    def contacts(self, elements: Sequence[str], length_angstrom: float) -> np.ndarray:
        """Distances (N, N) in reduced length below which two atoms that are not bonded overlap: half the sum of their
        covalent radii; zero for others."""
        from ase.data import atomic_numbers, covalent_radii

        radii = np.array([covalent_radii[atomic_numbers.get(symbol, 0)] for symbol in elements]) / length_angstrom
        least = 0.5 * (radii[:, None] + radii)
        least[self.bonds[:, 0], self.bonds[:, 1]] = least[self.bonds[:, 1], self.bonds[:, 0]] = 0.0
        np.fill_diagonal(least, 0.0)
        return least

    def broken(self, x) -> np.ndarray:
        """Which bonds of positions (n, N, 3) are broken, shape (n, b)."""
        x = np.asarray(x, dtype=np.float64)
        return np.linalg.norm(x[:, self.bonds[:, 0]] - x[:, self.bonds[:, 1]], axis=-1) > STRETCH * self.lengths

    def inverted(self, x) -> np.ndarray:
        """Which stereocentres have the other hand than in the geometry, shape (n, k)."""
        columns = [_volume(np.asarray(x, dtype=np.float64), centre) for centre in self.centres]
        return np.stack(columns, 1) < 0 if columns else np.zeros((len(x), 0), dtype=bool)

    def turned(self, x) -> np.ndarray:
        """Which rigid torsions are on the other side, cis for trans, shape (n, r)."""
        columns = [np.abs(torsions(x, atoms)) > 90 for atoms in self.rigid]
        return np.not_equal(np.stack(columns, 1), self.trans) if columns else np.zeros((len(x), 0), dtype=bool)

    def of_one_hand(self, x: np.ndarray) -> np.ndarray:
        """Positions with mirror images of the molecule, which have all stereocentres inverted, reflected back."""
        if not self.centres:
            return x
        sign = np.where(self.inverted(x).all(1), -1, 1).astype(x.dtype)
        return x * sign[:, None, None]


def _volume(x: np.ndarray, centre: tuple[int, int, int, int]) -> np.ndarray:
    """Triple product (n,) of the directions from an atom to three others."""
    a, b, c = (x[:, k] - x[:, centre[0]] for k in centre[1:])
    return (a * np.cross(b, c)).sum(-1)


def _colours(near: Sequence[frozenset[int]], elements: Sequence[str]) -> list[int]:
    """Numbers that tell atoms apart as far as refinement by their neighbours' (Weisfeiler and Leman, 1968) does."""
    order = sorted(set(elements))
    colours = [order.index(symbol) for symbol in elements]
    for _ in elements:
        seen = [(colours[k], tuple(sorted(colours[j] for j in others))) for k, others in enumerate(near)]
        known = {key: number for number, key in enumerate(sorted(set(seen)))}
        colours = [known[key] for key in seen]
    return colours


def _beyond(b: int, c: int, near: Sequence[Collection[int]]) -> list[int]:
    """Atoms that hang on c, seen from its neighbour b."""
    seen, stack = {b, c}, [k for k in near[c] if k != b]
    while stack:
        atom = stack.pop()
        if atom not in seen:
            seen.add(atom)
            stack.extend(near[atom])
    return sorted(seen - {b, c})


def _turning(
    topology: Topology, elements: Sequence[str], near: Sequence[frozenset[int]], rigid: Collection[frozenset[int]]
) -> tuple[tuple[int, int, int, int], ...]:
    """See `Chemistry`."""
    labels, found = topology.labels(elements), []
    for b, c in topology.bonds:
        ends = [sorted(near[k] - {other}, key=lambda j: (elements[j] == "H", j)) for k, other in ((b, c), (c, b))]
        spins = any(_are_alike(others, labels) for others in ends)
        if all(ends) and not spins and frozenset((b, c)) not in rigid and not _in_ring(b, c, near):
            found.append((ends[0][0], b, c, ends[1][0]))
    return tuple(found)


def _are_alike(atoms: Collection[int], labels: Sequence[int]) -> bool:
    """Whether these are several, all of one label."""
    return len(atoms) > 1 and len({labels[k] for k in atoms}) == 1


def _is_amide(n: int, c: int, near: Sequence[frozenset[int]], elements: Sequence[str]) -> bool:
    """A nitrogen atom of three neighbours beside a carbon atom of three, one of which is a lone oxygen atom."""
    if elements[n] != "N" or elements[c] != "C" or len(near[n]) != 3 or len(near[c]) != 3:
        return False
    return any(elements[k] == "O" and len(near[k]) == 1 for k in near[c])


def _is_double(a: int, b: int, near: Sequence[frozenset[int]], elements: Sequence[str], angstrom: float) -> bool:
    flat = len(near[a]) == 3 and len(near[b]) == 3 and elements[a] == elements[b] == "C"
    return flat and angstrom < DOUBLE and not _in_ring(a, b, near)


def _in_ring(a: int, b: int, near: Sequence[frozenset[int]]) -> bool:
    """Whether there is another way from one atom to the other than their bond."""
    return any(b in near[k] for k in _beyond(b, a, near)) if len(near[a]) > 1 else False
