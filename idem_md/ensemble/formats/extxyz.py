"""Extended XYZ, in Å and eV: ASE, OVITO, training sets of potentials."""

from __future__ import annotations

from pathlib import Path

from .base import Contents, register_format

__all__ = ["write_extxyz"]


@register_format(".extxyz")
def write_extxyz(path: Path, contents: Contents) -> None:
    """A frame a sample, failed ones left out, with ``info["log_weight"]``, explained in ``log_weight_is``."""
    import ase
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    alive, kT = contents.alive, contents.units.kT_eV
    frames = []
    for x, u, log_w in zip(contents.angstrom[alive], contents.energies[alive], contents.log_weights[alive]):
        info = {"log_weight": float(log_w), "log_weight_is": contents.weights_are}
        atoms = ase.Atoms(contents.elements, positions=x, info=info)
        atoms.calc = SinglePointCalculator(atoms, energy=float(u) * kT)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
