"""Weighted samples: estimates with errors, files, and views for MDTraj and ASE."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ase
import ase.calculators.singlepoint
import mdtraj
import numpy as np
import torch

from .checks import FileFormatError, UsageError, check_float, check_int
from .systems import SYSTEMS, System, get_system
from .training.buffer import Buffer, relax
from .training.loop import tune_step
from .trajectory import read_ensemble, to_trajectory, write_ensemble

__all__ = ["WeightedEnsemble", "load_ensemble"]

# Below this a standard error would be the square root of almost nothing, and look like certainty.
MIN_ESS_FOR_ERRORS = 2.0


@dataclass(frozen=True)
class WeightedEnsemble:
    """Samples of a Boltzmann distribution with importance weights.

    Attributes
    ----------
    positions : numpy.ndarray, shape (n, N, D), float64
        Reduced length; NaN where a sample failed.
    energies : numpy.ndarray, shape (n,), float64
        Reduced energies u = U/kT; +inf for overlaps and failed samples.
    log_weights : numpy.ndarray, shape (n,), float64
        Natural logarithms; the mean of exp(log_weights) estimates Z. Failed samples have -inf and stay in the
        count. All equal for samples of an equilibrated simulation.
    system : System
    provenance : dict
        How the samples were made and what they cost.

    Raises
    ------
    UsageError
        Shapes that do not fit, NaN weights, or positions that are not numbers where the weight is not zero.
    """

    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray
    system: System
    provenance: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("positions", "energies", "log_weights"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        n = len(self.energies)
        if self.positions.ndim != 3 or len(self.positions) != n or self.energies.ndim != 1 or self.log_weights.shape != (n,):
            raise UsageError(f"positions, energies, log_weights: expected shapes (n,N,D), (n,), (n,), got "
                             f"{self.positions.shape}, {self.energies.shape}, {self.log_weights.shape}")
        if n == 0:
            raise UsageError("positions: expected at least one sample, got none")
        if np.isnan(self.log_weights).any() or (self.log_weights == np.inf).any():
            raise UsageError("log_weights: expected numbers below infinity, got NaN or +inf")
        alive = self.log_weights > -np.inf
        if not np.isfinite(self.positions[alive]).all() or not np.isfinite(self.energies[alive]).all():
            raise UsageError("positions, energies: expected finite numbers wherever the weight is not zero")

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights, shape (n,), summing to one.

        Raises
        ------
        UsageError
            Every sample has weight zero.
        """
        top = self.log_weights.max()
        if top == -np.inf:
            raise UsageError("log_weights: every sample has weight zero, nothing can be averaged")
        w = np.exp(self.log_weights - top)
        return w / w.sum()

    @property
    def ess(self) -> float:
        """Effective sample size (sum w)^2 / sum w^2 (Kish), between 1 and n; after resampling, that of the source."""
        return min(float(1.0 / (self.weights**2).sum()), self.provenance.get("resampled", {}).get("ess", math.inf))

    @property
    def ess_fraction(self) -> float:
        """`ess` divided by the number of samples, failed ones included."""
        return self.ess / len(self)

    @property
    def log_z(self) -> float:
        """Estimate of log Z, Z the integral of exp(-u) over the mean-free subspace: log mean exp(log_weights).

        NaN for samples of a Markov chain, which do not know it.
        """
        if not self.provenance.get("log_z_known", True):
            return math.nan
        top = self.log_weights.max()
        if top == -np.inf:
            return -np.inf
        return float(top + np.log(np.exp(self.log_weights - top).mean()))

    @property
    def log_z_err(self) -> float:
        """Standard error of `log_z` by the delta method: sd(w) / (mean(w) sqrt(n)).

        NaN with fewer than two effective samples, where no error can be told.
        """
        if "resampled" in self.provenance:
            return self.provenance["resampled"]["log_z_err"]
        if self.ess < MIN_ESS_FOR_ERRORS or math.isnan(self.log_z):
            return math.nan
        w = self.weights
        return float(w.std(ddof=1) / w.mean() / np.sqrt(len(w)))

    def expectation(self, fn: Callable[[np.ndarray], np.ndarray]):
        """Self-normalised weighted mean of an observable, with its standard error.

        mean = sum W f, se^2 = sum W^2 (f - mean)^2 with W = w / sum w (Owen, Monte Carlo theory, eq. 9.9). The error
        is NaN with fewer than two effective samples, and of little worth with fewer than some tens.

        Parameters
        ----------
        fn : callable (n, N, D) -> (n,) or (n, ...)
            Receives the positions in reduced length, samples of weight zero left out.

        Returns
        -------
        value, standard_error : float, or numpy.ndarray of the observable's shape

        Raises
        ------
        UsageError
            The observable has the wrong length or is not finite.
        """
        alive = self.log_weights > -np.inf
        return self._mean(np.asarray(fn(self.positions[alive]), dtype=np.float64), self.weights[alive])

    def _mean(self, values: np.ndarray, w: np.ndarray):
        if values.ndim < 1 or len(values) != len(w):
            raise UsageError(f"fn: expected an array of length {len(w)}, one value a sample, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise UsageError("fn: expected finite values, got NaN or infinity")
        mean = np.tensordot(w, values, axes=1)
        error = np.sqrt(np.tensordot(w**2, (values - mean) ** 2, axes=1))
        # Copies made by resampling carry no information of their own.
        error = error * np.sqrt(1 / (w**2).sum() / self.ess) if self.ess >= MIN_ESS_FOR_ERRORS else error * math.nan
        return (float(mean), float(error)) if np.ndim(mean) == 0 else (mean, error)

    @property
    def mean_energy(self) -> tuple[float, float]:
        """Weighted mean of the energy and its standard error, in kT."""
        alive = self.log_weights > -np.inf
        return self._mean(self.energies[alive], self.weights[alive])

    def resample(self, n: int | None = None, seed: int = 0) -> WeightedEnsemble:
        """Equally weighted samples by systematic resampling; `log_z`, `ess` and all errors stay those of the source.

        Parameters
        ----------
        n : int, optional
            Number of samples; by default as many as there are.
        seed : int
        """
        n = check_int("n", len(self) if n is None else n, 1)
        u = (np.arange(n) + np.random.default_rng(seed).random()) / n
        # Rounding can leave the last cumulative weight a hair below one.
        edges = np.cumsum(self.weights)
        index = np.searchsorted(edges / edges[-1], u, side="right")
        source = {"from": len(self), "seed": seed, "ess": self.ess, "log_z_err": self.log_z_err}
        log_z = 0.0 if math.isnan(self.log_z) else self.log_z
        return WeightedEnsemble(self.positions[index], self.energies[index], np.full(n, log_z), self.system,
                                {**self.provenance, "resampled": source})

    def refine(self, n_steps: int, seed: int = 0, step: float | None = None, resample: bool = True) -> WeightedEnsemble:
        """Resample by the weights, then move every sample by Metropolis-adjusted Langevin steps on its energy.

        Where Markov chains mix quickly this turns a poor sampler's output into equilibrium samples: the network spreads
        the chains, the chains make up for the network. All weights are equal afterwards; how far the chains got is not
        in them, so compare two lengths. With ``resample``, `ess` and errors stay those of the source, which is cautious:
        chains part. Samples far above the others are first relaxed.

        Parameters
        ----------
        n_steps : int
            The first third, in ten rounds, tunes the step size.
        seed : int
        step : float, optional
            First Langevin step, in reduced length squared; by default from the scale of the forces.
        resample : bool
            Otherwise the samples are taken as they are, failed ones left out and weights forgotten.

        Raises
        ------
        UsageError
            No sample to start from, a system whose energy is not known, or a step size that found no use.
        """
        n_steps, seed = check_int("n_steps", n_steps, 1), check_int("seed", seed, 0, 2**32 - 1)
        start = time.perf_counter()
        source = self.resample(seed=seed) if resample else self
        alive = torch.from_numpy(np.isfinite(source.energies))
        if not bool(alive.any()):
            raise UsageError("energies: expected at least one finite one to start from, got none")
        energy = self.system.energy()
        x = torch.from_numpy(source.positions)[alive]
        # Exploded samples have forces that no Langevin step can follow: back among the others first.
        u = torch.from_numpy(source.energies)[alive]
        chains = Buffer.of(energy, relax(energy, x, 200, float(u.median()) + 10 * max(float(u.median() - u.quantile(0.1)), 1.0)).float())
        # To start with, in units of the squared length over which a typical force matters; for LJ-13 close to the best.
        step = 0.15 / float((chains.f.double() ** 2).mean((1, 2)).median()) if step is None else check_float("step", step, above=0.0)
        seeds = iter(np.random.SeedSequence(seed).generate_state(11))
        rounds, tuning = (10, n_steps // 30) if n_steps >= 30 else (0, 0)
        for _ in range(rounds):
            step = tune_step(step, chains.refine(energy, step, tuning, int(next(seeds))), gain=1.0)
        acceptance = chains.refine(energy, step, n_steps - rounds * tuning, int(next(seeds)))
        if rounds and not 0.1 < acceptance < 0.97:
            raise UsageError(f"step: expected a Langevin step that suits the energy, the acceptance is {acceptance:.3f} after tuning; "
                             "pass step, or more n_steps to tune it")
        positions = chains.x.double()
        u, _ = energy(positions)
        log_z = 0.0 if math.isnan(source.log_z) or not resample else source.log_z
        before = source.provenance
        provenance = {**before, "refined": {"steps": n_steps, "seed": seed, "step": step, "acceptance": acceptance},
                      "energy_calls": before.get("energy_calls", 0) + energy.calls,
                      "seconds": before.get("seconds", 0.0) + time.perf_counter() - start}
        if not resample:
            provenance["log_z_known"] = False
        return WeightedEnsemble(positions.numpy(), u.numpy(), np.full(len(u), log_z), self.system, provenance)

    def save(self, path) -> list:
        """Write ``F.dcd`` (Å), ``F.pdb`` and ``F.npz``, all or none; returns the paths. See `trajectory.write_ensemble`."""
        arrays = {"positions": self.positions, "energies": self.energies, "log_weights": self.log_weights}
        return write_ensemble(path, arrays, {**self.provenance, "system": self.system.name, "system_description": self.system.describe()}, self.system.elements,
                              self.system.units)

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """MDTraj trajectory (nm); weights stay with the ensemble, in the same order."""
        return to_trajectory(self.positions, self.system.elements, self.system.units)

    def to_ase(self) -> list[ase.Atoms]:
        """ASE atoms (Å) with the energy in eV and ``info["log_weight"]``."""
        kT = self.system.units.kT_eV
        frames = []
        for frame, u, log_w in zip(self.to_mdtraj().xyz, self.energies, self.log_weights):
            atoms = ase.Atoms(self.system.elements, positions=frame.astype(np.float64) * 10.0,
                              info={"log_weight": float(log_w)})
            atoms.calc = ase.calculators.singlepoint.SinglePointCalculator(atoms, energy=float(u) * kT)
            frames.append(atoms)
        return frames


def load_ensemble(path) -> WeightedEnsemble:
    """Load what `WeightedEnsemble.save` wrote, from the path of its DCD.

    Raises
    ------
    FileFormatError
        Missing, truncated or foreign files.
    """
    arrays, provenance = read_ensemble(path)
    name, description = provenance["system"], provenance.pop("system_description", None)
    try:
        system = get_system(name) if name in SYSTEMS else System.described(description)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: the system {name!r} is neither built in nor described in the file ({error})") from None
    if arrays["positions"].shape[1] != len(system.elements):
        raise FileFormatError(f"{path}: expected {len(system.elements)} atoms of {name!r}, got {arrays['positions'].shape[1]}")
    return WeightedEnsemble(**arrays, system=system, provenance=provenance)
