"""Where samplers are kept that were trained at first use, and which potential a folder belongs to."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..checks import check_float
from ..energies import ASE, Topology
from ..energies.native_ase import NativePotential, added_trap, native_energy
from ..errors import FileFormatError, UsageError
from ..progress import reported
from ..systems import Chemistry, System, nearest_neighbour_distance

__all__ = ["cache_folder", "check_cache", "name_and_trap", "read_card", "system_of"]


def cache_folder(name: str) -> Path:
    """Where samplers are kept that were given no place."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idem-md" / name
    except RuntimeError:  # nobody's home
        raise UsageError("cache: expected a folder for the trained sampler, there is no home directory") from None


def check_cache(folder: Path) -> None:
    """Raises `UsageError` if nothing can be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cache: cannot write to {folder}; give cache= another folder")


@reported("looking at the potential")
def name_and_trap(atoms: Atoms, temperatures_K: Sequence[float], trap: float | None, labels=None) -> tuple[str, float]:
    """What the cache calls this potential at one temperature or from the first to the last, and the stiffness to add in
    kT / Å^2."""
    if atoms.calc is None:
        raise UsageError("atoms: expected a calculator, got none")
    if trap is not None:
        added = check_float("trap", trap, minimum=0.0)
    else:
        added = added_trap(atoms)
    name, kelvins = getattr(atoms.calc, "name", None), "-".join(f"{kelvin:g}" for kelvin in temperatures_K)
    calculator = name if isinstance(name, str) else type(atoms.calc).__name__
    label = f"{atoms.get_chemical_formula()}-{calculator}-{kelvins}K-trap{added:.3g}"
    label += "" if labels is None else f"-{zlib.crc32(repr(tuple(labels)).encode()):08x}"
    if (topology := Topology.of_atoms(atoms)) is not None and topology.bonds:  # isomers have one formula
        label += f"-{Chemistry.of(topology, atoms.get_chemical_symbols(), atoms.positions, 1.0).digest}"
    return re.sub(r"[^A-Za-z0-9.-]+", "-", label), added


def system_of(
    atoms: Atoms,
    temperature_K: float,
    trap: float,
    workers: int | None,
    name: str,
    length_angstrom: float | None,
    labels=None,
) -> System:
    """The atoms' potential in units of kT and of a length, by default the distance of nearest neighbours (r_min for
    Lennard-Jones)."""
    if isinstance(atoms.calc, NativePotential) and workers is not None:
        raise UsageError("workers: expected none for the native potential, which has its own threads")
    energy = native_energy(atoms, temperature_K, trap, length_angstrom) if workers is None else None
    if energy is None:
        length = nearest_neighbour_distance(atoms.positions) if length_angstrom is None else length_angstrom
        energy = ASE(atoms, temperature_K=temperature_K, length_angstrom=length, trap=trap, workers=workers)
    return System.of_energy(energy, atoms.positions, name, labels)


def read_card(folder: Path) -> dict[str, Any] | None:
    """What the sampler in a cache folder was trained for, or None if there is none."""
    card = folder / "potential.json"
    if not card.exists():
        if (folder / "state.safetensors").exists() or (folder / "model.safetensors").exists():
            raise FileFormatError(
                f"{folder}: holds a run of unknown origin; pass it as checkpoint=, or choose another folder (cache=)"
            )
        return None
    try:
        table = json.loads(card.read_text())
        return {
            "length_angstrom": float(table["length_angstrom"]),
            "sigma_data": float(table["sigma_data"]),
            "labels": table.get("labels"),  # the first version had none
            "isomer": table.get("isomer"),  # nor this
            "temperatures": None if table.get("temperatures") is None else tuple(map(float, table["temperatures"])),
            "positions": np.array(table["positions"], dtype=np.float64),
            "energies": np.array(table["energies"], dtype=np.float64),
        }
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{card}: expected what a sampler was trained for, it cannot be read ({error})") from None
