"""The ensemble itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..checks import check_choice
from ..errors import FileFormatError, UsageError
from ..provenance import Provenance, finite_or_none
from ..rows import blocks_of, owned
from ..systems import System, system_described
from ..units import as_numbers
from . import estimators, resampling
from .diagnostics import advice, pareto_k
from .estimators import MIN_ESS_FOR_ERRORS, Source
from .files import TRAJECTORIES, read_ensemble, write_ensemble
from .formats import Contents, to_atoms, to_trajectory
from .joining import concatenate

if TYPE_CHECKING:
    import ase
    import mdtraj

__all__ = ["KINDS", "WeightedEnsemble", "load_ensemble"]

KINDS = ("importance", "equilibrium", "resampled", "chain", "raw")


@dataclass(frozen=True, eq=False)
class WeightedEnsemble:
    """Samples of a Boltzmann distribution with importance weights.

    Its arrays are read-only: averages are of the samples that came in, whatever happens to the caller's arrays later.
    Two ensembles are equal if samples, weights, kind and system are. An ensemble is one whole: it has no slices, as a
    part that was chosen may have other averages and another Z.

    Attributes
    ----------
    positions : numpy.ndarray, shape (n, N, D), float64
        Reduced length; NaN where a sample failed.
    energies : numpy.ndarray, shape (n,), float64
        Reduced energies u = U/kT; +inf for overlaps and failed samples.
    log_weights : numpy.ndarray, shape (n,), float64
        Natural logarithms. Failed samples have -inf and stay in the count.
    system : System
    provenance : dict
        How the samples were made and what they cost; no statistic depends on it.
    kind : str
        What the weights are. ``importance``: the mean of exp(log_weights) estimates Z. ``equilibrium``: samples of the
        distribution itself, from a simulation or by formula, of equal weight; they do not know Z. ``resampled``:
        copies of a weighted set, see ``source``. ``chain``: frames of a few long chains, correlated, or such sets
        with weights for another temperature; ``source`` says how many they are worth before those.
        ``raw``: samples as a sampler proposes them, of which nothing says how
        far they are from the distribution; they have no effective size and no errors. By default ``equilibrium`` if
        every log weight is exactly zero or -inf, else ``importance``.
    source : Source, optional
        Of resampled sets and chains: the set they come from, whose effective size and errors are theirs.

    Raises
    ------
    UsageError
        Shapes that do not fit each other or the system, arrays with units or masks, NaN weights, or positions that are
        not numbers where the weight is not zero.
    """

    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray
    system: System
    provenance: Provenance = field(default_factory=Provenance)
    kind: str | None = None
    source: Source | None = None

    def __post_init__(self):
        for name in ("positions", "energies", "log_weights"):
            wanted = "bare numbers in reduced length, kT and natural logarithms"
            object.__setattr__(self, name, owned(as_numbers(name, getattr(self, name), wanted)))
        x, u, log_w = self.positions, self.energies, self.log_weights
        n = len(u)
        if x.ndim != 3 or len(x) != n or u.ndim != 1 or log_w.shape != (n,):
            raise UsageError(
                "positions, energies, log_weights: expected shapes (n,N,D), (n,), (n,), got "
                f"{x.shape}, {u.shape}, {log_w.shape}"
            )
        if n == 0:
            raise UsageError("positions: expected at least one sample, got none")
        if x.shape[1:] != (self.system.n_atoms, self.system.n_dims):
            raise UsageError(
                f"positions: expected shape (n, {self.system.n_atoms}, {self.system.n_dims}) of {self.system.name!r}, "
                f"got {x.shape}"
            )
        if np.isnan(log_w).any() or (log_w == np.inf).any():
            raise UsageError("log_weights: expected numbers below infinity, got NaN or +inf")
        alive = self.alive
        if not all(np.isfinite(x[rows][alive[rows]]).all() for rows in blocks_of(x)) or not np.isfinite(u[alive]).all():
            raise UsageError("positions, energies: expected finite numbers wherever the weight is not zero")
        if self.kind is None:
            plain = bool(alive.any()) and not log_w[alive].any()
            object.__setattr__(self, "kind", "equilibrium" if plain else "importance")
        check_choice("kind", self.kind, KINDS)
        if (self.kind in ("resampled", "chain")) != (self.source is not None):
            raise UsageError(
                "source: expected one for resampled sets and chains and none else, got "
                f"{self.source!r} for {self.kind!r}"
            )

    def __len__(self) -> int:
        return len(self.energies)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightedEnsemble):
            return NotImplemented
        mine, theirs = ((e.kind, repr(e.source), e.system.describe()) for e in (self, other))  # NaN is not NaN
        arrays = ((getattr(self, name), getattr(other, name)) for name in ("log_weights", "energies", "positions"))
        return mine == theirs and all(np.array_equal(*pair, equal_nan=True) for pair in arrays)

    def __hash__(self) -> int:
        return hash((self.kind, self.system.name, len(self)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, whose arrays are read-only too."""
        arrays = {k: owned(v) for k, v in state.items() if isinstance(v, np.ndarray)}
        vars(self).update(state | arrays)

    def __getitem__(self, key: object):
        raise UsageError(
            "ensemble: expected no index and no loop over it, an ensemble is one whole; take arrays "
            "(positions[k], log_weights[k]), frames (to_ase(), to_mdtraj()) or fewer samples (resample(n))"
        )

    @property
    def alive(self) -> np.ndarray:
        """Mask of the samples whose weight is not zero, shape (n,)."""
        return self.log_weights > -np.inf

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights, shape (n,), summing to one.

        Raises
        ------
        ResultError
            Every sample has weight zero.
        """
        return estimators.normalised(self.log_weights)

    @property
    def ess(self) -> float:
        """Effective sample size (sum w)^2 / sum w^2 (Kish), between 1 and n, times the share that the source is worth.

        NaN for raw samples.
        """
        if self.kind == "raw":
            return math.nan
        own = estimators.effective_size(self.weights)
        if self.source is None:
            return own
        known = min(self.source.ess, len(self))
        return known if math.isclose(own, len(self)) else known * own / len(self)

    @property
    def ess_fraction(self) -> float:
        """`ess` divided by the number of samples, failed ones included."""
        return self.ess / len(self)

    @cached_property
    def pareto_k(self) -> float:
        """Shape of the tail of the weights, see `diagnostics.pareto_k`: up to 0.7 errors can be trusted. NaN for equal
        weights."""
        return math.nan if self.kind == "resampled" else pareto_k(self.log_weights)

    @property
    def advice(self) -> str:
        """What to beware of in averages of these samples, in a sentence; empty if there is nothing."""
        return advice(self)

    @property
    def log_z(self) -> float:
        """Estimate of log Z, Z the integral of exp(-u) over the mean-free subspace: log mean exp(log_weights).

        NaN for samples of a Markov chain, and for raw ones, which do not know it.
        """
        if self.source is not None:
            return self.source.log_z
        return math.nan if self.kind in ("equilibrium", "raw") else estimators.log_mean_weight(self.log_weights)

    @property
    def log_z_err(self) -> float:
        """Standard error of `log_z`; for many samples sd(w) / (mean(w) sqrt(n)), see `estimators.log_z_error`.

        NaN with fewer than five effective samples, where no error can be told.
        """
        if self.source is not None:
            return self.source.log_z_err
        if self.ess < MIN_ESS_FOR_ERRORS or math.isnan(self.log_z):
            return math.nan
        return estimators.log_z_error(self.weights)

    @property
    def log_z_lower(self) -> tuple[float, float]:
        """mean(log w), in expectation not above log Z, and its standard error; -inf if a sample has weight zero.

        NaN for sets whose weights do not estimate Z. For a bound from above see `Sampler.forward`.
        """
        if self.kind != "importance":
            return math.nan, math.nan
        return estimators.mean_log_weight(self.log_weights)

    def expectation(self, fn: Callable[[np.ndarray], np.ndarray]):
        """Self-normalised weighted mean of an observable, with its standard error.

        mean = sum W f, se^2 = sum [W (f - mean) (1 - 1/n) / (1 - W)]^2 with W = w / sum w, see
        `estimators.weighted_mean`. The error is NaN with fewer than five effective samples, and of little worth with
        fewer than some tens.

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
            The observable has the wrong length, is not finite, or is not of bare real numbers.
        ResultError
            Every sample has weight zero.
        """
        alive, w = self.alive, self.weights
        values = as_numbers("fn", fn(self.positions[alive]))
        return estimators.weighted_mean(values, w[alive], self.ess)

    @property
    def mean_energy(self) -> tuple[float, float]:
        """Weighted mean of the energy and its standard error, in kT."""
        alive = self.alive
        return estimators.weighted_mean(self.energies[alive], self.weights[alive], self.ess)

    @classmethod
    def concatenate(cls, parts: Sequence[WeightedEnsemble]) -> WeightedEnsemble:
        """Independent samples that were drawn apart as one ensemble; log weights have one zero, and stay as they are.

        Costs and failures are added up; the provenance has ``seeds`` for several. Shards of one seed come in the order
        of their chunks, as if one process had drawn them.

        Parameters
        ----------
        parts : sequence of WeightedEnsemble
            Of one system, method, checkpoint and plan, with different seeds or different chunks of one.

        Raises
        ------
        UsageError
            None, parts that do not belong together, the same random numbers twice, or samples that are not independent.
        """
        return cls(*concatenate(parts))

    def resample(self, n: int | None = None, seed: int = 0) -> WeightedEnsemble:
        """Equally weighted samples by systematic resampling; `log_z`, `ess` and all errors stay those of the source.

        What the choice adds to errors is not in them: a few per cent for as many samples as there are, up to a sixth
        for about as many as are effective.

        Parameters
        ----------
        n : int, optional
            Number of samples; by default as many as there are.
        seed : int

        Raises
        ------
        ResultError
            Every sample has weight zero, or they are raw.
        """
        return type(self)(*resampling.resample(self, n, seed))

    def refine(self, n_steps: int, seed: int = 0, step: float | None = None, resample: bool = True) -> WeightedEnsemble:
        """Resample by the weights, then move every sample by Metropolis-adjusted Langevin steps on its energy.

        Where Markov chains mix quickly this turns a poor sampler's output into equilibrium samples: the network
        spreads the chains, the chains make up for the network. All weights are equal afterwards; how far the chains
        got is not in them, so compare two lengths. With ``resample``, `ess` and errors stay those of the source, which
        is cautious: chains part. Samples far above the others are first relaxed.

        Parameters
        ----------
        n_steps : int
            The first third, in ten rounds, tunes the step size.
        seed : int
        step : float, optional
            First Langevin step, in reduced length squared; by default `chains.first_step`.
        resample : bool
            Otherwise the samples are taken as they are, failed ones left out and weights forgotten.

        Raises
        ------
        UsageError
            A number out of range, or a system whose energy is not known.
        ResultError
            No sample to start from, or a step size that found no use.
        """
        resampling.check_refinement(n_steps, seed, step)
        start = self.resample(seed=seed) if resample else self
        return type(self)(*resampling.refine(start, n_steps, seed, step, resample))

    def save(self, path) -> list[Path]:
        """Write the samples in the format that the suffix names; all files or none. Returns their paths.

        ============ ========================================================================================
        suffix       files
        ============ ========================================================================================
        ``.dcd``     ``F.dcd`` (Å), ``F.pdb`` (topology), ``F.npz`` (all, in full precision): what `load_ensemble` reads
        ``.xtc``     the same with ``F.xtc``, positions to 0.001 nm
        ``.extxyz``  for ASE: energies in eV, ``info["log_weight"]``
        ``.h5md``    for MDAnalysis: ``/observables/log_weight``
        ``.colvar``  for PLUMED: the field ``logweights``, for LOGWEIGHTS=
        ``.weights`` normalised weights for `numpy.loadtxt`, one a sample
        ============ ========================================================================================

        Log weights are natural logarithms, larger for heavier samples, not normalised: see ``kind``.
        """
        record: dict[str, Any] = {
            **self.provenance,
            "system": self.system.name,
            "system_description": self.system.describe(),
            "kind": self.kind,
            "source": None if self.source is None else {k: finite_or_none(v) for k, v in asdict(self.source).items()},
        }
        return write_ensemble(path, self._contents(record))

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """MDTraj trajectory (nm) of all samples, in the order of the weights, which stay with the ensemble; failed ones
        have positions of NaN."""
        return to_trajectory(self.positions, self.system.elements, self.system.units, self.system.named_atoms)

    def to_ase(self) -> list[ase.Atoms]:
        """ASE atoms (Å) with the energy in eV, ``info["log_weight"]`` and ``info["sample"]``, the number of the sample.

        Failed samples, of weight zero and without positions, are left out, as in ``.extxyz`` files.
        """
        return to_atoms(self._contents({"kind": self.kind}))

    def _contents(self, record: dict[str, Any]) -> Contents:
        """Samples and record as file formats take them."""
        x, u, log_w = self.positions, self.energies, self.log_weights
        system = self.system
        return Contents(x, u, log_w, record, system.elements, system.units, system.named_atoms)


def load_ensemble(path) -> WeightedEnsemble:
    """Load what `WeightedEnsemble.save` wrote, from the path of its DCD.

    Raises
    ------
    FileFormatError
        Missing, truncated or foreign files.
    """
    arrays, record = read_ensemble(path)
    record.pop(TRAJECTORIES, None)
    name, description = record["system"], record.pop("system_description", None)
    try:
        system = system_described(name, description)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(
            f"{path}: the system {name!r} is neither built in nor described in the file ({error})"
        ) from None
    try:
        kind, source = _kind(record, arrays["log_weights"])
        return WeightedEnsemble(**arrays, system=system, provenance=cast(Provenance, record), kind=kind, source=source)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"{path}: its contents do not describe an ensemble ({error})") from None


def _kind(record: dict[str, Any], log_weights: np.ndarray) -> tuple[str, Source | None]:
    """Take kind and source out of what was read; files of the first version said it by other keys."""
    known = record.pop("log_z_known", True)
    if "resampled" in record:
        old = record.pop("resampled")
        return "resampled", Source(
            old["from"], old["ess"], float(log_weights[0]) if known else math.nan, old["log_z_err"]
        )
    kind, source = record.pop("kind", "importance" if known else "equilibrium"), record.pop("source", None)
    if source is None:
        return kind, None
    numbers = (math.nan if source[k] is None else float(source[k]) for k in ("ess", "log_z", "log_z_err"))
    return kind, Source(int(source["n"]), *numbers)
