"""Which plan samples are drawn by: the one place where what a user asks for is turned into a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, cast

from ..chains import first_step
from ..checkpoint import Checkpoint
from ..checks import check_choice
from ..diffusion import (
    KERNELS,
    LAST_STEPS,
    MovedLastStep,
    PathSampler,
    SamplingPlan,
    TwinPaths,
    best_kernel,
    best_plan,
)
from ..diffusion import methods as kernels_by_method
from ..energies import Energy, NativeAnnealing, Twin
from ..ensemble import WeightedEnsemble
from ..errors import UsageError
from ..systems import System
from ..tables import Table, parse_table, read_toml

__all__ = [
    "PlanOptions",
    "by_twin",
    "choose_plan",
    "methods",
    "plan_of",
    "refuse_other_atoms",
    "read_plan_options",
    "twin_for",
    "with_move_step",
]

# Network evaluations, where nothing has been measured that they could be chosen by; and those of raw samples.
DEFAULT_NFE, DEFAULT_RAW_NFE = 25, 4


def refuse_other_atoms(name: str, system: System, checkpoint: Checkpoint) -> None:
    """Raise `UsageError` unless a system has the atoms of a checkpoint."""
    kinds, n_dims = checkpoint.system.kinds, checkpoint.system.n_dims
    if system.n_dims != n_dims:
        raise UsageError(f"{name}: expected {n_dims} dimensions as in the checkpoint, got {system.n_dims}")
    if system.kinds != kinds:
        raise UsageError(
            f"{name}: expected {len(kinds)} atoms of kinds {kinds} as in the checkpoint, got {system.kinds}"
        )


def twin_for(checkpoint: Checkpoint, system: System | None, given: System | None) -> Energy | None:
    """The energy of a given system, or the twin of a checkpoint, at the temperature of a system, for whose potential it
    stands; None if there is none, or if the twin is that potential itself, or that anneals natively.

    Raises
    ------
    UsageError
        A given system of other atoms, or in other units than the other, or without another one.
    """
    if given is not None:
        if system is None:
            raise UsageError("system: expected the system for whose potential the twin stands, got none")
        refuse_other_atoms("twin", given, checkpoint)
        if given.units != system.units:
            raise UsageError(f"twin: expected the units of the system, {system.units}, got {given.units}")
        return given.energy()
    twin = None if system is None else checkpoint.twin
    if system is None or twin is None:
        return None
    if not system.has_energy or isinstance(system.origin(), Twin | NativeAnnealing):
        return None
    return twin.scaled(twin.units.temperature_kelvin / system.units.temperature_kelvin)


def by_twin(paths: PathSampler, twin: Energy | None, candidate_paths: int) -> PathSampler | TwinPaths:
    """Paths whose last step calls the twin, if there is one, and the potential once a sample.

    Raises
    ------
    UsageError
        Moves, which would leave the distribution of the twin as it is and not that of the potential; or several paths
        a sample without a twin, where each would call the potential.
    """
    if twin is None and candidate_paths > 1:
        raise UsageError(f"candidate_paths: expected 1 without a twin, got {candidate_paths}")
    if twin is None:
        return paths
    if isinstance(paths.last_step, MovedLastStep):
        raise UsageError(f"moves: expected 0 with a twin, got {paths.last_step.moves}")
    return TwinPaths(paths, twin, candidate_paths)


class PathOptions(TypedDict, total=False):
    """`PlanOptions` but for the number of evaluations."""

    method: str
    kernel: str | None
    last_step: str | None
    last_step_calls: int | None
    moves: int | None
    weighted: bool
    candidate_paths: int | None


class PlanOptions(PathOptions, total=False):
    """What `Sampler.plan` takes, for those who call `Sampler.sample` without a plan."""

    nfe: int | None


class _PlanTable(Table):
    """`PlanOptions` in a file."""

    nfe: int | None = None
    method: str = "auto"
    kernel: str | None = None
    last_step: str | None = None
    last_step_calls: int | None = None
    moves: int | None = None
    weighted: bool = True
    candidate_paths: int | None = None


def read_plan_options(path: Path) -> PlanOptions:
    """The `PlanOptions` of a TOML file.

    Raises
    ------
    ConfigError
        It cannot be read, or has keys or types that are none of theirs.
    """
    table = read_toml(path)
    parse_table(_PlanTable, table, str(path))
    return cast(PlanOptions, table)


def plan_of(ensemble: WeightedEnsemble) -> SamplingPlan:
    """The plan that samples were drawn by.

    Raises
    ------
    UsageError
        Their provenance names none.
    """
    p: Mapping[str, Any] = ensemble.provenance
    missing = [key for key in ("plan", "nfe", "chunks") if not p.get(key)]
    if missing:
        raise UsageError(f"ensemble: expected samples of a sampler, there is no {missing[0]} in the provenance")
    # Plans of version 0.1 say neither.
    return SamplingPlan.of({**p["plan"], "nfe": p["nfe"], "weighted": ensemble.kind != "raw"})


def methods() -> tuple[str, ...]:
    """What `Sampler.plan` takes as ``method``: ``auto``, and those of the kernels that are registered."""
    return "auto", *kernels_by_method()


def _method(checkpoint: Checkpoint, method: str, kernel: str | None, weighted: bool) -> str:
    """The method of the kernel, or that for raw samples if the checkpoint has one, or what was asked for."""
    check_choice("method", method, methods())
    if kernel is not None:
        kind = KERNELS.find(kernel)
        if method not in ("auto", kind.method):
            raise UsageError(f"kernel: expected one for the method {method!r}, got {kernel!r}")
        if not kind.suits(checkpoint.denoiser):
            raise UsageError(f"kernel: expected another than {kernel!r}, for which the checkpoint lacks {kind.needs}")
        return kind.method
    if method == "auto" and not weighted:
        able = [kind for kind in KERNELS.values() if kind.few_evaluations and kind.suits(checkpoint.denoiser)]
        return able[0].method if able else method
    return method


def choose_plan(
    checkpoint: Checkpoint,
    cheap: bool,
    nfe: int | None = None,
    method: str = "auto",
    kernel: str | None = None,
    last_step: str | None = None,
    last_step_calls: int | None = None,
    moves: int | None = None,
    weighted: bool = True,
    candidate_paths: int | None = None,
) -> SamplingPlan:
    """See `Sampler.plan`; ``cheap`` if plans with many energy calls a sample are to be thought of."""
    method = _method(checkpoint, method, kernel, weighted)
    if last_step is not None:
        LAST_STEPS.find(last_step)
    if nfe is None and not weighted:
        nfe = DEFAULT_RAW_NFE
    # With its range checked; a single evaluation has the levels of two.
    asked = SamplingPlan(nfe=nfe, weighted=weighted)
    levels = None if nfe is None else max(nfe, 2)
    if method != "auto":
        best_kernel(checkpoint.denoiser, method)  # raises if there is none
    known = list(checkpoint.plans) if method == "auto" else [method]
    frugal = checkpoint.frugal_plan() if method == "auto" else checkpoint.frugal_plan(method)
    tuned = [plan for m in known for plan in checkpoint.plans.get(m, {}).values()]
    if not cheap or not tuned or last_step == frugal.last_step:
        plan = replace(frugal, nfe=levels or DEFAULT_NFE)
    else:
        plan = best_plan(tuned if levels is None else [checkpoint.plan(levels, m) for m in known])
    plan = with_move_step(plan.changed(kernel, last_step, last_step_calls, moves, candidate_paths), checkpoint)
    if weighted:
        return plan
    if candidate_paths not in (None, 1):
        raise UsageError(f"candidate_paths: expected 1 without weights, got {candidate_paths}")
    return replace(plan, nfe=asked.nfe, weighted=False, candidate_paths=1)


def with_move_step(plan: SamplingPlan, checkpoint: Checkpoint) -> SamplingPlan:
    """The plan with a step for its moves, if it has moves and none was tuned.

    Raises
    ------
    UsageError
        No plan.
    """
    if not isinstance(plan, SamplingPlan):
        raise UsageError(f"plan: expected a SamplingPlan, see Sampler.plan, got {plan!r}")
    if plan.moves and plan.move_step is None:
        return replace(plan, move_step=first_step(checkpoint.system.sigma_data))
    return plan
