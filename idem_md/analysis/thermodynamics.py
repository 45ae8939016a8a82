"""What energies and their spread say, at the temperature of the samples and near it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ensemble import TRUSTED_ESS, WeightedEnsemble
from ..ensemble.estimators import Source, vanishing, weighted_variance
from ..errors import ResultError
from ..units import trap_stiffness

__all__ = ["heat_capacity", "potential_energies", "reweighted", "trap_energies"]


@vanishing
def heat_capacity(ensemble: WeightedEnsemble) -> tuple[float, float]:
    """Heat capacity at constant volume and its standard error, in k_B.

    C = d (N - 1) / 2 + var(u): momenta, centre of mass excepted, and the configurational part (for a single atom, d/2).
    Variance and error as in `estimators.weighted_variance`; the error is NaN with fewer than 30 effective samples, from
    which no variance can be told.

    Raises
    ------
    ResultError
        Every sample has weight zero.
    """
    alive = ensemble.alive
    u, w = ensemble.energies[alive], ensemble.weights[alive]
    variance, error = weighted_variance(u, w, ensemble.ess)
    n, d = ensemble.positions.shape[1:]
    return 0.5 * d * max(n - 1, 1) + variance, error if ensemble.ess >= TRUSTED_ESS else math.nan


@vanishing
def reweighted(ensemble: WeightedEnsemble, temperature_K: float) -> WeightedEnsemble:
    """The same samples, with weights for the same potential at another temperature: log w + u - u T/T'.

    Far from the temperature of the samples few of them matter; the effective size says so. Where Z was known so is
    that of the other temperature.

    Raises
    ------
    ResultError
        Raw samples.
    UsageError
        A temperature that is not a positive number.
    """
    if ensemble.kind == "raw":
        raise ResultError("kind: expected samples with weights, raw ones have none to change")
    system = ensemble.system.at(temperature_K)
    factor = ensemble.system.units.temperature_kelvin / system.units.temperature_kelvin
    u = np.where(ensemble.alive, ensemble.energies, np.inf)
    change = np.where(ensemble.alive, (1 - factor) * np.where(ensemble.alive, u, 0.0), 0.0)
    kind, source = ensemble.kind, ensemble.source
    if kind != "importance":  # the weights no longer know Z
        ess = len(ensemble) if source is None else source.ess
        kind, source = "chain", Source(len(ensemble), ess, math.nan, math.nan)
    record: dict[str, Any] = {**ensemble.provenance, "reweighted_from_K": ensemble.system.units.temperature_kelvin}
    if system.has_energy:
        record["parameters"] = dict(system.parameters)
    elif "parameters" in record:  # as a scaled energy has them
        record["parameters"] = {**record["parameters"], "factor": factor}
    return WeightedEnsemble(
        ensemble.positions,
        factor * u,
        ensemble.log_weights + change,
        system,
        record,  # type: ignore[arg-type]
        kind,
        source,
    )


def trap_energies(ensemble: WeightedEnsemble) -> np.ndarray | None:
    """What the harmonic trap about the centroid adds to the energies, shape (n,), kT; None without a trap. NaN where a
    sample failed."""
    parameters: Mapping[str, Any] = ensemble.system.parameters or ensemble.provenance.get("parameters", {})
    length = ensemble.system.units.length_angstrom
    k = (trap_stiffness(parameters, length) or 0.0) * length**2
    if not k:
        return None
    x = ensemble.positions
    return 0.5 * k * ((x - x.mean(1, keepdims=True)) ** 2).sum((1, 2))


def potential_energies(ensemble: WeightedEnsemble) -> np.ndarray:
    """Energies without the trap, shape (n,), kT: what a calculator or a force field says of the atoms."""
    trap = trap_energies(ensemble)
    return ensemble.energies if trap is None else ensemble.energies - trap
