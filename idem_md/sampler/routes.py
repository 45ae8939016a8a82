"""How samples are drawn: by which plan, of those that were tuned, and with what number of network evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..chains import first_step
from ..checkpoint import Checkpoint
from ..checks import check_choice, check_int
from ..diffusion import PROPOSALS, Denoiser, LastStep, Proposal, SamplingPlan, best_plan
from ..errors import UsageError

__all__ = ["NFE", "Route", "choose_plan", "methods", "route_of"]

# Network evaluations, where nothing has been measured that they could be chosen by.
NFE = 25
# More levels than that differ by rounding only.
MOST_NFE = 100_000


def methods() -> tuple[str, ...]:
    """What `Sampler.sample` takes as ``method``: ``auto``, and those of the kernels that are registered."""
    return "auto", *dict.fromkeys(kind.method for kind in PROPOSALS.values())


class Route(NamedTuple):
    """How samples are drawn: plan and options put together."""

    plan: SamplingPlan
    proposal: Proposal
    ending: LastStep
    levels: Sequence[float]
    weighted: bool = True
    spared: bool = False


def choose_plan(checkpoint: Checkpoint, own: bool, nfe: int | None, method: str) -> tuple[int, SamplingPlan]:
    """See `Sampler.choose`; ``own`` if plans with many energy calls a sample are to be thought of."""
    known = list(checkpoint.plans)
    check_choice("method", method, methods())
    if nfe is not None:
        check_int("nfe", nfe, 2, MOST_NFE)
    if method == "consistency" and not checkpoint.denoiser.has_jumps:
        raise UsageError("method: expected diffusion, the checkpoint has no jumps; see idem-md distill")
    able = known if method == "auto" else [method]
    plans = {(m, k): p for m in able for k, p in checkpoint.plans.get(m, {}).items()}
    if not own or not plans:
        return nfe or NFE, checkpoint.frugal_plan("diffusion" if method == "auto" else method)
    if nfe is not None:
        plans = {(m, nfe): checkpoint.plan(nfe, m) for m in able}
    best = best_plan(plans)
    return best[1], plans[best]


def route_of(checkpoint: Checkpoint, denoiser: Denoiser, nfe: int, plan: SamplingPlan) -> Route:
    """The parts that a plan names, with so many noise levels."""
    if plan.moves and plan.move_step is None:
        plan = replace(plan, move_step=first_step(checkpoint.system.sigma_data))
    proposal = plan.proposal(denoiser, checkpoint.accuracy)
    return Route(plan, proposal, plan.build(), plan.levels(nfe, *checkpoint.noise_range))
