"""Do error bars hold what they say? Subsets of a large weighted set, against the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from idem_md.analysis import distribution, radial_distribution, radius_of_gyration
from idem_md.checks import check_int
from idem_md.ensemble import WeightedEnsemble
from idem_md.ensemble.estimators import weighted_variance
from idem_md.errors import UsageError

__all__ = ["measure_coverage"]

SIZES = (30, 100, 300, 1000)
# Bins of curves: of pair distances, and of the radius of gyration.
BINS = (12, 10)

Estimate = Callable[[WeightedEnsemble], tuple[Any, Any]]


def _variance(e: WeightedEnsemble) -> tuple[float, float]:
    return weighted_variance(e.energies[e.alive], e.weights[e.alive], e.ess)


def _estimates(whole: WeightedEnsemble) -> dict[str, Estimate]:
    """What is estimated, by name; values with errors."""
    r = radial_distribution(whole, BINS[0]).edges
    s = np.quantile(radius_of_gyration(whole.positions[whole.alive]), np.linspace(0.005, 0.995, BINS[1] + 1))

    def density(e: WeightedEnsemble):
        curve = radial_distribution(e, r, least=0.0)
        return curve.values, curve.errors

    def profile(e: WeightedEnsemble):
        """-ln p, whose zero does not depend on the set."""
        curve = distribution(e, radius_of_gyration(e.positions[e.alive]), s, least=0.0)
        p = np.where(curve.values > 0, curve.values, np.nan)
        return -np.log(p), curve.errors / p

    return {
        "mean energy": lambda e: e.mean_energy,
        "heat capacity": _variance,
        "log Z": lambda e: (e.log_z, e.log_z_err),
        "radial density": density,
        "free energy along rg": profile,
    }


def measure_coverage(
    whole: WeightedEnsemble, sizes: Sequence[int] = SIZES, repeats: int = 400, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """For each number of effective samples, and each quantity, the share of subsets whose intervals hold the value of
    the whole set.

    Parameters
    ----------
    whole : WeightedEnsemble
        Of kind ``importance``, and several times larger than the largest subset.
    sizes : sequence of int
        Effective samples of a subset.
    repeats : int
        Subsets, drawn without replacement; errors are made smaller by the share of the whole that a subset is.
    """
    if whole.kind != "importance" or whole.ess < 3 * max(sizes):
        raise UsageError(
            f"ensemble: expected importance weights and {3 * max(sizes)} effective samples, got {whole.kind!r} with "
            f"{whole.ess:.0f}"
        )
    estimates, generator = _estimates(whole), np.random.default_rng(check_int("seed", seed, 0))
    truth = {name: estimate(whole)[0] for name, estimate in estimates.items()}
    for size in sizes:
        n = round(size / whole.ess_fraction)
        shrunk = np.sqrt(1 - n / len(whole))
        scores: dict[str, list[np.ndarray]] = {name: [] for name in estimates}
        for _ in range(repeats):
            rows = generator.choice(len(whole), n, replace=False)
            arrays = (whole.positions[rows], whole.energies[rows], whole.log_weights[rows])
            part = WeightedEnsemble(*arrays, whole.system, kind="importance")
            for name, estimate in estimates.items():
                value, error = estimate(part)
                with np.errstate(all="ignore"):
                    scores[name].append(np.ravel((np.asarray(value) - truth[name]) / (np.asarray(error) * shrunk)))
        for name, found in scores.items():
            z = np.concatenate(found)
            z = z[np.isfinite(z)]
            row = {"system": whole.system.name, "quantity": name, "ess": size, "n": n, "repeats": repeats}
            shares = {"within_68": (abs(z) < 1), "within_95": (abs(z) < 1.96), "below_95": z < -1.96}
            yield row | {key: float(np.mean(share)) for key, share in shares.items()}
