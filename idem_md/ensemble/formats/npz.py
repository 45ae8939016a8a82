"""NPZ in full precision: what `load_ensemble` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...provenance import bare
from .base import Contents, register_format

__all__ = ["write_npz"]


@register_format(".npz")
def write_npz(path: Path, contents: Contents) -> None:
    """Positions in reduced length, energies in kT, log weights, and the provenance as JSON."""
    columns: dict[str, Any] = {
        "positions": contents.positions,
        "energies": contents.energies,
        "log_weights": contents.log_weights,
        "provenance": np.array(json.dumps(contents.record, sort_keys=True, default=bare)),
    }
    with open(path, "wb") as handle:
        np.savez(handle, **columns)
