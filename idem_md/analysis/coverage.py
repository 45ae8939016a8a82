"""Does a weighted set visit what it should? Shares of the basins of attraction, beside those of a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..chains import noise_start, quench
from ..checks import check_int
from ..energies import Modes
from ..ensemble import WeightedEnsemble
from ..errors import ResultError, UsageError
from ..progress import note_calls, reported
from ..torch_state import own_torch
from .distances import mode_weights

__all__ = ["Coverage", "Minima", "coverage", "minima"]

# Minima whose energies differ by less, relative to their size, are one.
SAME = 1e-4
# Total energies beyond this, in kT, say nothing of how well a minimisation has converged.
LARGE = 1e3


@dataclass(frozen=True)
class Coverage:
    """Shares of basins in a weighted set and in a reference.

    Attributes
    ----------
    names : tuple of str
    reference, share : numpy.ndarray, shape (M,)
        Each sums to one.
    error : numpy.ndarray, shape (M,)
        Standard error of the difference, if both are what the reference says.
    """

    names: tuple[str, ...]
    reference: np.ndarray
    share: np.ndarray
    error: np.ndarray

    @property
    def missing(self) -> float:
        """Mass of the reference that the set has elsewhere: sum of max(0, reference - share)."""
        return float(np.maximum(self.reference - self.share, 0.0).sum())

    @property
    def missing_by_chance(self) -> float:
        """What `missing` would be on average if nothing were: sum of error / sqrt(2 pi)."""
        return float(self.error.sum() / math.sqrt(2 * math.pi))

    @property
    def worst(self) -> tuple[str, float]:
        """The basin that deviates most, and by how many standard errors."""
        z = (self.share - self.reference) / np.where(self.error > 0, self.error, 1.0)  # all in one basin: both are one
        k = int(np.abs(z).argmax())
        return self.names[k], float(z[k])


@dataclass(frozen=True)
class Minima:
    """The lowest minima that samples and configurations of noise lead to, in ascending order.

    Attributes
    ----------
    energy : numpy.ndarray, shape (M,)
        kT.
    share, from_noise : numpy.ndarray, shape (M,)
        Share of the weighted set and of the configurations of noise that lead there.
    """

    energy: np.ndarray
    share: np.ndarray
    from_noise: np.ndarray

    @property
    def deeper(self) -> int:
        """Minima that only noise leads to, deeper than all that samples lead to."""
        return int((self.share > 0).argmax())


@own_torch
@reported("quenching to minima")
def minima(ensemble: WeightedEnsemble, n: int = 100, seed: int = 0, most: int = 10) -> Minima:
    """Quench samples and configurations of noise: does the set know of the deepest minima? Needs no reference.

    A minimum that is rare in equilibrium may be missing by chance, and one that noise hardly ever leads to goes
    unnoticed: a hint and no proof, where `coverage` compares with a set that is known to be right.

    Parameters
    ----------
    ensemble : WeightedEnsemble
    n : int
        Samples, drawn by their weights, and configurations of noise. Costs some hundred energy calls each.
    seed : int
    most : int
        Minima in the result.

    Raises
    ------
    UsageError
        The energy of the system is not known.
    ResultError
        No minimum was found from the samples.
    """
    n, system = check_int("n", n, 2), ensemble.system
    energy = system.energy()
    energy.on_count = note_calls
    start = noise_start(energy, system.sigma_data, n, 200, torch.Generator().manual_seed(seed))
    ours, theirs = (quench(energy, x).numpy() for x in (torch.tensor(ensemble.resample(n, seed).positions), start.x))
    if not np.isfinite(ours).any():
        raise ResultError("ensemble: expected at least one minimum, no minimisation of its samples converged")
    found = np.sort(np.concatenate([ours, theirs]))
    edges = _basins(found[np.isfinite(found)], 0.0)
    shares = [_histogram(u, edges)[:-1] for u in (ours, theirs)]
    # Not more than were asked for, but always the first one that samples lead to.
    shown = max(min(most, len(edges)), int((shares[0] > 0).argmax()) + 1)
    return Minima(np.array([low for low, _ in edges[:shown]]), shares[0][:shown], shares[1][:shown])


@own_torch
@reported("quenching to minima")
def coverage(
    ensemble: WeightedEnsemble, reference: WeightedEnsemble, n: int = 400, least: float = 0.02, seed: int = 0
) -> Coverage:
    """Compare shares of basins: nearest modes where the energy has them, else minima found by quenching.

    Parameters
    ----------
    ensemble, reference : WeightedEnsemble
        Of one system; the reference by a method that does not miss modes.
    n : int
        Samples of each that are quenched, drawn by their weights. Costs some hundred energy calls each.
    least : float
        Basins of a smaller share in the reference are taken together.
    seed : int

    Raises
    ------
    UsageError
        Sets of different systems, or one whose energy is not known.
    ResultError
        No minimum was found from the reference.
    """
    if ensemble.system.name != reference.system.name or ensemble.positions.shape[1:] != reference.positions.shape[1:]:
        raise UsageError(f"reference: expected one of {ensemble.system.name!r}, got {reference.system.name!r}")
    if "raw" in (ensemble.kind, reference.kind):
        raise UsageError("ensemble, reference: expected samples with weights, got raw ones")
    n = check_int("n", n, 2)
    energy = ensemble.system.energy()
    energy.on_count = note_calls
    if isinstance(energy, Modes):
        sizes = [s.ess for s in (ensemble, reference)]
        alive = [s.alive for s in (ensemble, reference)]
        shares = [
            mode_weights(s.positions[a], energy.means, s.weights[a]) for s, a in zip((ensemble, reference), alive)
        ]
        names = tuple(f"mode {k}" for k in range(len(shares[0])))
    else:
        sizes = [min(n, s.ess) for s in (ensemble, reference)]
        ours, theirs = (
            np.sort(quench(energy, torch.tensor(s.resample(n, seed).positions)).numpy()) for s in (ensemble, reference)
        )
        found = theirs[np.isfinite(theirs)]
        if not len(found):
            raise ResultError("reference: expected at least one minimum, no minimisation of its samples converged")
        edges = _basins(found, least)
        shares = [_histogram(u, edges) for u in (ours, theirs)]
        names = (*(f"minimum of {low:.3f} kT" for low, _ in edges), "other minima")
    share, known = shares
    pooled = (sizes[0] * share + sizes[1] * known) / sum(sizes)
    error = np.sqrt(pooled * (1 - pooled) * (1 / sizes[0] + 1 / sizes[1]))
    seen = pooled > 0
    return Coverage(tuple(name for name, s in zip(names, seen) if s), known[seen], share[seen], error[seen])


def _basins(minima: np.ndarray, least: float) -> list[tuple[float, float]]:
    """Lowest and highest energy of the groups of sorted minima that have at least a given share of all."""
    apart = np.diff(minima) > _same(minima[1:])
    groups = np.split(minima, np.flatnonzero(apart) + 1)
    return [(float(g[0]), float(g[-1])) for g in groups if len(g) >= least * len(minima)]


def _same(energy):
    """How far minima that are the same may be apart."""
    return SAME * (1 + np.minimum(np.abs(energy), LARGE))


def _histogram(minima: np.ndarray, edges: list[tuple[float, float]]) -> np.ndarray:
    """Shares of the groups and, last, of all else, NaN included."""
    wide = [(low - _same(low), high + _same(high)) for low, high in edges]
    counts = [int(((minima > low) & (minima < high)).sum()) for low, high in wide]
    return np.array([*counts, len(minima) - sum(counts)]) / len(minima)
