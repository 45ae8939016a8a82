"""What weights are worth: effective samples by kernel, last step and number of network evaluations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..analysis import energy_w2
from ..baselines import reference_engine
from ..checks import check_int
from ..diffusion import LAST_STEPS
from ..ensemble import WeightedEnsemble, WeightWarning
from ..provenance import finite_or_none
from ..sampler import Sampler

__all__ = ["measure_row", "measure_weights", "reference_samples"]


def reference_samples(sampler: Sampler, seed: int) -> WeightedEnsemble:
    """Ten thousand samples by an engine that does not miss modes."""
    return reference_engine(sampler.system).run(sampler.system, 10_000, seed=seed + 1)


def measure_row(
    sampler: Sampler,
    exact: WeightedEnsemble,
    nfe: int,
    kernel: str | None,
    last_step: str | None,
    calls: int | None,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """One batch, as a row of `measure_weights`; ``exact`` is a set of reference samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)  # the row says it
        e = sampler.sample(n, nfe, seed, kernel=kernel, last_step=last_step, last_step_calls=calls)
    mean, error = e.mean_energy
    p, finite = e.provenance, np.isfinite(e.energies)
    return {
        "bench": "weights",
        "system": e.system.name,
        "method": p["method"],
        "kernel": p["kernel"],
        "last_step": p["last_step"],
        "sigma_1": p["plan"]["sigma_1"],
        "nfe": nfe,
        "n": n,
        "ess_fraction": e.ess_fraction,
        "pareto_k": finite_or_none(e.pareto_k),
        "log_z": e.log_z,
        "log_z_err": finite_or_none(e.log_z_err),
        "mean_energy": mean,
        "mean_energy_err": finite_or_none(error),
        "energy_w2_raw": energy_w2(e.energies[finite][:2000], exact.energies),
        "failed": p["failed"],
        "energy_calls": p["energy_calls"],
        "seconds": p["seconds"],
        "ess_per_second": e.ess / p["seconds"],
        "hardware": p["hardware"],
    }


def measure_weights(
    sampler: Sampler,
    nfes: Sequence[int] = (6, 12, 25),
    kernels: Sequence[str | None] = (None,),
    last_steps: Sequence[str | None] = ("plain", None),
    calls: int | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """One batch for each combination, nothing clipped: what ``idem-md bench weights`` prints.

    Parameters
    ----------
    sampler : Sampler
    nfes : sequence of int
    kernels, last_steps : sequences of str or None
        None is that of the plan.
    calls : int, optional
        Energy calls a sample for last steps that take a number of them.
    n, seed : int

    Yields
    ------
    dict
        system, method, kernel, last_step, sigma_1, nfe, n, ess_fraction, pareto_k, log_z and its error, mean_energy and
        its error, energy_w2_raw (end points as they came against an exact set of 10,000), failed, energy_calls,
        seconds, ess_per_second, hardware.
    """
    n, seed = check_int("n", n, 2), check_int("seed", seed, 0, 2**31 - 1)
    exact = reference_samples(sampler, seed)
    for nfe in nfes:
        for kernel in kernels:
            for last_step in last_steps:
                plan = sampler.plan(nfe).changed(kernel, last_step)
                spend = calls if LAST_STEPS[plan.last_step].takes_calls else None
                yield measure_row(sampler, exact, nfe, kernel, last_step, spend, n, seed)
