"""Samplers trained at first use, and found again: which potential a folder belongs to."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..checks import check_float, energies_agree
from ..energies import ASE
from ..energies.native_ase import NativePotential, added_trap, native_energy
from ..errors import FileFormatError, UsageError
from ..files import write_atomic
from ..systems import System, nearest_neighbour_distance
from ..training import TrainingConfig, load_checkpoint, run_config, run_samples, train
from ..tuning import HeadTraining, tune

__all__ = ["cache_folder", "check_cache", "name_and_trap", "read_card", "system_of", "train_once"]

# Training steps of the elastic network at first use: most of what longer ones give, in a few minutes.
ELASTIC_NETWORK_STEPS = 1000


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
            "temperatures": None if table.get("temperatures") is None else tuple(map(float, table["temperatures"])),
            "positions": np.array(table["positions"], dtype=np.float64),
            "energies": np.array(table["energies"], dtype=np.float64),
        }
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{card}: expected what a sampler was trained for, it cannot be read ({error})") from None


def train_once(
    system: System,
    positions,
    folder: Path,
    budget: dict,
    temperatures: tuple[float, float] | None,
    settings: Callable[[], TrainingConfig],
) -> None:
    """Leave a trained sampler in ``folder``: found there, finished from where it stopped, or trained from scratch with
    the ``settings``; then with an elastic network and, if energy calls have no budget, plans."""
    energy, length = system.energy(), system.units.length_angstrom

    def evaluate(x: np.ndarray) -> np.ndarray:
        return energy(torch.from_numpy(x / length))[0].numpy()

    known = read_card(folder)
    if known is not None:
        x = known["positions"]
        if x.shape[1:] != np.shape(positions) or not energies_agree(evaluate(x), known["energies"], 1e-5, 1e-5).all():
            raise FileFormatError(
                f"{folder}: holds a sampler for another potential; choose another folder (cache=) or remove it"
            )
    else:
        # A few geometries and their energies: by them the potential is known again.
        x = np.asarray(positions) + 0.05 * length * np.random.default_rng(0).standard_normal((4, *np.shape(positions)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cache: cannot write to {folder} ({error.strerror}); give cache= another") from None
        write_atomic(
            folder / "potential.json",
            json.dumps(
                {
                    "positions": x.tolist(),
                    "energies": evaluate(x).tolist(),
                    "length_angstrom": length,
                    "sigma_data": system.sigma_data,
                    "labels": system.labels,
                    "temperatures": temperatures,
                }
            ).encode(),
        )
    model = folder / "model.safetensors"
    # Earlier versions trained in a folder of its own and wrote only the tuned model here.
    run = folder / "run" if (folder / "run").is_dir() else folder
    if model.exists() and (run != folder or load_checkpoint(model).expensive is not None):
        return
    resume = (run / "state.safetensors").exists()
    # What was begun goes on with the settings that it began with.
    config = run_config(run) if resume else settings()
    checkpoint = train(config, run, system=system, resume=resume, **budget)
    tune(
        checkpoint,
        run_samples(run),
        model,
        system=system,
        heads=HeadTraining(steps=ELASTIC_NETWORK_STEPS),
        nfes=None if budget["max_energy_calls"] is None else {},
    )
