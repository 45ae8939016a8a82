"""How to sample: the parts of a path by name and number, as tuning finds them and checkpoints keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from ..checks import check_float, check_int
from ..errors import UsageError
from .accuracy import DenoiserAccuracy
from .kernels import KERNELS, TransitionKernel
from .last_step import LAST_STEPS, LastStep, MovedLastStep
from .paths import PathSampler
from .schedule import noise_grid

__all__ = ["MOVES_SHARE", "SamplingPlan", "Tuned", "best_plan"]

# One in so many of the energy calls of a plan for its moves.
MOVES_SHARE = 8
# A smaller share of effective samples than this part of the largest is not worth its speed: few samples would carry it.
WORTH_HAVING = 0.75
# Beyond, a chunk of samples takes too long.
MAX_CANDIDATE_PATHS = 1024
# More levels than that differ by rounding only.
MAX_NFE = 100_000


@dataclass(frozen=True)
class Tuned:
    """What tuning found of a plan.

    Attributes
    ----------
    paths, last_step : float
        Variance of log w that comes from the steps between levels, and from the last step.
    alternatives : tuple of SamplingPlan
        Which suit other numbers of energy calls better; see `SamplingPlan.changed`.
    """

    paths: float
    last_step: float
    alternatives: tuple[SamplingPlan, ...] = ()

    @property
    def variance(self) -> float:
        """The variance of log w, expected in all."""
        return self.paths + self.last_step

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Tuned:
        """What a `SamplingPlan.table` has of it."""
        alternatives = tuple(SamplingPlan.of(plan) for plan in table["alternatives"])
        return cls(table["paths"], table["last_step"], alternatives)


@dataclass(frozen=True)
class SamplingPlan:
    """The parts of a sampler, by name and number.

    Attributes
    ----------
    kernel : str
        A name of `KERNELS`.
    last_step : str
        A name of `LAST_STEPS`.
    sigma_1 : float, optional
        Lowest noise level; by default the lowest of the training.
    density : tuple of float, optional
        Where levels are dense; see `noise_grid`.
    kernel_options : dict of dict
        Of kernels, by name, for these levels; see `TransitionKernel.fitted`.
    options : dict
        Of the last step; see `LastStep.build`.
    ess_fraction, seconds : float, optional
        Measured when it was tuned: share of effective samples of forward paths, and seconds a sample. None for a plan
        that was changed since.
    tuned : Tuned, optional
        What else tuning found of it.
    moves : int
        Langevin steps on u after the last step; see `MovedLastStep`.
    move_step : float, optional
        Their step, in reduced length squared.
    nfe : int, optional
        Network evaluations a sample; None for a plan that serves any number. One is for raw samples alone.
    weighted : bool
        Whether samples get weights; without them they are raw.
    candidate_paths : int
        With a twin: paths by it, of which one becomes the sample; see `TwinPaths`.
    """

    kernel: str = "analytic"
    last_step: str = "plain"
    sigma_1: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ess_fraction: float | None = None
    seconds: float | None = None
    moves: int = 0
    move_step: float | None = None
    density: tuple[float, ...] | None = None
    kernel_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    nfe: int | None = None
    weighted: bool = True
    tuned: Tuned | None = field(default=None, repr=False, hash=False)
    candidate_paths: int = 1

    def __post_init__(self):
        if self.sigma_1 is not None:
            check_float("sigma_1", self.sigma_1, above=0.0)
        object.__setattr__(self, "moves", check_int("moves", self.moves, 0))
        if self.nfe is not None:
            object.__setattr__(self, "nfe", check_int("nfe", self.nfe, 2 if self.weighted else 1, MAX_NFE))
        paths = check_int("candidate_paths", self.candidate_paths, 1, MAX_CANDIDATE_PATHS)
        object.__setattr__(self, "candidate_paths", paths)

    def build_last_step(self) -> LastStep:
        """The last step, with the moves after it.

        Raises
        ------
        UsageError
            A name that is not known, options that do not suit, or moves without a step.
        """
        last = LAST_STEPS.find(self.last_step).build(self.options)
        if not self.moves:
            return last
        if self.move_step is None:
            raise UsageError(f"move_step: expected a step for {self.moves} moves, got None")
        return MovedLastStep(last, self.moves, self.move_step)

    def build_kernel(self, denoiser: Any, accuracy: DenoiserAccuracy) -> TransitionKernel:
        """The kernel of a denoiser of that accuracy.

        Raises
        ------
        UsageError
            A name that is not known, or a kernel for which the denoiser has not what it takes.
        """
        return KERNELS.find(self.kernel)(denoiser, accuracy, **self.kernel_options.get(self.kernel, {}))

    def levels(self, lowest: float, highest: float) -> tuple[float, ...]:
        """Noise levels, at least two; ``lowest`` if the plan has none.

        Raises
        ------
        UsageError
            The plan does not say how many.
        """
        if self.nfe is None:
            raise UsageError("nfe: expected the number of network evaluations of the plan, got None")
        return noise_grid(self.sigma_1 or lowest, highest, max(self.nfe, 2), density=self.density)

    def build(
        self,
        denoiser: Any,
        accuracy: DenoiserAccuracy,
        noise_range: tuple[float, float],
        sigma_data: float,
        device: torch.device | str = "cpu",
    ) -> PathSampler:
        """The paths of a denoiser, with lowest and highest noise level of its training and scale of its data.

        Raises
        ------
        UsageError
            See `build_kernel`, `build_last_step` and `levels`.
        """
        kernel, last_step = self.build_kernel(denoiser, accuracy), self.build_last_step()
        return PathSampler(kernel, last_step, self.levels(*noise_range), sigma_data, device)

    def changed(
        self,
        kernel: str | None = None,
        last_step: str | None = None,
        last_step_calls: int | None = None,
        moves: int | None = None,
        candidate_paths: int | None = None,
    ) -> SamplingPlan:
        """With what a user asks for in its place; what was tuned for another last step is left out.

        A number of calls includes the moves of the plan, which keep their share of it; the plan or one of its
        alternatives is taken, that of the least variance of log w with so many.
        """
        plan = self
        if kernel is not None:
            plan = replace(plan, kernel=kernel, ess_fraction=None, seconds=None, tuned=None)
        if last_step is not None and last_step != self.last_step:
            plan = replace(plan, last_step=last_step, sigma_1=None, density=None, options={}, moves=0)
            plan = replace(plan, ess_fraction=None, seconds=None, tuned=None)
        if last_step_calls is not None:
            last_step_calls = check_int("last_step_calls", last_step_calls, 1)
            if moves is None and plan.moves:
                plan = replace(plan, moves=last_step_calls // MOVES_SHARE)
                last_step_calls -= plan.moves
            plan = plan._with_calls(last_step_calls)
        if candidate_paths is not None:
            plan = plan.of_candidates(check_int("candidate_paths", candidate_paths, 1, MAX_CANDIDATE_PATHS))
        return plan if moves is None else replace(plan, moves=check_int("moves", moves, 0))

    def of_candidates(self, candidate_paths: int) -> SamplingPlan:
        """The plan with so many paths a sample, and what it should give: the mean of M independent weights has one Mth
        of their variance."""
        by, share, seconds = candidate_paths / self.candidate_paths, self.ess_fraction, self.seconds
        return replace(
            self,
            candidate_paths=candidate_paths,
            ess_fraction=share and share * by / (1 - share + share * by),
            seconds=seconds and seconds * by,
        )

    def _with_calls(self, calls: int) -> SamplingPlan:
        """The plan with so many energy calls of the last step, and what they should give."""

        def with_calls(plan: SamplingPlan) -> Tuned:
            assert plan.tuned is not None
            known = LAST_STEPS.find(plan.last_step).build(plan.options).calls
            return Tuned(plan.tuned.paths, plan.tuned.last_step * known / calls)

        alternatives = self.tuned.alternatives if self.tuned else ()
        able = [plan for plan in (self, *alternatives) if plan.tuned is not None]
        best = min(able, key=lambda plan: with_calls(plan).variance, default=self)
        share, tuned = None, None
        if best.tuned is not None:
            tuned = with_calls(best)
            share = (best.of_candidates(1).ess_fraction or 0.0) * math.exp(best.tuned.variance - tuned.variance)
        return replace(
            self,
            kernel=best.kernel,
            last_step=best.last_step,
            sigma_1=best.sigma_1,
            density=best.density,
            kernel_options={**self.kernel_options, **best.kernel_options},
            options=LAST_STEPS.find(best.last_step).of_calls(best.options, calls),
            ess_fraction=share,
            seconds=None,
            tuned=tuned,
            candidate_paths=1,
        ).of_candidates(self.candidate_paths)

    def table(self) -> dict[str, Any]:
        """The plan as JSON; the inverse is `SamplingPlan.of`."""
        table = asdict(self)
        if self.tuned is None:
            del table["tuned"]  # as in files that are older than it
        return table

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> SamplingPlan:
        """The plan of a `table`, of this version or an older one.

        Raises
        ------
        UsageError
            Keys that are not known.
        """
        unknown = sorted(table.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise UsageError(f"plan: expected some of {', '.join(cls.__dataclass_fields__)}, got {unknown[0]!r}")
        density, tuned = table.get("density"), table.get("tuned")
        density = None if density is None else tuple(density)
        return cls(**{**table, "density": density, "tuned": None if tuned is None else Tuned.of(tuned)})


def best_plan(plans: Sequence[SamplingPlan]) -> SamplingPlan:
    """The plan with the most effective samples a second, as measured when it was tuned.

    Only plans count whose share of effective samples is not much below the largest; plans that were not measured come
    last.
    """
    most = max(plan.ess_fraction or 0.0 for plan in plans)
    good = [plan for plan in plans if (plan.ess_fraction or 0.0) >= WORTH_HAVING * most]
    return max(good, key=lambda plan: (plan.ess_fraction or 0.0) / (plan.seconds or 1.0))
