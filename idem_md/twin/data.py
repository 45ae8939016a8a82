"""Energies and forces that the user already has, for a twin to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..energies import Energy
from ..errors import UsageError
from ..geometry import centred
from ..systems import System
from ..tensor_files import read_tensors, write_tensors
from .fit import Frames

__all__ = ["data_of", "forget_data"]

SUFFIXES = (".extxyz", ".xyz", ".db")
# The data of a run, which goes on with them whatever becomes of the user's file.
COPY = "data.safetensors"
# kT by which energies, and part of their root mean square by which forces, of the data and of the potential may differ.
OFF, FORCES_OFF = 0.05, 0.01


def data_of(folder: Path, source: str, system: System, energy: Energy) -> Frames | None:
    """The data of a run: those that it was begun with, or those of a file, for one energy call; None if there are none.

    Parameters
    ----------
    folder : Path
        Of the run.
    source : str
        Path of the file, or nothing.
    system : System
    energy : Energy
        Of the system, for one call on the first configuration.

    Raises
    ------
    UsageError
        A file that cannot be read, without energies or forces, of other atoms, or of another potential; or another
        one than the run was begun with.
    """
    if (folder / COPY).exists():
        tensors, header = read_tensors(folder / COPY, "data")
        if source and header.get("source") != source:
            raise UsageError(f"data: expected {header.get('source')}, with which the run was begun, got {source}")
        return Frames(tensors["x"], tensors["u"], tensors["f"])
    if not source:
        return None
    frames = _read(Path(source), system)
    _check_first(frames, energy, source)
    write_tensors(folder / COPY, "data", {"x": frames.x, "u": frames.u, "f": frames.f}, {"source": source})
    return frames


def forget_data(folder: Path) -> None:
    """Remove the data of a run."""
    (folder / COPY).unlink(missing_ok=True)


def _read(path: Path, system: System) -> Frames:
    """Configurations, energies and forces of a file, in the units of the system and with its trap."""
    import ase.io
    from ase.calculators.calculator import PropertyNotImplementedError

    if path.suffix not in SUFFIXES:
        raise UsageError(f"data: expected a file {', '.join(SUFFIXES)}, got {path}")
    try:
        found = ase.io.read(path, index=":")
    except Exception as error:  # whatever a damaged file makes of a reader
        raise UsageError(f"data: {path} cannot be read ({type(error).__name__}: {error})") from None
    if not found:
        raise UsageError(f"data: expected configurations in {path}, there are none")
    x, u, f = [], [], []
    for k, atoms in enumerate(found):
        if tuple(atoms.symbols) != system.elements:
            raise UsageError(
                f"data: expected the atoms {''.join(system.elements)} in this order, configuration {k} of {path} has "
                f"{''.join(atoms.symbols)}"
            )
        try:
            u.append(atoms.get_potential_energy(apply_constraint=False))
            f.append(atoms.get_forces(apply_constraint=False))
        except (RuntimeError, PropertyNotImplementedError):
            raise UsageError(f"data: expected energies and forces, configuration {k} of {path} lacks them") from None
        x.append(atoms.positions)
    units = system.units
    positions = centred(torch.from_numpy(np.array(x) / units.length_angstrom))
    energies = torch.from_numpy(np.array(u) / units.kT_eV)
    forces = torch.from_numpy(np.array(f) * units.length_angstrom / units.kT_eV)
    trap = (system.trap or 0.0) * units.length_angstrom**2
    frames = Frames(positions, energies + 0.5 * trap * (positions**2).sum((1, 2)), forces - trap * positions)
    for name, a in zip(("positions", "energies", "forces"), frames.arrays):
        if not bool(torch.isfinite(a).all()):
            raise UsageError(f"data: expected finite {name} in {path}")
    return frames


def _check_first(frames: Frames, energy: Energy, source: str) -> None:
    """One call of the potential, on the first configuration."""
    u, f = energy(frames.x[:1])
    off, scale = abs(float(u[0] - frames.u[0])), float(frames.f[0].square().mean().sqrt())
    forces_off = float((f[0] - frames.f[0]).square().mean().sqrt()) / max(scale, 1.0)
    if not (off <= OFF and forces_off <= FORCES_OFF):
        raise UsageError(
            f"data: expected energies and forces of this potential in {source}; on the first configuration it gives "
            f"{float(u[0]):.6g} kT with the trap, the file {float(frames.u[0]):.6g} kT, and forces differ by "
            f"{100 * forces_off:.2g}%"
        )
