"""Sampling plans by number of network evaluations.

Plans are tuned on forward paths, which start at samples of the system and so see every mode: never on samples that are
later reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from ..chains import equilibrate, finite_start, first_step
from ..checkpoint import Checkpoint
from ..diffusion import (
    KERNELS,
    LAST_STEPS,
    DiffusionKernel,
    Evaluation,
    LastStep,
    PathSampler,
    SamplingPlan,
    methods,
    noise_grid,
)
from ..diffusion.kernels import best_kernel, evaluate_in_chunks
from ..diffusion.plan import MOVES_SHARE, Tuned
from ..energies import Energy
from ..ensemble import ForwardWeights
from ..errors import ResultError
from ..geometry import standard_normal
from ..seeds import draw_seed

__all__ = ["default_nfes", "measure_plan_seconds", "tune_plans"]

# Lowest noise level in units of the standard deviation of a coordinate.
LOWEST = (0.2, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0)
# Samples from which the step of moves is tuned, and samples by which a plan is timed, at most and (or confirmed) least.
STEP_SAMPLES, MAX_TIMED_SAMPLES, LEAST_TIMED = 250, 1000, 16
# Samples from which the number of calls of a pilot is found, and by which anything is measured at least.
FEW = 48
# Variance of a pilot from which one can be extrapolated to more calls; how many times as many are tried next.
PILOT_VARIANCE, MORE = 3.0, 4
# Part of its variance that a pilot has at most with so many more calls, or more are of no use: it should be a fourth.
LEAST_GAIN = 0.8
# Seconds of a pilot of one last step at one level, of one trial of the paths above, of the confirmation and of the
# timing of one plan; fewer samples are used where they do not suffice.
PILOT_SECONDS, PATH_SECONDS, CONFIRM_SECONDS, TIMED_SECONDS = 12.0, 1.5, 10.0, 4.0
# By speed alone, exp(-1) of the samples would be effective where the last step takes most of the time; with this power
# of the share, exp(-1/3). It is two thirds of the number of evaluations, within these bounds.
SHARE_POWERS = 3.0, 16.0
# From this number of effective samples on a share is counted, below it follows from the variance of log w.
COUNTED = 50
# Added to a seed for random numbers of paths, and of the confirmation: those of their starts are others.
PATH_SEED, CONFIRM_SEED = 1_000_003, 2_000_003
# One standard normal number in ten is above this.
NORMAL_DECILE = 1.2815515655446004
# Levels, each with a kernel, that are tried with all numbers of evaluations, beside those for other energy calls.
LEVELS_LEFT = 4
# Energy calls of plans that are kept beside that of most worth, as multiples of its own.
OTHER_CALLS = (1 / 16, 1 / 4, 4.0)


def default_nfes() -> dict[str, tuple[int, ...]]:
    """Numbers of evaluations for which plans are tuned, by method."""
    return {method: KERNELS[names[0]].nfes for method, names in methods().items()}


def tune_plans(
    checkpoint: Checkpoint,
    energy: Energy,
    samples: torch.Tensor,
    nfes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    on_plan: Callable[[SamplingPlan], None] = lambda _: None,
) -> Checkpoint:
    """The checkpoint with a `SamplingPlan` for each of ``nfes``: that with the most effective samples a second times
    the square of their share, or a higher power of it for many evaluations, as who asks for more of them asks for
    better samples. The share counts apart, as with a small one few samples carry the averages.

    Plans are told apart by the variance of log w, which is measured where the share of effective samples, about
    exp(-variance), is still too small to be: that of paths for each kernel, level and number of evaluations, that of
    last steps for each level, from two of them for each sample. The latter falls as one over the energy calls, which
    says how many to spend. The plan that is found is confirmed with other random numbers, and timed by sampling,
    together with the plans that stay.

    Parameters
    ----------
    checkpoint : Checkpoint
        Every registered kernel is tried that is ``tuned`` and suits the denoiser with its heads.
    energy : Energy
        Of the checkpoint's system; its calls are counted.
    samples : torch.Tensor, shape (n, N, D)
        Equilibrium samples, at least a few hundred. Options of kernels are fitted to every fourth, plans are measured
        on the others, or on some of them where a sample takes long.
    nfes : dict of sequence of int, optional
        By method, by default `default_nfes`; plans for others stay as they are.
    seed : int
    on_plan : callable (SamplingPlan)
    """
    nfes = default_nfes() if nfes is None else nfes
    fourth = torch.arange(len(samples)) % 4 == 3
    others, samples = samples[fourth].double(), samples[~fourth].double()
    samples = samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))]
    step = _move_step(energy, samples, checkpoint.system.sigma_data, seed)
    bottoms = [_Bottom(checkpoint, energy, samples, share, step, seed + k) for k, share in enumerate(LOWEST)]
    plans = dict(checkpoint.plans)
    for method, names in methods().items():
        tried_kernels = [name for name in names if KERNELS[name].tuned and KERNELS[name].suits(checkpoint.denoiser)]
        wanted = sorted(nfes.get(method, ())) if tried_kernels else []
        found: dict[int, SamplingPlan] = {}
        # Which levels are worth trying hardly depends on the number of evaluations.
        worth = _worth_trying(bottoms, tried_kernels, wanted[len(wanted) // 2], others) if wanted else []
        for nfe in wanted:
            tried = [one for level, kernel in worth for one in level.candidates(kernel, nfe, others)]
            if not tried:
                raise ResultError(f"tune: no path of {nfe} evaluations had a weight; the network has not learnt enough")
            # More evaluations are not to be worse than fewer.
            least = max((plan.ess_fraction or 0.0 for plan in found.values()), default=0.0)
            plan = _most_worth([one.plan() for one in tried], least)
            other = [one.plan() for one in _by_calls(tried, plan)]
            other = [one for one in other if (one.kernel, one.sigma_1) != (plan.kernel, plan.sigma_1)]
            plan = _confirmed(checkpoint, plan, other, energy, samples, seed)
            found[nfe] = _with_siblings(checkpoint, plan, others, seed)
            on_plan(found[nfe])
        if found:
            plans[method] = found
    return measure_plan_seconds(replace(checkpoint, plans=plans), energy, seed)


def _share_power(plan: SamplingPlan) -> float:
    """To which power a share of effective samples counts."""
    assert plan.nfe is not None
    return min(max(2 / 3 * plan.nfe, SHARE_POWERS[0]), SHARE_POWERS[1])


def _log_worth(plan: SamplingPlan) -> float:
    """The logarithm of a power of the expected share of effective samples, divided by the seconds a sample: the share
    itself may be too small for a number."""
    assert plan.tuned is not None and plan.seconds is not None
    return -_share_power(plan) * plan.tuned.variance - math.log(plan.seconds)


def _most_worth(plans: Sequence[SamplingPlan], least: float) -> SamplingPlan:
    """The plan that is worth most, of those with at least such a share of effective samples if there are any."""
    enough = [plan for plan in plans if (plan.ess_fraction or 0.0) >= least]
    return max(enough or plans, key=_log_worth)


def _by_calls(tried: Sequence[_Candidate], plan: SamplingPlan) -> list[_Candidate]:
    """The candidates that are worth most with fewer or more energy calls than a plan has, each once."""
    calls = replace(plan, moves=0).build_last_step().calls
    best = [max(tried, key=lambda one: _log_worth(one.plan(max(round(calls * by), 2)))) for by in OTHER_CALLS]
    return list(dict.fromkeys(best))


def _worth_trying(
    bottoms: Sequence[_Bottom], kernels: Sequence[str], nfe: int, others: torch.Tensor
) -> list[tuple[_Bottom, str]]:
    """Levels and kernels whose plans are worth most, with the energy calls that suit them or with fewer or more."""
    pairs = [(level, kernel) for level in bottoms for kernel in kernels]
    tried = {one: pair for pair in pairs for one in pair[0].candidates(pair[1], nfe, others)}
    if not tried:
        return pairs
    best = sorted(tried, key=lambda one: -_log_worth(one.plan()))[:LEVELS_LEFT]
    return list(dict.fromkeys(tried[one] for one in (*best, *_by_calls(list(tried), best[0].plan()))))


def _confirmed(
    checkpoint: Checkpoint,
    plan: SamplingPlan,
    alternatives: Sequence[SamplingPlan],
    energy: Energy,
    samples: torch.Tensor,
    seed: int,
) -> SamplingPlan:
    """The plan with its alternatives, and the share of effective samples that paths up from samples give, by other
    random numbers."""
    assert plan.tuned is not None
    paths = plan.build(checkpoint.denoiser, checkpoint.accuracy, checkpoint.noise_range, checkpoint.system.sigma_data)
    generator = torch.Generator().manual_seed(seed + CONFIRM_SEED)
    log_w, _ = _timed(lambda x: paths.forward(energy, x, generator), samples, CONFIRM_SECONDS, LEAST_TIMED)
    share = ForwardWeights(log_w.numpy()).ess_fraction
    if not share * len(log_w) >= COUNTED:  # a NaN is not enough either
        share = math.exp(-0.5 * (plan.tuned.variance + robust_variance(log_w)))
    return replace(plan, ess_fraction=share, tuned=replace(plan.tuned, alternatives=tuple(alternatives)))


def _with_siblings(checkpoint: Checkpoint, plan: SamplingPlan, others: torch.Tensor, seed: int) -> SamplingPlan:
    """The plan with options for other kernels of its method, which a user may ask for in its place."""
    grid, options = plan.levels(*checkpoint.noise_range), dict(plan.kernel_options)
    for name in methods()[KERNELS[plan.kernel].method]:
        if name != plan.kernel and KERNELS[name].suits(checkpoint.denoiser):
            generator = torch.Generator().manual_seed(seed)
            fitted = KERNELS[name].fitted(checkpoint.denoiser, checkpoint.accuracy, grid, others, generator)
            options |= {name: fitted} if fitted else {}
    return replace(plan, kernel_options=options)


def measure_plan_seconds(checkpoint: Checkpoint, energy: Energy, seed: int = 0) -> Checkpoint:
    """The checkpoint with ``seconds`` of all its plans measured one after the other, by sampling: so they compare."""
    c, generator = checkpoint, torch.Generator().manual_seed(seed)

    def seconds(plan: SamplingPlan) -> float:
        paths = plan.build(c.denoiser, c.accuracy, c.noise_range, c.system.sigma_data)
        known = plan.seconds or TIMED_SECONDS / MAX_TIMED_SAMPLES
        n = min(paths.block(energy), MAX_TIMED_SAMPLES, max(int(TIMED_SECONDS / known), LEAST_TIMED))
        start = time.perf_counter()
        paths.sample([energy], n, generator)
        return (time.perf_counter() - start) / n

    plans = {
        method: {nfe: replace(plan, seconds=seconds(plan)) for nfe, plan in known.items()}
        for method, known in c.plans.items()
    }
    return replace(c, plans=plans, digest="")


def _move_step(energy: Energy, samples: torch.Tensor, sigma_data: float, seed: int) -> float:
    """The Langevin step for moves on u."""
    seeds = torch.Generator().manual_seed(seed)
    start = finite_start(energy, samples[:STEP_SAMPLES].float())
    return equilibrate(energy, start, first_step(sigma_data), 20, 20, lambda: draw_seed(seeds), gain=1.0)[1]


@dataclass(frozen=True)
class _Tried:
    """One way of ending paths at one level.

    Attributes
    ----------
    name, options, last_step
        The last step of the pilot.
    log_w : torch.Tensor, shape (2, n)
        What `LastStep.retrace` gives for the first n samples, twice.
    seconds : float
        Time that one of the two takes for a sample.
    """

    name: str
    options: dict[str, Any]
    last_step: LastStep
    log_w: torch.Tensor
    seconds: float

    @cached_property
    def variance(self) -> float:
        """What the last step adds to the variance of log w: half that of the difference of two for the same sample."""
        return 0.5 * robust_variance(self.log_w[0] - self.log_w[1])

    def above(self, log_w: torch.Tensor) -> float:
        """The variance of log w without what the last step adds, from what is above the level."""
        n = min(len(log_w), self.log_w.shape[1])
        of_both = [effective_variance(log_w[:n] + last_step[:n]) for last_step in self.log_w]
        return max(0.5 * sum(of_both) - self.variance, 0.0)

    def calls(self, seconds: float, power: float) -> int:
        """Energy calls a sample for the largest worth of a plan whose paths take so many seconds, with a share to that
        power; see `_log_worth`.

        With the variance c / C of C calls of s seconds, exp(-p c / C) / (t + s C) is largest where
        s C^2 = p c (t + s C).
        """
        known = self.last_step.calls
        half, s = 0.5 * power * self.variance * known, self.seconds / known
        return max(math.ceil(half + math.sqrt(half * half + 2 * half * seconds / s)), 2)


class _Bottom:
    """Samples noised to a lowest level, and what last steps from there give."""

    def __init__(
        self, checkpoint: Checkpoint, energy: Energy, samples: torch.Tensor, share: float, step: float, seed: int
    ):
        self.checkpoint, self.move_step, self.seed = checkpoint, step, seed
        sigma_data = checkpoint.system.sigma_data
        self.sigma = share * sigma_data
        generator = torch.Generator().manual_seed(seed)
        self.x = samples + self.sigma * standard_normal(samples.shape, generator)
        # With what every denoiser knows, as last steps of more samples than a batch get no more.
        analytic = KERNELS[best_kernel(None, DiffusionKernel.method)](checkpoint.denoiser, checkpoint.accuracy)
        evaluation = evaluate_in_chunks(analytic, self.x, self.sigma)
        self.tried: list[_Tried] = []
        self._candidates: dict[tuple[str, int], list[_Candidate]] = {}
        for name, kind in LAST_STEPS.items():
            for options in kind.efforts(energy, evaluation, sigma_data, seed):
                tried = _pilot(name, options, energy, evaluation, samples, generator)
                if math.isfinite(tried.variance):
                    self.tried.append(tried)

    def candidates(self, kernel: str, nfe: int, others: torch.Tensor) -> list[_Candidate]:
        """One for each density of levels and each last step; fitted to other samples, once."""
        if (kernel, nfe) in self._candidates:
            return self._candidates[kernel, nfe]
        checkpoint, kind = self.checkpoint, KERNELS[kernel]
        parts = checkpoint.denoiser, checkpoint.accuracy
        found = self._candidates[kernel, nfe] = []
        for density in kind.densities if self.tried else ():
            grid = noise_grid(self.sigma, checkpoint.noise_range[1], nfe, density=density)
            generator = torch.Generator().manual_seed(self.seed)
            fitted = kind.fitted(*parts, grid, others, generator)
            last_step = self.tried[0].last_step  # of no account above the lowest level
            paths = PathSampler(kind(*parts, **fitted), last_step, grid, checkpoint.system.sigma_data)
            generator.manual_seed(self.seed + PATH_SEED)
            log_w, seconds = _timed(partial(paths.forward_above, generator=generator), self.x, PATH_SECONDS)
            plan = SamplingPlan(
                kernel,
                sigma_1=self.sigma,
                move_step=self.move_step,
                density=density,
                kernel_options={kernel: fitted} if fitted else {},
                nfe=nfe,
            )
            for tried in self.tried:
                variance = tried.above(log_w)
                if math.isfinite(variance):
                    found.append(_Candidate(plan, tried, variance, seconds))
        return found


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Paths to one level, and one way of ending them there.

    Attributes
    ----------
    paths : SamplingPlan
        Without a last step.
    tried : _Tried
    variance, seconds : float
        What the steps above the level add to the variance of log w, and the time that they take for a sample.
    """

    paths: SamplingPlan
    tried: _Tried
    variance: float
    seconds: float

    def plan(self, calls: int | None = None) -> SamplingPlan:
        """The plan with what it should give, for a number of energy calls of the last step, by default the one that
        is worth most; where the number is not open to choice, it is the pilot's."""
        tried, pilot = self.tried, self.tried.last_step
        options, last_step = tried.options, pilot
        if pilot.open_ended:
            options = pilot.of_calls(options, calls or tried.calls(self.seconds, _share_power(self.paths)))
            last_step = pilot.build(options)
        tuned = Tuned(self.variance, tried.variance * pilot.calls / last_step.calls)
        moves = last_step.calls // (MOVES_SHARE - 1)
        return replace(
            self.paths,
            last_step=tried.name,
            options=options,
            ess_fraction=math.exp(-tuned.variance),
            seconds=self.seconds + tried.seconds * (last_step.calls + moves) / pilot.calls,
            moves=moves,
            tuned=tuned,
        )


def robust_variance(a: torch.Tensor) -> float:
    """The variance of a normal distribution with the range that eight tenths of ``a`` (n,) have; inf if it is none.

    A few chains that began with overlapping atoms would rule a plain variance; they hardly count for the share of
    effective samples, which it is to foretell.
    """
    low, high = torch.quantile(a.double(), torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    variance = ((high - low) / (2 * NORMAL_DECILE)) ** 2
    return variance if math.isfinite(variance) else math.inf


def effective_variance(log_w: torch.Tensor) -> float:
    """The variance of a normal distribution of log weights (n,), of forward paths, with the share of effective samples
    that these have: exp(-variance) where it can be counted. Elsewhere the `robust_variance`."""
    share = ForwardWeights(log_w.numpy()).ess_fraction
    return -math.log(share) if share * len(log_w) >= COUNTED else robust_variance(log_w)


def _timed(
    work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, seconds: float, least: int = FEW
) -> tuple[torch.Tensor, float]:
    """``work`` of as many of ``x`` as it does in about so many seconds, of ``least`` anyway; and seconds for each."""
    start = time.perf_counter()
    first = work(x[:least])
    each = (time.perf_counter() - start) / len(x[:least])
    n = min(int(seconds / each), len(x))
    if n <= least:
        return first, each
    rest = work(x[least:n])
    return torch.cat([first, rest], -1), (time.perf_counter() - start) / n


def _pilot(
    name: str, options: dict[str, Any], energy: Energy, evaluation: Evaluation, samples: torch.Tensor, generator
) -> _Tried:
    """A last step with enough calls for its variance to tell what more would give, if more can be had."""
    kind = LAST_STEPS[name]

    def retraced(k: torch.Tensor) -> torch.Tensor:
        part = Evaluation(evaluation.x[k], evaluation.sigma, evaluation.denoised[k], evaluation.mse)
        return torch.stack([last_step.retrace(energy, part, samples[k], generator) for _ in range(2)])

    before = math.inf
    while True:
        last_step = kind.build(options)
        log_w, each = _timed(retraced, torch.arange(min(FEW, len(samples))), PILOT_SECONDS)
        tried = _Tried(name, options, last_step, log_w, each / 2)
        affordable = MORE * FEW * each < PILOT_SECONDS
        useful = PILOT_VARIANCE < tried.variance <= LEAST_GAIN * before
        if not (last_step.open_ended and affordable and useful):
            break
        before = tried.variance
        options = kind.of_calls(options, MORE * last_step.calls)
    left = torch.arange(len(samples))[FEW : int(PILOT_SECONDS / each)]
    return replace(tried, log_w=torch.cat([log_w, retraced(left)], 1)) if len(left) else tried
