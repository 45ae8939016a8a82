"""Consistency beside diffusion by every kernel: a table that is measured once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from idem_md.checkpoint import weights_digest
from idem_md.checks import check_int
from idem_md.diffusion import KERNELS, SamplingPlan
from idem_md.ensemble import TRUSTED_ESS, TRUSTED_K, WeightedEnsemble
from idem_md.errors import FileFormatError
from idem_md.files import write_atomic
from idem_md.measurements.weights import measure_row, reference_samples
from idem_md.sampler import Sampler

__all__ = ["kept_methods", "measure_methods", "methods_table", "with_error"]

# Network evaluations of the table of methods.
METHODS_NFES = {
    "consistency": (4, 6, 10, 16, 25),
    "elastic": (4, 6, 10, 12, 16, 25, 50, 100),
    "ddpm": (6, 12, 25, 50, 100),
    "analytic": (6, 12, 25, 50, 100),
}
# Paths up from exact samples, for the forward ESS.
FORWARD = 1000


def _combinations(sampler: Sampler, n: int, seed: int) -> Iterator[tuple[str, int, str, str, SamplingPlan]]:
    """What tells a row from others, evaluations, kernel, which last step is asked for, and the plan."""
    denoiser = sampler.checkpoint.denoiser
    weights = weights_digest(denoiser)
    for asked in ("plan", "plain"):
        for kernel, nfes in METHODS_NFES.items():
            for nfe in nfes if KERNELS[kernel].suits(denoiser) else ():
                last_step = None if asked == "plan" else asked
                plan = sampler.plan(nfe, KERNELS[kernel].method).changed(kernel, last_step)
                # Several paths compete only with a twin, and older rows do not say how many.
                beside = "seconds", "ess_fraction", "nfe", "weighted", "candidate_paths"
                settings = {k: v for k, v in plan.table().items() if k not in beside}
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
            exact = exact or reference_samples(sampler, seed)
            row = measure_row(sampler, exact, nfe, kernel, None if asked == "plan" else asked, None, n, seed)
            forward = sampler.forward(exact, plan, seed, FORWARD)
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
