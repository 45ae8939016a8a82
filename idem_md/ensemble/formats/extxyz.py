"""Extended XYZ, in Å and eV: ASE, OVITO, training sets of potentials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import Contents, register_format

if TYPE_CHECKING:
    import ase

__all__ = ["to_atoms", "write_extxyz"]


@register_format(".extxyz")
def write_extxyz(path: Path, contents: Contents) -> None:
    """A frame a sample, failed ones left out, with ``info["log_weight"]``, explained in ``log_weight_is``."""
    import ase.io

    ase.io.write(path, to_atoms(contents), format="extxyz")


def _names(contents: Contents) -> dict[str, np.ndarray]:
    """Names and residues of a molecule's atoms, as ASE calls them when it reads a PDB."""
    top = contents.topology
    if not top.bonds:
        return {}
    numbers = [k + 1 if (number := top.number(k)) is None else number for k in top.residue_of]
    return {
        "atomtypes": np.array(top.names),
        "residuenames": np.array([top.residues[k][0] for k in top.residue_of]),
        "residuenumbers": np.array(numbers),
    }


def to_atoms(contents: Contents) -> list[ase.Atoms]:
    """What `write_extxyz` writes; ``info["sample"]`` is the number of the sample among all, failed ones included."""
    import ase
    from ase.calculators.singlepoint import SinglePointCalculator

    x, kT, frames, names = contents.angstrom, contents.units.kT_eV, [], _names(contents)
    for k in contents.alive.nonzero()[0].tolist():
        info = {
            "log_weight": float(contents.log_weights[k]),
            "log_weight_is": contents.weights_are,
            "sample": k,
        }
        atoms = ase.Atoms(contents.elements, positions=x[k], info=info)
        atoms.arrays.update({key: column.copy() for key, column in names.items()})
        atoms.calc = SinglePointCalculator(atoms, energy=float(contents.energies[k]) * kT)
        frames.append(atoms)
    return frames
