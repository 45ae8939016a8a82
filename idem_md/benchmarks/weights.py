"""What weights are worth: effective samples by kernel, last step and number of network evaluations."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import energy_w2
from ..baselines import reference_engine
from ..checkpoint import weights_digest
from ..checks import check_int
from ..diffusion import LAST_STEPS, PROPOSALS, SamplingPlan
from ..ensemble import TRUSTED_ESS, TRUSTED_K, WeightedEnsemble, WeightWarning
from ..errors import FileFormatError
from ..files import write_atomic
from ..provenance import finite_or_none
from ..sampler import Sampler

__all__ = ["kept_methods", "measure_methods", "measure_weights", "methods_table", "with_error"]

# Network evaluations of the table of methods.
METHODS_NFES = {
    "consistency": (4, 6, 10, 16, 25),
    "elastic": (4, 6, 10, 12, 16, 25, 50, 100),
    "ddpm": (6, 12, 25, 50, 100),
    "analytic": (6, 12, 25, 50, 100),
}
# Paths up from exact samples, for the forward ESS.
FORWARD = 1000


def _reference(sampler: Sampler, seed: int) -> WeightedEnsemble:
    return reference_engine(sampler.system).run(sampler.system, 10_000, seed=seed + 1)


def _row(
    sampler: Sampler,
    exact: WeightedEnsemble,
    nfe: int,
    kernel: str | None,
    last_step: str | None,
    calls: int | None,
    n: int,
    seed: int,
) -> dict[str, Any]:
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
    exact = _reference(sampler, seed)
    for nfe in nfes:
        for kernel in kernels:
            for last_step in last_steps:
                plan = sampler.plan(nfe).changed(kernel, last_step)
                spend = calls if LAST_STEPS[plan.last_step].takes_calls else None
                yield _row(sampler, exact, nfe, kernel, last_step, spend, n, seed)


def _combinations(sampler: Sampler, n: int, seed: int) -> Iterator[tuple[str, int, str, str, SamplingPlan]]:
    """What tells a row from others, evaluations, kernel, which last step is asked for, and the plan."""
    denoiser = sampler.checkpoint.denoiser
    weights = weights_digest(denoiser)
    for asked in ("plan", "plain"):
        for kernel, nfes in METHODS_NFES.items():
            for nfe in nfes if PROPOSALS[kernel].suits(denoiser) else ():
                last_step = None if asked == "plan" else asked
                plan = sampler.choose(nfe, PROPOSALS[kernel].method)[1].changed(kernel, last_step)
                settings = {k: v for k, v in plan.table().items() if k not in ("seconds", "ess_fraction")}
                settings["kernel_options"] = plan.kernel_options.get(kernel)
                yield json.dumps([weights, nfe, n, seed, settings], sort_keys=True), nfe, kernel, asked, plan


def measure_methods(sampler: Sampler, out: Path, n: int = 10_000, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Consistency beside diffusion by every kernel, each with the last step of its plan and with the plain one.

    Parameters
    ----------
    sampler : Sampler
    out : Path
        JSON lines. Rows that are there already, of the same weights, plan, number and seed, are not measured again.
    n, seed : int

    Yields
    ------
    dict
        As `measure_weights`, and forward_ess_fraction (see `Sampler.forward`) and what tells rows apart.

    Raises
    ------
    FileFormatError
        The file holds something else.
    """
    n, seed = check_int("n", n, 2), check_int("seed", seed, 0, 2**31 - 1)
    rows = _read(out)
    done = {row["key"]: row for row in rows}
    exact: WeightedEnsemble | None = None
    for key, nfe, kernel, asked, plan in _combinations(sampler, n, seed):
        row = done.get(key)
        if row is None:
            exact = exact or _reference(sampler, seed)
            row = _row(sampler, exact, nfe, kernel, None if asked == "plan" else asked, None, n, seed)
            forward = sampler.forward(exact, nfe, seed, plan, FORWARD)
            row |= {"forward_ess_fraction": forward.ess_fraction, "asked": asked, "key": key}
            rows.append(row)
            write_atomic(out, "".join(json.dumps(r) + "\n" for r in rows).encode())
        yield row


def kept_methods(sampler: Sampler, out: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """Those rows of `measure_methods` that are there; a file may hold others, of other weights, plans or numbers."""
    done = {row["key"]: row for row in _read(out)}
    return [done[key] for key, *_ in _combinations(sampler, n, seed) if key in done] if done else []


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all({"kernel", "nfe", "asked", "key"} <= row.keys() for row in rows):
            raise ValueError("a row has no kernel, nfe, asked or key")
    except (ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: expected rows of an earlier measurement ({error})") from None
    return rows


def with_error(row: Mapping[str, Any], key: str, spec: str) -> str:
    """An average with its error; with a dagger instead of one if the weights are not to be trusted."""
    k, error = row.get("pareto_k"), row.get(f"{key}_err")
    text = format(row[key], spec)
    if row.get("ess_fraction", 1.0) * row.get("n", math.inf) < TRUSTED_ESS or (k is not None and k > TRUSTED_K):
        return f"{text} †"
    return text if error is None else f"{text} ± {error:{spec}}"


def methods_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    columns = ["kernel", "last step", "evaluations", "effective", "Pareto k", "forward", "log Z"]
    columns += ["effective a second", "seconds", "energy calls"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for r in rows:
        last = f"{r['last_step']} from {r['sigma_1']:.3g}" if r["sigma_1"] else r["last_step"]
        k = "–" if r["pareto_k"] is None else f"{r['pareto_k']:.2f}"
        lines.append(
            f"| {r['kernel']} | {last} | {r['nfe']} | {100 * r['ess_fraction']:.1f}% | {k} | "
            f"{100 * r['forward_ess_fraction']:.1f}% | {with_error(r, 'log_z', '.3f')} | {r['ess_per_second']:.3g} | "
            f"{r['seconds']:.0f} | {r['energy_calls']:.3g} |"
        )
    return "\n".join(lines) + "\n"
