"""Annealed importance sampling (Neal, Statistics and Computing 11, 125, 2001) of a restrained Boltzmann density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..checks import check_float, check_int, check_positions
from ..energies import AnnealRun, Energy, NativeAnnealing
from ..errors import UsageError
from ..geometry import standard_normal, subspace_dimension
from ..seeds import draw_seed
from .adaptation import tune_step
from .mala import Restraint, walk
from .move import ChainState

__all__ = ["Schedule", "paced_schedule", "run_annealing", "tuned_schedule"]

# Fewest stages of a part of a schedule, in units of the mean of all; fewest pairs of chains that tell parts apart.
LEAST_STAGES, LEAST_PAIRS = 0.2, 8


@dataclass(frozen=True)
class Schedule:
    """How annealing goes from beta = 0 to 1: T stages, beta_k = s_k^power, ``moves`` of HMC after each.

    Attributes
    ----------
    stages : int
    power : float
        So that the first stages, where the densities differ most, are short.
    moves : int
    steps : tuple of float
        Langevin step h at equidistant s from 0 to 1; interpolated in the logarithm.
    leapfrogs : int
        Leapfrogs a move; each has the length sqrt(2h) and takes an energy call. A move of one is MALA.
    pace : tuple of float
        s at equidistant k/T from 0 to 1, interpolated; by default s_k = k/T.
    """

    stages: int
    power: float
    moves: int
    steps: tuple[float, ...]
    leapfrogs: int = 1
    pace: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self):
        check_int("stages", self.stages, 1)
        check_int("moves", self.moves, 1)
        check_int("leapfrogs", self.leapfrogs, 1)
        check_float("power", self.power, minimum=1.0)
        if not self.steps or not all(check_float("steps", s, above=0.0) for s in self.steps):
            raise UsageError(f"steps: expected positive numbers, got {self.steps}")
        pace = [check_float("pace", s, minimum=0.0) for s in self.pace]
        if len(pace) < 2 or (pace[0], pace[-1]) != (0, 1) or sorted(set(pace)) != pace:
            raise UsageError(f"pace: expected numbers rising from 0 to 1, got {self.pace}")

    @property
    def calls(self) -> int:
        """Energy calls of a chain."""
        return 1 + self.stages * self.moves * self.leapfrogs

    def _places(self) -> torch.Tensor:
        """s of each k, shape (T+1,), float64, on the CPU."""
        return _interpolated(torch.arange(self.stages + 1, dtype=torch.float64, device="cpu") / self.stages, self.pace)

    def betas(self) -> torch.Tensor:
        """Shape (T+1,), float64, on the CPU."""
        return self._places() ** self.power

    def step_sizes(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The step of each stage, shape (T,), on the CPU."""
        if len(self.steps) == 1:
            return torch.full((self.stages,), self.steps[0], dtype=dtype, device="cpu")
        return torch.exp(_interpolated(self._places()[1:], [math.log(step) for step in self.steps])).to(dtype)


def _interpolated(at: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    """Between two or more values at equidistant places from 0 to 1."""
    known, at = torch.tensor(values, dtype=torch.float64, device="cpu"), at * (len(values) - 1)
    low = at.floor().clamp(max=len(values) - 2).long()
    return known[low] + (at - low) * (known[low + 1] - known[low])


def run_annealing(
    energy: Energy,
    mean: torch.Tensor,
    x_t: torch.Tensor,
    variance: float,
    sigma: float,
    schedule: Schedule,
    seed: int,
    *,
    end: float = 1.0,
    start: torch.Tensor | None = None,
    trace: bool = False,
) -> AnnealRun:
    """Estimate int exp(-end u(y)) N(y; x_t, sigma^2) dy for each of a batch, starting from q_0 = N(mean, variance).

    Along q_0^(1-b) gamma^b, gamma = exp(-end u(y)) N(y; x_t, sigma^2): end b u plus an isotropic restraint, on which
    Hamiltonian Monte Carlo moves (Duane et al., Phys. Lett. B 195, 216, 1987), with forces as in `run_mala`. exp(log_w)
    is unbiased, and the end points with these weights are a proper sample of gamma.

    Chains that ``start`` at draws of gamma go the same way back: exp(-log_w) is then an unbiased estimate of the
    inverse of the integral, so that the mean of log_w is above its logarithm, where that of the way forth is below
    (Grosse, Ancha & Roy, NeurIPS 2016).

    Parameters
    ----------
    energy : Energy
    mean, x_t : torch.Tensor, shape (C, N, D)
        Mean-free. Their dtype is that of the chains; float32 runs in native code where the energy has it.
    variance, sigma : float
    schedule : Schedule
    seed : int
    end : float
        Inverse temperature of u, relative to kT = 1.
    start : torch.Tensor, shape (C, N, D), optional
        Draws of gamma, for the way back.
    trace : bool
        Also return the acceptance and the increments of each stage.

    Raises
    ------
    UsageError
        Wrong shapes, or a number out of range.
    BudgetExhausted
        ``C (1 + T moves leapfrogs)`` energy calls are more than is left.
    """
    check_positions("x_t", x_t, energy.n_atoms, energy.n_dims)
    check_positions("mean", mean, energy.n_atoms, energy.n_dims)
    if mean.shape != x_t.shape or mean.dtype != x_t.dtype:
        raise UsageError(
            f"mean: expected shape {tuple(x_t.shape)} and {x_t.dtype} as x_t, got {tuple(mean.shape)}, {mean.dtype}"
        )
    variance, sigma = check_float("variance", variance, above=0.0), check_float("sigma", sigma, above=0.0)
    end = check_float("end", end, above=0.0)
    ends = (variance, sigma, end)
    betas, steps = schedule.betas(), schedule.step_sizes(x_t.dtype)
    if start is not None:
        check_positions("start", start, energy.n_atoms, energy.n_dims)
        if start.shape != x_t.shape or start.dtype != x_t.dtype:
            raise UsageError(
                f"start: expected shape {tuple(x_t.shape)} and {x_t.dtype}, got {tuple(start.shape)}, {start.dtype}"
            )
        # After each step of beta the moves that the way forth makes there; none of them at beta = 0.
        betas, steps = betas.flip(0), torch.cat([steps.flip(0)[1:], steps[:1]])
    if x_t.dtype == torch.float32 and isinstance(energy, NativeAnnealing):
        energy.count(len(x_t) * schedule.calls)
        moves = (schedule.moves, schedule.leapfrogs)
        run = energy.native_anneal(mean, x_t, ends, betas, steps, *moves, seed, start, trace)
    else:
        energy.afford(len(x_t) * schedule.calls)
        run = _anneal(energy, mean, x_t, ends, betas, steps, schedule, seed, start)
        if not trace:
            run = run._replace(acceptance=run.acceptance[:0], increments=run.increments[:0])
    # The chains know only the exponents of the two Gaussians.
    dimension = subspace_dimension(energy.n_atoms, energy.n_dims)
    log_w = run.log_w if start is None else -run.log_w
    return run._replace(log_w=log_w + 0.5 * dimension * math.log(variance / sigma**2))


def _anneal(
    energy: Energy, mean, x_t, ends: tuple[float, float, float], betas, steps, schedule: Schedule, seed: int, start
) -> AnnealRun:
    """The chains of `run_annealing` in plain torch, for any energy."""
    variance, sigma, end = ends
    generator = torch.Generator().manual_seed(seed)
    x = start
    if x is None:
        x = mean + math.sqrt(variance) * standard_normal(x_t.shape, generator, x_t.dtype, x_t.device)
    state = ChainState(x, *energy(x))
    log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    betas, shares, increments = betas.tolist(), [], []
    for k, (low, high) in enumerate(zip(betas, betas[1:])):
        near, far = ((state.x - c).double().square().sum((1, 2)) for c in (x_t, mean))
        increments.append((high - low) * (0.5 * far / variance - 0.5 * near / sigma**2 - end * state.u.double()))
        log_w += increments[-1]
        stiffness = high / sigma**2 + (1 - high) / variance
        restraint = Restraint(mean + (high / sigma**2 / stiffness) * (x_t - mean), x.new_tensor(stiffness))
        beta = x.new_tensor(high * end)
        run = walk(
            energy,
            state,
            steps[k].to(x.device),
            beta,
            schedule.moves,
            draw_seed(generator),
            restraint,
            False,
            schedule.leapfrogs,
        )
        state = ChainState(run.x, run.u, run.f)
        shares.append(run.acceptance)
    return AnnealRun(state.x, state.u, log_w, torch.stack(shares, 1), torch.stack(increments, 1).to(x.dtype))


def tuned_schedule(
    energy: Energy,
    mean: torch.Tensor,
    x_t: torch.Tensor,
    variance: float,
    sigma: float,
    schedule: Schedule,
    seed: int,
    *,
    knots: int = 16,
    rounds: int = 15,
    moves: int = 10,
) -> Schedule:
    """The schedule with Langevin steps that suit it, found on a pilot: ``knots`` stages of ``moves``, repeated.

    Parameters
    ----------
    energy, mean, x_t, variance, sigma, seed
        As for `run_annealing`; a pilot of its own, not the samples that are then reported.
    schedule : Schedule
        Its ``steps`` are where to begin.
    knots, rounds, moves : int
    """
    pilot = replace(schedule, stages=knots, moves=moves)
    steps = pilot.step_sizes(torch.float64).tolist()
    for k in range(rounds):
        # Knot 0 is never used by a stage: beta is above zero in the first.
        pilot = replace(pilot, steps=(steps[0], *steps))
        run = run_annealing(energy, mean, x_t, variance, sigma, pilot, seed + k, trace=True)
        shares = run.acceptance.double().mean(0).tolist()
        steps = [tune_step(step, share, 1.0, schedule.leapfrogs) for step, share in zip(steps, shares)]
    return replace(schedule, steps=(steps[0], *steps))


def paced_schedule(
    energy: Energy,
    mean: torch.Tensor,
    x_t: torch.Tensor,
    variance: float,
    sigma: float,
    schedule: Schedule,
    seed: int,
    *,
    knots: int = 32,
    rounds: int = 2,
) -> Schedule:
    """The schedule with many stages where log w varies most for the same x_t.

    A part of the schedule adds to the variance of log w in inverse proportion to the stages that it has, so that the
    sum is least with stages in proportion to the root of the variance (Sivak & Crooks, Phys. Rev. Lett. 108, 190602,
    2012). It is measured on pilots of the schedule's own length, by two chains forth for each x_t and two back from
    where one of them arrived; with those of neighbouring parts, as what a chain does in one shows in the next.

    Parameters
    ----------
    energy, mean, x_t, variance, sigma, schedule, seed
        As for `tuned_schedule`.
    knots, rounds : int
    """
    there, parts = (energy, mean, x_t, variance, sigma), min(knots, schedule.stages)
    for k in range(rounds):
        seeds = range(seed + 4 * k, seed + 4 * k + 4)
        forth = [run_annealing(*there, schedule, s, trace=True) for s in seeds[:2]]
        back = [run_annealing(*there, schedule, s, start=forth[0].x, trace=True) for s in seeds[2:]]
        added = torch.sqrt(_added(forth, parts) + _added(back, parts).flip(0))
        if not 0 < float(added.sum()) < math.inf:
            return schedule  # nothing to tell parts by
        # No part is left with next to nothing: what it adds was measured on few samples.
        stages = np.cumsum(added.clamp(min=LEAST_STAGES * float(added.mean())).numpy())
        filled = np.concatenate([[0.0], stages / stages[-1]])
        old = _interpolated(torch.linspace(0, 1, parts + 1, dtype=torch.float64), schedule.pace).numpy()
        pace = np.interp(np.linspace(0, 1, knots + 1), filled, old)
        schedule = replace(schedule, pace=(0.0, *pace[1:-1].tolist(), 1.0))
    return schedule


def _added(runs: Sequence[AnnealRun], parts: int) -> torch.Tensor:
    """What each part of the stages adds to the variance of log w, from two runs for the same x_t; (parts,)."""
    apart = (runs[0].increments - runs[1].increments).double().cpu()
    total = apart.sum(1)
    apart, total = apart[torch.isfinite(total)], total[torch.isfinite(total)]
    if len(total) < LEAST_PAIRS:
        return torch.zeros(parts, dtype=torch.float64)
    # Chains that began with overlapping atoms and never got anywhere say nothing about the others.
    middle, (low, high) = total.median(), torch.quantile(total, torch.tensor([0.1, 0.9], dtype=torch.float64))
    apart = apart[(total - middle).abs() <= 2 * (high - low)]
    sums = torch.stack([part.sum(1) for part in apart.tensor_split(parts, 1)])
    covariance = torch.cov(sums).reshape(parts, parts)
    return torch.stack([covariance[i, max(i - 1, 0) : i + 2].sum() for i in range(parts)]).clamp(min=0)
