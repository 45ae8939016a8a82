"""Energy calls that are never made twice: each is on disk before the next one is made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..energies import Energy
from ..errors import EnergyError, FileFormatError, UsageError
from .fit import Frames

__all__ = ["Recorded"]

MAGIC = "idem-md energy calls 1"
# Seconds of energy calls between two writes, about; a call that takes longer is written by itself.
SECONDS_A_WRITE = 1.0
# Share of calls that may fail, and so many may in any case.
MAX_FAILED, FEW_FAILED = 0.05, 3


class Recorded(Energy):
    """An energy whose results are kept in a file, and taken from there when the same configuration is asked for again.

    A procedure that is repeatable is therefore resumed by doing it again: what it asked for before costs nothing.
    Configurations on which the code behind the energy fails count as infinitely high, as overlapping atoms do, and are
    kept as failed.

    Parameters
    ----------
    energy : Energy
    path : Path
        Created, or gone on with. A result that was half written when a process died is dropped.

    Attributes
    ----------
    known : int
        Results that were in the file at the beginning.
    made : int
        Calls that were made since then.
    failed : int
        Configurations that failed, those of before included.
    cause : str
        What the first of them in this process failed of.

    Raises
    ------
    FileFormatError
        A file of something else, or of another potential.
    UsageError
        It cannot be written.

    Notes
    -----
    If more than one call in twenty fails, the last failure is raised.
    """

    users_code = False

    def __init__(self, energy: Energy, path: Path):
        super().__init__(energy.n_atoms, energy.n_dims)
        self.energy, self.path, self.made = energy, Path(path), 0
        self._width = 2 * energy.n_atoms * energy.n_dims + 1
        self._rows: dict[bytes, int] = {}
        self._table = np.empty((0, self._width))
        self._new: list[np.ndarray] = []
        header = {"format": MAGIC, "parameters": energy.parameters, "shape": [energy.n_atoms, energy.n_dims]}
        self._header = (json.dumps(header, sort_keys=True) + "\n").encode()
        self._open()
        self.known, self.cause = len(self._table), ""
        self.failed = int(np.isnan(self._table).any(1).sum())
        self.floor = energy.floor

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the energy."""
        return self.energy.parameters

    def _open(self) -> None:
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(self._header)
            with self.path.open("r+b") as file:
                first = file.readline()
                if first != self._header:
                    raise FileFormatError(
                        f"{self.path}: expected energy calls of this potential, got {_told(first)}; choose another "
                        "folder, or remove it"
                    )
                whole = (os.path.getsize(self.path) - len(first)) // (8 * self._width)
                data = file.read(whole * 8 * self._width)
                file.truncate(len(first) + len(data))
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        self._table = np.frombuffer(data, dtype="<f8").reshape(-1, self._width).copy()
        size = self.n_atoms * self.n_dims
        self._rows = {row[:size].tobytes(): k for k, row in enumerate(self._table)}

    def _row(self, key: bytes) -> np.ndarray:
        k = self._rows[key]
        return self._table[k] if k < len(self._table) else self._new[k - len(self._table)]

    def evaluate(self, x):
        """See `Energy.evaluate`: known results from the file, others by the energy, a few at a time."""
        rows = x.detach().cpu().double().reshape(len(x), -1).numpy()
        keys = [row.astype("<f8").tobytes() for row in rows]
        new = list(dict.fromkeys(k for k, key in enumerate(keys) if key not in self._rows))
        new = [k for k in new if keys.index(keys[k]) == k] if len(set(keys)) < len(keys) else new
        each = self.energy.seconds_a_call
        size = max(int(SECONDS_A_WRITE / each), 1) if each else 1
        for first in range(0, len(new), size):
            some = new[first : first + size]
            self._add([keys[k] for k in some], rows[some], *self._evaluated(x[some].double()))
        found = np.stack([self._row(key) for key in keys]) if keys else np.empty((0, self._width))
        size = self.n_atoms * self.n_dims
        u, f = torch.from_numpy(found[:, size].copy()), torch.from_numpy(found[:, size + 1 :].copy())
        u, f = u.nan_to_num(nan=torch.inf, posinf=torch.inf), f.nan_to_num(nan=0.0)
        return u.to(x.device), f.reshape(x.shape).to(x.device, x.dtype)

    def _evaluated(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces; NaN where the code behind the energy fails."""
        try:
            u, f = self.energy._evaluate_as_written(x)
            wrong = torch.isnan(u) | (u == -torch.inf) | ~torch.isfinite(f).flatten(1).all(1)
            if not bool(wrong.any()):
                return u, f
            problem = EnergyError(f"expected a number and finite forces, got u = {float(u[wrong][0]):g} kT")
        except EnergyError as error:
            problem = error
        if len(x) > 1:
            parts = [self._evaluated(one) for one in x.split(1)]
            u, f = (torch.cat(column) for column in zip(*parts))
            return u, f
        self.failed, self.cause = self.failed + 1, self.cause or str(problem)
        if self.failed > max(FEW_FAILED, MAX_FAILED * (self.known + self.made)):
            raise EnergyError(
                f"{self.failed} of {self.known + self.made + 1} energy calls failed, the last one: {problem}"
            )
        return torch.full((1,), torch.nan, dtype=torch.float64), torch.full_like(x, torch.nan)

    def _add(self, keys: list[bytes], x: np.ndarray, u: torch.Tensor, f: torch.Tensor) -> None:
        forces = f.detach().cpu().double().reshape(len(u), -1).numpy()
        block = np.concatenate([x, u.detach().cpu().double().numpy()[:, None], forces], 1).astype("<f8")
        with self.path.open("ab") as file:
            file.write(block.tobytes())
            file.flush()
            os.fsync(file.fileno())
        for key, row in zip(keys, block):
            self._rows[key] = len(self._table) + len(self._new)
            self._new.append(row)
        self.made += len(keys)
        self.seconds_a_call = self.energy.seconds_a_call

    def frames(self) -> Frames:
        """All results of finite energy, in the order in which they came."""
        table = np.concatenate([self._table, np.stack(self._new)]) if self._new else self._table
        size = self.n_atoms * self.n_dims
        rows, shape = torch.from_numpy(table[np.isfinite(table).all(1)].copy()), (-1, self.n_atoms, self.n_dims)
        return Frames(rows[:, :size].reshape(shape), rows[:, size], rows[:, size + 1 :].reshape(shape))


def _told(first: bytes) -> str:
    try:
        return f"those of {json.loads(first)['parameters']}"
    except (ValueError, KeyError, TypeError):
        return "another file"
