"""H5MD, in Å (de Buyl, Colberg & Höfling, Comput. Phys. Commun. 185, 1546, 2014): MDAnalysis, ESPResSo."""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...extras import import_extra
from .base import Contents, register_format

__all__ = ["write_h5md"]


@register_format(".h5md")
def write_h5md(path: Path, contents: Contents) -> None:
    """Write H5MD; failed samples are there, as NaN with a log weight of -inf. Needs h5py, the extra ``h5md``."""
    h5py = import_extra("h5py", "h5md", "out")
    n, steps = len(contents.energies), np.arange(len(contents.energies))
    # In memory: on a full disk HDF5 loses its temper in places where no exception can be caught.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        root = file.create_group("h5md")
        root.attrs["version"] = np.array([1, 1])
        root.create_group("author").attrs["name"] = "unknown"
        creator = root.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "idem-md", version("idem-md")
        atoms = file.create_group("particles/atoms")
        box = atoms.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, np.array([b"none"] * 3)
        atoms["species"] = np.array(contents.elements, dtype="S")

        if contents.topology.bonds:
            bonds = file.create_dataset("connectivity/bonds", data=np.array(contents.topology.bonds, dtype=np.int32))
            bonds.attrs["particles_group"] = atoms.ref
            atoms["name"] = np.array(contents.topology.names, dtype="S")

        def series(name: str, values: np.ndarray, unit: str) -> None:
            group = file.create_group(name)
            group["step"], group["time"], group["value"] = steps, steps.astype(float), values
            group["time"].attrs["unit"] = "ps"  # samples have no time; readers want one
            if unit:
                group["value"].attrs["unit"] = unit

        series("particles/atoms/position", contents.angstrom, "Angstrom")
        series("observables/log_weight", contents.log_weights, "")
        series("observables/reduced_energy", contents.energies, "")
        file["observables/log_weight/value"].attrs["description"] = contents.weights_are
        file["observables/reduced_energy/value"].attrs["description"] = f"U/kT of {n} samples"
    path.write_bytes(buffer.getvalue())
