"""Names, residues, chains and bonds of atoms, for files and for which atoms are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import ase

__all__ = ["COVALENT", "Topology", "reach"]

# Elements of molecules, whose atoms keep their neighbours.
COVALENT = frozenset("H B C N O F Si P S Cl Ge As Se Br Te I".split())
# Two atoms are bonded if they are no farther apart than so many times the sum of their covalent radii.
REACH = 1.2
# The name that the Protein Data Bank has for a residue of which nothing is known.
UNKNOWN = "UNL"


def reach(one: str, other: str) -> float:
    """Å that two atoms may be apart and bonded."""
    from ase.data import atomic_numbers, covalent_radii

    return REACH * float(covalent_radii[atomic_numbers.get(one, 0)] + covalent_radii[atomic_numbers.get(other, 0)])


@dataclass(frozen=True)
class Topology:
    """What files and users call the atoms of a system, and which are bonded.

    Attributes
    ----------
    names : tuple of str
        Of each atom.
    residue_of : tuple of int
        For each atom the number of its residue, 0, 1, ...
    residues : tuple of (str, str, str)
        Name, number and chain of each; a number or chain may be empty.
    bonds : tuple of (int, int)
    source : str
        Where the bonds are from: ``topology``, ``force field``, ``distances``, or empty if there are none.
    """

    names: tuple[str, ...]
    residue_of: tuple[int, ...]
    residues: tuple[tuple[str, str, str], ...]
    bonds: tuple[tuple[int, int], ...] = ()
    source: str = ""

    @classmethod
    def loose(cls, elements: Sequence[str]) -> Topology:
        """Free atoms, each a residue of its own named after its element, as force fields of noble gases expect."""
        n = len(elements)
        return cls(tuple(elements), tuple(range(n)), tuple((symbol.upper(), "", "") for symbol in elements))

    @classmethod
    def of_openmm(cls, topology: Any) -> Topology:
        """The topology that an `openmm.app.Topology` describes."""
        bonds = tuple((bond[0].index, bond[1].index) for bond in topology.bonds())
        residues = tuple((r.name, str(r.id), str(r.chain.id)) for r in topology.residues())
        names, of = tuple(a.name for a in topology.atoms()), tuple(a.residue.index for a in topology.atoms())
        return cls(names, of, residues, bonds, "topology" if bonds else "")

    @classmethod
    def of_bonds(cls, elements: Sequence[str], bonds: Iterable[tuple[int, int]], source: str) -> Topology:
        """A molecule without names: its atoms are numbered by element, and are one residue."""
        seen: dict[str, int] = {}
        names = []
        for symbol in elements:
            seen[symbol] = seen.get(symbol, 0) + 1
            names.append(f"{symbol}{seen[symbol]}")
        return cls(tuple(names), (0,) * len(names), ((UNKNOWN, "1", "A"),), tuple(bonds), source)

    @classmethod
    def of_atoms(cls, atoms: ase.Atoms) -> Topology | None:
        """A molecule of ASE, its bonds by distances; None for a cluster of atoms: of one element, or with metals.

        Names and residues are those that ASE reads from PDB files, if it has read one.
        """
        elements = atoms.get_chemical_symbols()
        if not COVALENT.issuperset(elements) or (len(set(elements)) == 1 and len(elements) > 2):
            return None
        apart = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=-1)
        i, j = np.nonzero(np.tril(apart <= np.array([[reach(a, b) for a in elements] for b in elements]), -1))
        bonds = tuple(zip(map(int, j), map(int, i)))
        found = cls.of_bonds(elements, bonds, "distances" if bonds else "")
        kept = [atoms.arrays.get(key) for key in ("atomtypes", "residuenames", "residuenumbers")]
        if any(column is None for column in kept):
            return found
        names, of, residues = [], [], list[tuple[str, str, str]]()
        for name, residue, number in zip(*(column.tolist() for column in kept if column is not None)):
            here = (str(residue).strip(), str(number), "A")
            if not residues or residues[-1] != here:
                residues.append(here)
            names.append(str(name).strip())
            of.append(len(residues) - 1)
        return cls(tuple(names), tuple(of), tuple(residues), bonds, found.source)

    def number(self, residue: int) -> int | None:
        """The number of a residue, if it is a whole one."""
        text = self.residues[residue][1]
        return int(text) if text.lstrip("-").isdigit() else None

    def neighbours(self) -> list[frozenset[int]]:
        """The atoms that each is bonded to."""
        near: list[set[int]] = [set() for _ in self.names]
        for a, b in self.bonds:
            near[a].add(b)
            near[b].add(a)
        return [frozenset(others) for others in near]

    def labels(self, elements: Sequence[str]) -> tuple[int, ...]:
        """Equal numbers for atoms of one element of which *any two alone* can be exchanged without changing the bonds:
        the hydrogens of a methyl group, not the two ends of butane."""
        near, labels = self.neighbours(), list[int]()
        for i, symbol in enumerate(elements):
            alike = (
                labels[k] for k in range(i) if elements[k] == symbol and near[k] - {i} == near[i] - {k}
            )  # an equivalence, so the first will do
            labels.append(next(alike, max(labels, default=-1) + 1))
        return tuple(labels)

    def fragments(self) -> list[list[int]]:
        """Atoms of each molecule: those that bonds connect."""
        near, left, found = self.neighbours(), set(range(len(self.names))), []
        while left:
            stack, atoms = [min(left)], set[int]()
            while stack:
                atom = stack.pop()
                if atom not in atoms:
                    atoms.add(atom)
                    stack.extend(near[atom] - atoms)
            found.append(sorted(atoms))
            left -= atoms
        return found

    def openmm(self, elements: Sequence[str]) -> Any:
        """The same for OpenMM, an `openmm.app.Topology`."""
        from openmm import app

        topology, residues, last = app.Topology(), [], None
        for name, number, chain in self.residues:
            if last is None or chain != last[0]:
                last = chain, topology.addChain(chain or None)
            residues.append(topology.addResidue(name, last[1], number or None))
        atoms = [
            topology.addAtom(name, None if symbol == "X" else app.Element.getBySymbol(symbol), residues[k])
            for name, symbol, k in zip(self.names, elements, self.residue_of)
        ]
        for a, b in self.bonds:
            topology.addBond(atoms[a], atoms[b])
        return topology

    def mdtraj(self, elements: Sequence[str]) -> Any:
        """The same for MDTraj, an `mdtraj.Topology`."""
        import mdtraj

        topology, residues, last = mdtraj.Topology(), [], None
        for k, (name, _, chain) in enumerate(self.residues):
            if last is None or chain != last[0]:
                last = chain, topology.add_chain(chain or None)
            residues.append(topology.add_residue(name, last[1], self.number(k)))
        atoms = []
        for name, symbol, k in zip(self.names, elements, self.residue_of):
            kind = mdtraj.element.virtual if symbol == "X" else mdtraj.element.get_by_symbol(symbol)
            atoms.append(topology.add_atom(name, kind, residues[k]))
        for a, b in self.bonds:
            topology.add_bond(atoms[a], atoms[b])
        return topology

    def table(self) -> dict[str, Any]:
        """The same as JSON; the inverse is `of_table`."""
        return {
            "names": list(self.names),
            "residue_of": list(self.residue_of),
            "residues": [list(residue) for residue in self.residues],
            "bonds": [list(bond) for bond in self.bonds],
            "source": self.source,
        }

    @classmethod
    def of_table(cls, table: Mapping[str, Any], n_atoms: int) -> Topology:
        """A topology from `table`.

        Raises
        ------
        KeyError, TypeError, ValueError
            Not such a table, or not of so many atoms.
        """
        names, of = tuple(map(str, table["names"])), tuple(map(int, table["residue_of"]))
        residues = tuple((str(name), str(number), str(chain)) for name, number, chain in table["residues"])
        bonds = tuple((int(a), int(b)) for a, b in table["bonds"])
        atoms = {*range(n_atoms)}
        if len(names) != n_atoms or len(of) != n_atoms or not atoms.issuperset(sum(bonds, ())):
            raise ValueError(f"topology: expected that of {n_atoms} atoms")
        if not {*range(len(residues))}.issuperset(of):
            raise ValueError(f"topology: expected atoms of {len(residues)} residues")
        return cls(names, of, residues, bonds, str(table["source"]))
