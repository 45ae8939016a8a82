"""The fixed protocols of the published numbers, the same wherever this package reports a metric.

E-W2 and total variation of 2000 samples, plain W2 of 1000, aligned W2 of 2000, of raw samples in the order in which
they came. Each has a noise floor: what two independent exact sets give. That of plain W2 is itself noisy (GMM-40: 4.65
with a standard deviation of 0.86), so it is the mean over as many disjoint sets of 1000 as there are, ten at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..ensemble import WeightedEnsemble
from ..errors import ResultError
from ..units import as_numbers
from .distances import aligned_w2, energy_w2, mode_weights, plain_w2, total_variation

__all__ = [
    "ALIGNED_SAMPLES",
    "ENERGY_SAMPLES",
    "EXPLOSION_MARGIN_KT",
    "PLAIN_SAMPLES",
    "PROTOCOL",
    "Reference",
    "exploded",
    "raw_metrics",
    "weighted_metrics",
]

ENERGY_SAMPLES, PLAIN_SAMPLES, ALIGNED_SAMPLES = 2000, 1000, 2000
PLAIN_BLOCKS = 10
# Raw samples this far above the reference's highest energy are called exploded: no thermal fluctuation gets there,
# and a single one would decide E-W2. They are left out of the raw metrics, and counted.
EXPLOSION_MARGIN_KT = 100.0
# A mode with this part of its share counts as found.
FOUND = 0.1

PROTOCOL = {
    "energy_w2": f"1D 2-Wasserstein, kT; raw: first {ENERGY_SAMPLES} samples",
    "total_variation": f"pair distances, 100 bins; raw: first {ENERGY_SAMPLES} samples",
    "plain_w2": f"configurations as vectors, mean over up to {PLAIN_BLOCKS} disjoint sets of {PLAIN_SAMPLES}",
    "aligned_w2": f"Hungarian then O(n) Procrustes, first {ALIGNED_SAMPLES} samples of each",
    "exploded": f"raw energy more than {EXPLOSION_MARGIN_KT:.0f} kT above the reference's highest; "
    "left out of raw metrics",
}


class Reference(NamedTuple):
    """What samples are compared with: positions (n, N, D), energies (n,) and normalised weights (n,), none of them
    zero."""

    positions: np.ndarray
    energies: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, ensemble: WeightedEnsemble) -> Reference:
        """Samples of weight zero left out."""
        w = ensemble.weights
        heavy = w > 0  # a weight that is not zero may be once it is normalised
        return cls(ensemble.positions[heavy], ensemble.energies[heavy], w[heavy])

    def head(self, n: int, first: int = 0) -> Reference:
        """``n`` samples from ``first`` on."""
        return Reference(*(a[first : first + n] for a in self))


def exploded(energies: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mask of samples whose energy lies more than 100 kT above the highest of the reference, or is infinite."""
    return ~(energies <= reference[np.isfinite(reference)].max() + EXPLOSION_MARGIN_KT)


def raw_metrics(x, u, reference: Reference, centres=None, aligned: bool = True, plain: bool = True) -> dict[str, float]:
    """What an unweighted set of samples is worth, by the fixed protocols above.

    Parameters
    ----------
    x, u : array_like, shape (n, N, D), (n,)
        Samples as they came from a sampler, with their energies; 2000 or more for the protocols to be met.
    reference : Reference
        Exact samples, as many or more.
    centres : array_like, shape (M, D), optional
        Modes of a mixture of equal parts; a mode with a tenth of its share counts as found.
    aligned, plain : bool
        Also compute aligned W2 (not for single points) and plain W2.

    Returns
    -------
    dict
        n, exploded (left out of all that follows), energy_w2, energy_w2_all (with the exploded ones, infinity if one
        of them has that energy), plain_w2, total_variation (of pair distances), aligned_w2, modes and mode_tv, as far
        as they apply.

    Raises
    ------
    ResultError
        Every sample has exploded.
    """
    x, u = as_numbers("x", x), as_numbers("u", u)
    bad = exploded(u, reference.energies)
    if bad.all():
        raise ResultError(f"every one of {len(u)} samples has exploded, there is nothing to compare")
    head = u[:ENERGY_SAMPLES]
    everything = energy_w2(head, reference.energies, None, reference.weights) if np.isfinite(head).all() else np.inf
    out: dict[str, float] = {"n": len(u), "exploded": int(bad.sum()), "energy_w2_all": everything}
    x, u = x[~bad], u[~bad]
    out["energy_w2"] = energy_w2(u[:ENERGY_SAMPLES], reference.energies, None, reference.weights)
    if plain:
        size = min(PLAIN_SAMPLES, len(x), len(reference.positions))
        blocks = min(len(x) // size, len(reference.positions) // size, PLAIN_BLOCKS)
        others = [reference.head(size, k * size) for k in range(blocks)]
        out["plain_w2"] = float(
            np.mean([plain_w2(x[k * size :][:size], r.positions, None, r.weights) for k, r in enumerate(others)])
        )
    if x.shape[1] > 1:
        out["total_variation"] = total_variation(x[:ENERGY_SAMPLES], reference.positions, None, reference.weights)
        if aligned:
            other = reference.head(ALIGNED_SAMPLES)
            out["aligned_w2"] = aligned_w2(x[:ALIGNED_SAMPLES], other.positions, None, other.weights)
    if centres is not None:
        share = mode_weights(x, centres)
        out["modes"] = int((share * len(share) >= FOUND).sum())
        out["mode_tv"] = float(0.5 * np.abs(share - 1 / len(share)).sum())
    return out


def weighted_metrics(ensemble: WeightedEnsemble, reference: Reference) -> dict[str, float]:
    """energy_w2 and, for two atoms or more, total_variation of all samples by their weights."""
    own = Reference.of(ensemble)
    out = {"energy_w2": energy_w2(own.energies, reference.energies, own.weights, reference.weights)}
    if own.positions.shape[1] > 1:
        out["total_variation"] = total_variation(own.positions, reference.positions, own.weights, reference.weights)
    return out
