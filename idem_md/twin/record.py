"""Energy calls that are never made twice: each is on disk soon after it was made."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..energies import Energy, ForeignEnergy, Scaled, bare
from ..ensemble.joining import refuse_other_potential
from ..errors import BudgetExhausted, EnergyError, FileFormatError, UsageError
from .fit import Frames

__all__ = ["Recorded", "parameters_of"]

FORMAT = "idem-md energy calls 1"
# Seconds of energy calls between two writes, about; a call that takes longer is written by itself.
SECONDS_A_WRITE = 1.0
# Seconds of a call from which on every process is given one configuration at a time, and how many an executor is given
# that does not say how many processes it has.
SLOW, EXECUTOR_BATCH = 0.01, 64
# Share of calls that may fail, and so many may in any case.
MAX_FAILED, FEW_FAILED = 0.05, 3


class Recorded(Energy):
    """An energy whose results are kept in a file, and taken from there when the same configuration is asked for again.

    A procedure that is repeatable is therefore resumed by doing it again: what it asked for before costs nothing, and
    neither counts as a call nor towards ``max_calls``. Configurations on which the code behind the energy fails count
    as infinitely high, as overlapping atoms do; another process asks for them again.

    Parameters
    ----------
    energy : Energy
    path : Path
        Created, or gone on with. A result that was half written when a process died is dropped.

    Attributes
    ----------
    calls : int
        Results in the file.
    failed : int
        Configurations that failed in this process.
    cause : str
        What the first of them failed of.

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
        self.energy, self.path, self.floor = energy, Path(path), energy.floor
        self.failed, self.cause = 0, ""
        self._size = energy.n_atoms * energy.n_dims
        self._rows = self._opened()
        # What failed before may have been a full disk.
        self._index = {row[: self._size].tobytes(): k for k, row in enumerate(self._rows) if not np.isnan(row).any()}
        self.calls = len(self._rows)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the energy."""
        return self.energy.parameters

    def _opened(self) -> list[np.ndarray]:
        """Rows of positions, energy and forces of the file, which is made if there is none."""
        ours = {"format": FORMAT, "parameters": self.parameters, "shape": [self.n_atoms, self.n_dims]}
        width = 2 * self._size + 1
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes((json.dumps(ours, sort_keys=True) + "\n").encode())
            with self.path.open("r+b") as file:
                first = file.readline()
                self._check_header(_header(first), ours)
                whole = (os.path.getsize(self.path) - len(first)) // (8 * width)
                data = file.read(whole * 8 * width)
                file.truncate(len(first) + len(data))
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        return list(np.frombuffer(data, dtype="<f8").reshape(-1, width).copy())

    def _check_header(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        remedy = "choose another folder, or remove the file"
        if any(theirs.get(key) != ours[key] for key in ("format", "shape")):
            raise FileFormatError(f"{self.path}: expected energy calls of this potential, got another file; {remedy}")
        try:
            refuse_other_potential("parameters", ours["parameters"], theirs["parameters"])
        except (UsageError, KeyError, AttributeError) as error:
            raise FileFormatError(
                f"{self.path}: expected energy calls of this potential, got others ({error}); {remedy}"
            ) from None

    def afford(self, n: int) -> None:
        """Nothing: it is not known yet how many of them are known."""

    def count(self, n: int) -> None:
        """Only tell: calls are counted as they are made."""
        if self.on_count is not None:
            self.on_count(self.calls)

    def evaluate(self, x):
        """See `Energy.evaluate`: known results from the file, others by the energy, a few at a time."""
        rows = x.detach().cpu().double().reshape(len(x), -1).numpy().astype("<f8")
        keys = [row.tobytes() for row in rows]
        new = list({key: k for k, key in enumerate(keys) if key not in self._index}.values())
        size = self._at_once()
        for first in range(0, len(new), size):
            some = new[first : first + size]
            if self.max_calls is not None and self.calls + len(some) > self.max_calls:
                raise BudgetExhausted(
                    f"energy calls: {self.calls} made, {len(some)} more would exceed the budget of {self.max_calls}"
                )
            self._evaluate(rows[some], x[some].double())
        found = np.stack([self._rows[self._index[key]] for key in keys]) if keys else np.empty((0, 2 * self._size + 1))
        u, f = (torch.from_numpy(a.copy()) for a in (found[:, self._size], found[:, self._size + 1 :]))
        u, f = u.nan_to_num(nan=torch.inf, posinf=torch.inf), f.nan_to_num(nan=0.0)
        return u.to(x.device), f.reshape(x.shape).to(x.device, x.dtype)

    def _evaluate(self, rows: np.ndarray, x: torch.Tensor) -> None:
        """Ask the energy, and write what it says; NaN where it fails."""
        try:
            u, f = self.energy._evaluate_as_written(x)
            wrong = torch.isnan(u) | (u == -torch.inf) | ~torch.isfinite(f).flatten(1).all(1)
            if not bool(wrong.any()):
                return self._write(rows, u, f)
            problem = f"expected a number and finite forces, got u = {float(u[wrong][0]):g} kT"
        except EnergyError as error:
            problem = str(error)
        if len(x) > 1:
            for k in range(len(x)):
                self._evaluate(rows[k : k + 1], x[k : k + 1])
            return None
        self.failed, self.cause = self.failed + 1, self.cause or problem
        self._write(rows, torch.full((1,), torch.nan, dtype=torch.float64), torch.full_like(x, torch.nan))
        if self.failed > max(FEW_FAILED, MAX_FAILED * self.calls):
            raise EnergyError(f"{self.failed} of {self.calls} energy calls failed, the last one: {problem}")
        return None

    def _at_once(self) -> int:
        """Calls between two writes."""
        energy, processes = bare(self.energy), 1
        each = energy.seconds_a_call
        if isinstance(energy, ForeignEnergy):
            processes = EXECUTOR_BATCH if energy.has_executor else energy.processes
            if energy.chunk_size > 1 and each * energy.processes > SLOW:
                self.energy = _one_at_a_time(self.energy)
        return max(int(SECONDS_A_WRITE / each) if each else 1, processes)

    def _write(self, x: np.ndarray, u: torch.Tensor, f: torch.Tensor) -> None:
        energies, forces = (a.detach().cpu().double().reshape(len(u), -1).numpy() for a in (u, f))
        block = np.concatenate([x, energies, forces], 1).astype("<f8")
        with self.path.open("ab") as file:
            file.write(block.tobytes())
            file.flush()
            os.fsync(file.fileno())
        for row in block:
            self._index[row[: self._size].tobytes()] = len(self._rows)
            self._rows.append(row)
        self.calls = len(self._rows)
        self.seconds_a_call = bare(self.energy).seconds_a_call

    def frames(self) -> Frames:
        """All results that are numbers, in the order in which they came."""
        rows = torch.from_numpy(np.stack([row for row in self._rows if np.isfinite(row).all()]))
        shape, size = (-1, self.n_atoms, self.n_dims), self._size
        return Frames(rows[:, :size].reshape(shape), rows[:, size], rows[:, size + 1 :].reshape(shape))


def _one_at_a_time(energy: Energy) -> Energy:
    """A copy of foreign code whose processes are given one configuration after the other."""
    energy = copy.copy(energy)
    if isinstance(energy, Scaled):
        energy.energy = _one_at_a_time(energy.energy)
    elif isinstance(energy, ForeignEnergy):
        energy.chunk_size = 1
    return energy


def parameters_of(path: Path) -> dict[str, Any]:
    """Parameters of the energy whose results are in a file; empty if it is not there, or says none."""
    try:
        with path.open("rb") as file:
            found = _header(file.readline()).get("parameters")
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}
