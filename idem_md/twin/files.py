"""Twins as tensors and JSON, for checkpoints and for what an interrupted making of one had done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..energies import Twin
from ..errors import FileFormatError, IdemError
from ..nets import EnergyNetwork, build_energy_network
from ..systems import System

__all__ = ["twin_of", "twin_table", "twin_tensors"]

# Before the names of tensors.
PREFIX = "twin."


def twin_tensors(twin: Twin) -> dict[str, torch.Tensor]:
    """Weights and least distances, by names that begin with "twin."."""
    assert isinstance(twin.network, EnergyNetwork)
    tensors = {f"{PREFIX}network.{k}": v for k, v in twin.network.state_dict().items()}
    return tensors | {f"{PREFIX}contacts": twin.contacts}


def twin_table(twin: Twin) -> dict[str, Any]:
    """All else as JSON, with the options of the network."""
    assert isinstance(twin.network, EnergyNetwork)
    p = twin.parameters
    return {"network": twin.network.options, **{key: p[key] for key in ("reference_kT", "lowest_kT", "trap", "factor")}}


def twin_of(table: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], system: System, source: str) -> Twin:
    """The twin that `twin_table` and `twin_tensors` describe.

    Raises
    ------
    FileFormatError
        They do not describe one.
    """
    try:
        network = build_energy_network(table["network"], system)
        inner = f"{PREFIX}network."
        network.load_state_dict({k.removeprefix(inner): v for k, v in tensors.items() if k.startswith(inner)})
        contacts = tensors[f"{PREFIX}contacts"]
        if contacts.shape != (system.n_atoms, system.n_atoms) or not all(
            bool(torch.isfinite(t).all()) for k, t in tensors.items() if k.startswith(PREFIX)
        ):
            raise ValueError("expected finite weights, and a least distance for each two atoms")
        return Twin(
            network.eval().requires_grad_(False),
            system.units,
            system.elements,
            reference=float(table["reference_kT"]),
            lowest=float(table["lowest_kT"]),
            contacts=contacts,
            trap=float(table["trap"]),
            factor=float(table["factor"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, IdemError) as error:
        raise FileFormatError(f"{source}: its header does not describe a twin ({error})") from None
