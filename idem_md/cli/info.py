"""``idem-md info``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..progress import working
from .console import print_json
from .tune import plan_tables

__all__ = ["info"]


def _of_checkpoint(source: str) -> dict[str, Any]:
    from ..sampler import load_sampler

    checkpoint = load_sampler(source).checkpoint
    # Lists are long: losses, errors by level.
    heads = {
        name: {key: value for key, value in record.items() if isinstance(value, int | float) or key == "gain_nats"}
        for name, record in checkpoint.provenance.get("heads", {}).items()
    }
    return {
        "kind": "checkpoint",
        "system": checkpoint.system.name,
        "digest": checkpoint.digest,
        "network": checkpoint.config["network"]["name"],
        "noise": list(checkpoint.noise_range),
        "temperatures_K": [rung.kelvin for rung in checkpoint.rungs] or None,
        "training": {k: v for k, v in checkpoint.provenance.items() if k not in ("heads", "versions")},
        "heads": {name: heads.get(name, {}) for name in checkpoint.denoiser.heads},
        "plans": plan_tables(checkpoint),
        "frugal_plan": checkpoint.frugal_plan().table(),
    }


def _of_ensemble(source: str) -> dict[str, Any]:
    from ..ensemble import load_ensemble
    from ..provenance import finite_or_none

    e = load_ensemble(source)
    mean, error = e.mean_energy
    return {
        "kind": f"ensemble ({e.kind})",
        "system": e.system.name,
        "n": len(e),
        "ess": finite_or_none(e.ess),
        "log_z": finite_or_none(e.log_z),
        "log_z_err": finite_or_none(e.log_z_err),
        "mean_energy": mean,
        "mean_energy_err": finite_or_none(error),
        "provenance": dict(e.provenance),
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)


def _plan(plan: dict[str, Any]) -> str:
    """One line."""
    from ..diffusion import SamplingPlan

    own = SamplingPlan.of(plan)
    effort = f", {own.build_last_step().calls:,} calls" if own.options.get("schedule") else ""
    effort += f", one of {own.candidate_paths} paths" if own.candidate_paths > 1 else ""
    level = "" if plan["sigma_1"] is None else f" from sigma {plan['sigma_1']:.3g}"
    found = "" if plan["ess_fraction"] is None else f": {100 * plan['ess_fraction']:.0f}% effective"
    cost = "" if plan["seconds"] is None else f", {1e3 * plan['seconds']:.2g} ms a sample"
    return f"{plan['kernel']}, {plan['last_step']}{level}{effort}{found}{cost}"


def info(
    source: Annotated[str, typer.Argument(help="A shipped system, a run folder, a checkpoint or samples.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a checkpoint, a run folder or an ensemble is: idem-md info lj13"""
    with working():
        from ..ensemble import READABLE

        facts = _of_ensemble(source) if Path(source).suffix in READABLE else _of_checkpoint(source)
    if as_json:
        return print_json(facts)
    from rich.console import Console
    from rich.table import Table

    grid = Table(show_header=False)
    for key, value in facts.items():
        if key == "heads":
            for name, record in value.items():
                grid.add_row(name.replace("_", " "), _shown(record))
        elif key not in ("plans", "frugal_plan") and value is not None:
            grid.add_row(key, _shown(value))
    for plans in facts.get("plans", {}).values():
        for nfe, plan in plans.items():
            grid.add_row(f"plan, {nfe} evaluations", _plan(plan))
    if facts.get("frugal_plan"):
        grid.add_row("plan for expensive potentials", _plan(facts["frugal_plan"]))
    Console().print(grid)
