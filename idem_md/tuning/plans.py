"""Sampling plans by number of network evaluations.

Plans are tuned on forward paths, which start at samples of the system and so see every mode: never on samples that are
later reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..chains import equilibrate, finite_start, first_step
from ..checkpoint import Checkpoint
from ..diffusion import (
    KERNELS,
    LAST_STEPS,
    DiffusionKernel,
    PathSampler,
    SamplingPlan,
    methods,
    noise_grid,
)
from ..diffusion.kernels import best_kernel, evaluate_in_chunks
from ..diffusion.plan import MOVES_SHARE, Tuned
from ..energies import Energy
from ..errors import ResultError
from ..geometry import standard_normal
from ..seeds import draw_seed
from .pilots import Measured, Tried, counted_share, robust_variance, run_pilot, share_both_ways, timed
from .search import Search

__all__ = ["default_nfes", "measure_plan_seconds", "tune_plans"]

# Lowest noise level in units of the standard deviation of a coordinate.
LOWEST = (0.2, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85, 1.0)
# Samples by which a plan is timed at most, and timed or confirmed at least.
MAX_TIMED_SAMPLES, LEAST_TIMED = 1000, 16
# Seconds of the timing of one plan.
TIMED_SECONDS = 2.0
# Added to a seed for random numbers of paths, and of the confirmation: those of their starts are others.
PATH_SEED, CONFIRM_SEED = 1_000_003, 2_000_003
# Levels, each with a kernel, that are tried with all numbers of evaluations, beside those for other energy calls.
LEVELS_LEFT = 4
# No level is tried above so many that are worth less than the best although paths to them have no more than this
# variance. Where paths have more a higher level may still be better: a cluster that freezes on the way down costs them
# most at the levels where it does, and there worth has a trough.
WORSE_LEVELS, GOOD_PATHS = 2, 1.0
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
    measured: Measured | None = None,
    search: Search | None = None,
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
    measured : Measured, optional
        What an interrupted call with the same arguments had found, which is not sought again.
    search : Search, optional
        Where plans are looked for, and what they are worth.
    """
    measured, search = measured or Measured(), search or Search()
    nfes = default_nfes() if nfes is None else nfes
    fourth = torch.arange(len(samples)) % 4 == 3
    others, samples = samples[fourth].double(), samples[~fourth].double()
    samples = samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))]
    step = _move_step(energy, samples[: search.step_samples], checkpoint.system.sigma_data, seed)
    places = range(len(LOWEST if search.lowest is None else search.lowest))
    bottoms = [_Bottom(checkpoint, energy, samples, k, step, seed + k, measured, search) for k in places]
    by_place = {level.place: level for level in bottoms}
    plans = dict(checkpoint.plans)
    for method, names in methods().items():
        tried_kernels = [name for name in names if KERNELS[name].tuned and KERNELS[name].suits(checkpoint.denoiser)]
        if search.best_kernel:
            tried_kernels = sorted(tried_kernels, key=lambda name: KERNELS[name].preference)[-1:]
        found: dict[int, SamplingPlan] = dict(measured.plans.get(method, {}))
        wanted = sorted(set(nfes.get(method, ())) - found.keys()) if tried_kernels else []
        # Which levels are worth trying hardly depends on the number of evaluations.
        if wanted and method not in measured.levels:
            worth = _worth_trying(bottoms, tried_kernels, wanted[len(wanted) // 2], others[::3], search)
            measured.levels[method] = [(level.place, kernel) for level, kernel in worth]
            measured.changed()
        levels = measured.levels.get(method, ())
        for nfe in wanted:
            tried = [one for k, kernel in levels for one in by_place[k].candidates(kernel, nfe, others)]
            if not tried:
                raise ResultError(f"tune: no path of {nfe} evaluations had a weight; the network has not learnt enough")
            # More evaluations are not to be worse than fewer.
            least = max((plan.ess_fraction or 0.0 for n, plan in found.items() if n < nfe), default=0.0)
            plan = _most_worth([one.plan() for one in tried], least, search)
            other = [one.plan() for one in _by_calls(tried, plan, search)]
            other = [one for one in other if (one.kernel, one.sigma_1) != (plan.kernel, plan.sigma_1)]
            plan = _confirmed(checkpoint, plan, other, energy, samples, seed, search)
            found[nfe] = _with_siblings(checkpoint, plan, others, seed)
            on_plan(found[nfe])
        if found:
            plans[method] = found
    checkpoint = measure_plan_seconds(replace(checkpoint, plans=plans), energy, seed)
    plans = {m: {n: search.with_candidates(plan) for n, plan in known.items()} for m, known in checkpoint.plans.items()}
    return replace(checkpoint, plans=plans)


def _most_worth(plans: Sequence[SamplingPlan], least: float, search: Search) -> SamplingPlan:
    """The plan that is worth most, of those with at least such a share of effective samples if there are any."""
    enough = [plan for plan in plans if (plan.ess_fraction or 0.0) >= least]
    return max(enough or plans, key=search.log_worth)


def _by_calls(tried: Sequence[_Candidate], plan: SamplingPlan, search: Search) -> list[_Candidate]:
    """The candidates that are worth most with fewer or more energy calls than a plan has, each once."""
    calls = replace(plan, moves=0).build_last_step().calls
    best = [max(tried, key=lambda one: search.log_worth(one.plan(max(round(calls * by), 2)))) for by in OTHER_CALLS]
    return list(dict.fromkeys(best))


def _worth_trying(
    bottoms: Sequence[_Bottom], kernels: Sequence[str], nfe: int, others: torch.Tensor, search: Search
) -> list[tuple[_Bottom, str]]:
    """Levels and kernels whose plans are worth most, with the energy calls that suit them or with fewer or more."""
    tried: dict[_Candidate, tuple[_Bottom, str]] = {}
    highest, lower = -math.inf, 0
    for level in bottoms:
        here = {one: (level, kernel) for kernel in kernels for one in level.candidates(kernel, nfe, others)}
        tried |= here
        worth = max((search.log_worth(one.plan()) for one in here), default=-math.inf)
        if worth > highest:
            highest, lower = worth, 0
        elif min((one.variance for one in here), default=math.inf) < GOOD_PATHS:
            lower += 1
        if tried and lower == WORSE_LEVELS:
            break
    if not tried:
        return [(level, kernel) for level in bottoms for kernel in kernels]
    best = sorted(tried, key=lambda one: -search.log_worth(one.plan()))[:LEVELS_LEFT]
    return list(dict.fromkeys(tried[one] for one in (*best, *_by_calls(list(tried), best[0].plan(), search))))


def _confirmed(
    checkpoint: Checkpoint,
    plan: SamplingPlan,
    alternatives: Sequence[SamplingPlan],
    energy: Energy,
    samples: torch.Tensor,
    seed: int,
    search: Search,
) -> SamplingPlan:
    """The plan with its alternatives, and the share of effective samples that paths up from samples give, by other
    random numbers; with a twin, paths down as well."""
    assert plan.tuned is not None
    paths = plan.build(checkpoint.denoiser, checkpoint.accuracy, checkpoint.noise_range, checkpoint.system.sigma_data)
    generator = torch.Generator().manual_seed(seed + CONFIRM_SEED)
    log_w, _ = timed(lambda x: paths.forward(energy, x, generator), samples, search.confirm_seconds, LEAST_TIMED)
    share = counted_share(log_w, search.counted)
    if share is None:
        share = math.exp(-0.5 * (plan.tuned.variance + robust_variance(log_w)))
    if search.down_seconds:

        def down(x: torch.Tensor) -> torch.Tensor:
            return paths.sample([energy], len(x), generator)[0].log_weights

        log_w, _ = timed(down, samples, search.down_seconds, LEAST_TIMED)
        share = share_both_ways(share, log_w, search.counted)
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
        method: {nfe: replace(plan.of_candidates(1), seconds=seconds(plan)) for nfe, plan in known.items()}
        for method, known in c.plans.items()
    }
    return replace(c, plans=plans, digest="")


def _move_step(energy: Energy, samples: torch.Tensor, sigma_data: float, seed: int) -> float:
    """The Langevin step for moves on u."""
    seeds = torch.Generator().manual_seed(seed)
    start = finite_start(energy, samples.float())
    return equilibrate(energy, start, first_step(sigma_data), 20, 20, lambda: draw_seed(seeds), gain=1.0)[1]


class _Bottom:
    """Samples noised to a lowest level, and what last steps from there give, which is measured on first access."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        energy: Energy,
        samples: torch.Tensor,
        place: int,
        step: float,
        seed: int,
        measured: Measured,
        search: Search,
    ):
        self.place, self.measured, self.search = place, measured, search
        self.checkpoint, self.energy, self.samples = checkpoint, energy, samples
        self.move_step, self.seed = step, seed
        self.sigma = (LOWEST if search.lowest is None else search.lowest)[place] * checkpoint.system.sigma_data
        self._generator = torch.Generator().manual_seed(seed)
        self.x = samples + self.sigma * standard_normal(samples.shape, self._generator)
        self._candidates: dict[SamplingPlan, list[_Candidate]] = {}

    @property
    def tried(self) -> list[Tried]:
        """Last steps from there whose weights are numbers."""
        if self.place not in self.measured.tried:
            self.measured.tried[self.place] = self._try()
            self.measured.changed()
        return self.measured.tried[self.place]

    def _try(self) -> list[Tried]:
        checkpoint, energy = self.checkpoint, self.energy
        # With what every denoiser knows, as last steps of more samples than a batch get no more.
        analytic = KERNELS[best_kernel(None, DiffusionKernel.method)](checkpoint.denoiser, checkpoint.accuracy)
        evaluation = evaluate_in_chunks(analytic, self.x, self.sigma)
        tried = [
            run_pilot(name, options, energy, evaluation, self.samples, self._generator, self.search.pilot_seconds)
            for name, kind in LAST_STEPS.items()
            for options in kind.efforts(energy, evaluation, checkpoint.system.sigma_data, self.seed)
        ]
        return [one for one in tried if math.isfinite(one.variance)]

    def candidates(self, kernel: str, nfe: int, others: torch.Tensor) -> list[_Candidate]:
        """One for each density of levels and each last step; fitted to other samples, and measured once."""
        checkpoint, kind = self.checkpoint, KERNELS[kernel]
        parts = checkpoint.denoiser, checkpoint.accuracy
        found: list[_Candidate] = []
        for density in kind.densities if self.tried else ():
            grid = noise_grid(self.sigma, checkpoint.noise_range[1], nfe, density=density)
            generator = torch.Generator().manual_seed(self.seed)
            fitted = kind.fitted(*parts, grid, others, generator)
            plan = SamplingPlan(
                kernel,
                sigma_1=self.sigma,
                move_step=self.move_step,
                density=density,
                kernel_options={kernel: fitted} if fitted else {},
                nfe=nfe,
            )
            if plan not in self._candidates:
                last_step = self.tried[0].last_step  # of no account above the lowest level
                paths = PathSampler(kind(*parts, **fitted), last_step, grid, checkpoint.system.sigma_data)
                generator.manual_seed(self.seed + PATH_SEED)
                log_w, seconds = timed(
                    partial(paths.forward_above, generator=generator), self.x, self.search.path_seconds
                )
                seconds += self.search.beside or 0.0
                measured = [_Candidate(plan, tried, tried.above(log_w), seconds, self.search) for tried in self.tried]
                self._candidates[plan] = [one for one in measured if math.isfinite(one.variance)]
            found += self._candidates[plan]
        return found


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Paths to one level, and one way of ending them there.

    Attributes
    ----------
    paths : SamplingPlan
        Without a last step.
    tried : Tried
    variance, seconds : float
        What the steps above the level add to the variance of log w, and the time that they take for a sample.
    """

    paths: SamplingPlan
    tried: Tried
    variance: float
    seconds: float
    search: Search

    def plan(self, calls: int | None = None) -> SamplingPlan:
        """The plan with what it should give, for a number of energy calls of the last step, by default the one that
        is worth most; where the number is not open to choice, it is the pilot's."""
        tried, pilot = self.tried, self.tried.last_step
        options, last_step = tried.options, pilot
        if pilot.open_ended:
            options = pilot.of_calls(options, calls or tried.calls(self.seconds, self.search.share_power(self.paths)))
            last_step = pilot.build(options)
        tuned = Tuned(self.variance, tried.variance * pilot.calls / last_step.calls)
        moves = last_step.calls // (MOVES_SHARE - 1) if self.search.moves else 0
        return replace(
            self.paths,
            last_step=tried.name,
            options=options,
            ess_fraction=math.exp(-tuned.variance),
            seconds=self.seconds + tried.seconds * (last_step.calls + moves) / pilot.calls,
            moves=moves,
            tuned=tuned,
        )
