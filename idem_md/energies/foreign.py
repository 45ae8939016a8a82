"""Potentials of other codes, which take one configuration at a time: ASE calculators, OpenMM Systems, yours."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch

from ..checks import check_float, check_int
from ..errors import EnergyError, UsageError
from ..geometry import cubic_lattice
from ..units import Units, as_numbers, in_angstrom
from .base import Energy
from .topology import Topology
from .workers import Evaluations, Recipe

__all__ = ["DEFAULT_TRAP", "MOLECULE_TRAP", "ForeignEnergy", "Recipe", "default_trap"]

# kT / Å^2: a free atom would wander some 4.5 Å a coordinate from the centroid; the binding of a cluster hardly feels
# it.
DEFAULT_TRAP = 0.05
# For a molecule in one piece, whose bonds hold: a trap favours compact conformers.
MOLECULE_TRAP = 0.005


def digest_of(x: np.ndarray) -> str:
    """A geometry (N, D) in Å, about its centroid, in 16 hex digits."""
    return hashlib.sha256((np.round(x, 6) + 0.0).tobytes()).hexdigest()[:16]


def default_trap(topology: Topology | None) -> float:
    """Stiffness in kT / Å^2: 0.05, which keeps a cluster together, or 0.005 for a molecule in one piece."""
    whole = topology is not None and topology.bonds and len(topology.fragments()) == 1
    return MOLECULE_TRAP if whole else DEFAULT_TRAP


class ForeignEnergy(Energy):
    """An energy whose configurations are evaluated one by one, by foreign code.

    Parameters
    ----------
    n_atoms, n_dims : int
    recipe : Recipe
    units : Units
    trap : float or None
        Stiffness in kT / Å^2 of a harmonic trap about the centroid, added to the potential. None:
        `DEFAULT_TRAP`, and of `ASE` and `OpenMM` that of `default_trap`. 0: none, for a potential that confines by
        itself, which is checked.
    workers : int, optional
        Spread batches over that many processes of our own. They import the script that asks for them, which needs
        the usual ``if __name__ == "__main__":``.
    executor : concurrent.futures.Executor, optional
        Spread them over this one instead: ``Client.get_executor()`` of Dask, ``mpi4py.futures.MPIPoolExecutor``, a pool
        of your own. It is not shut down.
    chunk_size : int
        Configurations a task. The cut depends on nothing else; nor do the numbers, if the calculator has no memory.
    reference : array, shape (N, D), optional
        An ordinary geometry in Å, for the checks below; by default a lattice.

    Attributes
    ----------
    units : Units
    elements : tuple of str
        Set by the subclass; ``("X",) * n_atoms`` otherwise.

    Raises
    ------
    UsageError
        A potential that depends on where the centroid is; one that does not confine without a trap (judged by expanding
        it as a whole: fragments that fly apart one by one are yours to think of); something that does not pickle.
    EnergyError
        The reference geometry cannot be evaluated.

    Notes
    -----
    A configuration that fails raises `EnergyError` with its index and the cause. A worker that dies has its
    configurations evaluated once more; if that fails too, `EnergyError` says so.
    """

    def __init__(
        self,
        n_atoms: int,
        n_dims: int,
        recipe: Recipe,
        units: Units,
        trap: float | None = None,
        workers: int | None = None,
        executor: Executor | None = None,
        chunk_size: int = 16,
        reference=None,
    ):
        super().__init__(n_atoms, n_dims)
        self.elements: tuple[str, ...] = ("X",) * n_atoms
        self._evaluations = Evaluations(recipe, type(self).__name__, workers, executor)
        self.recipe, self.units = recipe, units
        self.chunk_size = check_int("chunk_size", chunk_size, 1)
        self.trap = DEFAULT_TRAP if trap is None else check_float("trap", trap, minimum=0.0)
        self._known = self._check_potential(reference)

    @property
    def has_executor(self) -> bool:
        """Whether an executor evaluates, which does not say how many processes it has."""
        return self._evaluations.has_executor

    @property
    def processes(self) -> int:
        """How many configurations are evaluated at a time."""
        return self._evaluations.processes

    def close(self) -> None:
        """Stop the processes of ``workers``; they start again when needed."""
        self._evaluations.close()

    @property
    def parameters(self) -> dict:
        """Temperature, units, trap, and an energy by which the potential is known again: names say little of it."""
        return {
            "temperature_kelvin": self.units.temperature_kelvin,
            "length_angstrom": self.units.length_angstrom,
            "trap_kT_per_angstrom2": self.trap,
            "known": self._known,
        }

    def _check_potential(self, reference) -> dict[str, Any] | None:
        """Refuse absolute external fields, and potentials from which atoms escape; returns the geometry looked at, as a
        digest, and its energy in kT without the trap, if it has one."""
        x = None if reference is None else as_numbers("reference", in_angstrom("reference", reference))
        x = None if x is None else x - x.mean(0)
        if x is None or np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)].min() < 0.5:
            x = 3.0 * cubic_lattice(self.n_atoms, self.n_dims).numpy()
        x = x / self.units.length_angstrom
        shift = 1.7 / self.units.length_angstrom
        u, f = self._collect(np.stack([x, x + shift]))
        if reference is not None and not (np.isfinite(u).all() and np.isfinite(f).all()):
            raise EnergyError(
                f"potential: expected finite numbers at the reference geometry, got u = {u.max():.3g} kT and forces up "
                f"to {np.abs(f).max():.3g}"
            )
        # Judged by what pulls at the atoms and not by the total energy, of which any part would be much.
        scale = min(abs(u[0]), float(np.abs(f[0] * x).sum()))
        if not abs(u[1] - u[0]) <= 1e-3 * (1 + scale) + min(1e-6 * abs(u[0]), 0.5) and np.isfinite(u).all():
            raise UsageError(
                "potential: expected one that does not depend on where the cluster is, its energy changed by "
                f"{u[1] - u[0]:.3g} kT on translation; external fields are not supported"
            )
        geometry = digest_of(x * self.units.length_angstrom)
        force = float(np.sqrt(np.mean(f[0] ** 2)))
        known = (
            {"geometry": geometry, "energy_kT": float(u[0]), "force_kT": force} if np.isfinite(u[0] + force) else None
        )
        # With a trap it is enough to see whether the potential falls faster than that rises.
        far = x * ((100 if self.trap else 1000) / (np.abs(x).max() * self.units.length_angstrom))
        try:
            u, _ = self._collect(np.stack([far, 2 * far]), timed=False)  # without neighbours it is faster
        except EnergyError:
            u = np.full(2, np.nan)
            if not self.trap:
                raise
        if self.trap and np.isnan(u).any():
            return known  # so far out not every code works, and with a trap it need not
        k = 0.5 * self.trap * self.units.length_angstrom**2
        u = u + k * np.array([1, 4]) * ((far - far.mean(0)) ** 2).sum()
        # The volume open to the atoms grows by that factor: the Boltzmann factor has to fall faster. A trap wins in the
        # end, unless the potential falls as fast as it rises.
        least = 0.0 if self.trap else (self.n_atoms - 1) * self.n_dims * np.log(2)
        if not u[1] - u[0] >= least - 1e-9 * abs(u[0]):
            wanted = "a larger stiffness" if self.trap else "a positive stiffness"
            raise UsageError(
                f"trap: expected {wanted} (kT / Å^2), got {self.trap:g} for a potential that lets atoms escape: its "
                "Boltzmann distribution cannot be normalised"
            )
        return known

    def _collect(self, x: np.ndarray, timed: bool = True) -> tuple[np.ndarray, np.ndarray]:
        if not len(x):
            return np.empty(0), np.empty_like(x)
        starts, begin = range(0, len(x), self.chunk_size), time.perf_counter()
        results = self._evaluations({first: x[first : first + self.chunk_size] for first in starts})
        for first in starts:
            head, tail = results[first]
            if isinstance(tail, str):
                if head is None:
                    raise EnergyError(f"{type(self).__name__}: the calculator cannot be set up: {tail}")
                raise EnergyError(f"{type(self).__name__}: configuration {first + head} failed: {tail}", first + head)
        # Few configurations do not keep every process busy. The first evaluations take longer, as processes start.
        share = min(len(starts), self._evaluations.processes) / self._evaluations.processes
        took = (time.perf_counter() - begin) * share / len(x)
        if timed:
            self.seconds_a_call = min(self.seconds_a_call or took, took)
        u, f = (np.concatenate([results[first][k] for first in starts]) for k in (0, 1))
        return u, f

    def evaluate(self, x):
        """See `Energy.evaluate`. Positions go out and energies come back in float64; the precision is the code's."""
        u, f = (torch.from_numpy(a) for a in self._collect(x.detach().cpu().double().contiguous().numpy()))
        if self.trap:
            k = self.trap * self.units.length_angstrom**2
            y = (x - x.mean(1, keepdim=True)).detach().cpu().double()
            u, f = u + 0.5 * k * (y**2).sum((1, 2)), f - k * y
        largest = torch.finfo(x.dtype).max
        # Overlaps: energies beyond the range of the dtype are infinite, and their forces of no use. NaN stays NaN.
        u = torch.where(u.abs() > largest, u * torch.inf, u).to(x.device)
        # What is no number, or infinite beside a finite energy, stays so and is refused.
        f = torch.where(torch.isfinite(f), f.clamp(-largest, largest), f).to(x.device, x.dtype)
        return u, torch.where((u == torch.inf)[:, None, None], torch.zeros_like(f), f)
