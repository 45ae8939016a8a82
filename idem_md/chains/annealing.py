"""Annealed importance sampling (Neal, Statistics and Computing 11, 125, 2001) of a restrained Boltzmann density."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..checks import check_float, check_int, check_positions
from ..energies import AnnealRun, Energy, NativeAnnealing
from ..errors import UsageError
from ..geometry import standard_normal, subspace_dimension
from ..seeds import draw_seed
from .adaptation import tune_step
from .mala import Restraint, walk
from .move import ChainState

__all__ = ["Schedule", "run_annealing", "tuned_schedule"]


@dataclass(frozen=True)
class Schedule:
    """How annealing goes from beta = 0 to 1: T stages, beta_k = (k/T)^power, ``moves`` of HMC after each.

    Attributes
    ----------
    stages : int
    power : float
        So that the first stages, where the densities differ most, are short.
    moves : int
    steps : tuple of float
        Langevin step h at equidistant k/T from 0 to 1; interpolated in the logarithm.
    leapfrogs : int
        Of a move, each of the length sqrt(2h) and with an energy call; a move of one is MALA.
    """

    stages: int
    power: float
    moves: int
    steps: tuple[float, ...]
    leapfrogs: int = 1

    def __post_init__(self):
        check_int("stages", self.stages, 1)
        check_int("moves", self.moves, 1)
        check_int("leapfrogs", self.leapfrogs, 1)
        check_float("power", self.power, minimum=1.0)
        if not self.steps or not all(check_float("steps", s, above=0.0) for s in self.steps):
            raise UsageError(f"steps: expected positive numbers, got {self.steps}")

    @property
    def calls(self) -> int:
        """Energy calls of a chain."""
        return 1 + self.stages * self.moves * self.leapfrogs

    def betas(self) -> torch.Tensor:
        """Shape (T+1,), float64, on the CPU."""
        return (torch.arange(self.stages + 1, dtype=torch.float64, device="cpu") / self.stages) ** self.power

    def step_sizes(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Of each stage, shape (T,), on the CPU."""
        if len(self.steps) == 1:
            return torch.full((self.stages,), self.steps[0], dtype=dtype, device="cpu")
        at = torch.arange(1, self.stages + 1, dtype=torch.float64, device="cpu") / self.stages * (len(self.steps) - 1)
        low = at.floor().clamp(max=len(self.steps) - 2).long()
        logs = torch.log(torch.tensor(self.steps, dtype=torch.float64, device="cpu"))
        return torch.exp(logs[low] + (at - low) * (logs[low + 1] - logs[low])).to(dtype)


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
    acceptance: bool = False,
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
    acceptance : bool
        Also return that of the moves of each stage.

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
        run = energy.native_anneal(mean, x_t, ends, betas, steps, *moves, seed, start, acceptance)
    else:
        energy.afford(len(x_t) * schedule.calls)
        run = _anneal(energy, mean, x_t, ends, betas, steps, schedule, seed, start)
        run = run if acceptance else run._replace(acceptance=run.acceptance.new_empty(0, schedule.stages))
    # Of the two Gaussians the chains only know the exponents.
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
    betas, shares = betas.tolist(), []
    for k, (low, high) in enumerate(zip(betas, betas[1:])):
        near, far = ((state.x - c).double().square().sum((1, 2)) for c in (x_t, mean))
        log_w += (high - low) * (0.5 * far / variance - 0.5 * near / sigma**2 - end * state.u.double())
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
    return AnnealRun(state.x, state.u, log_w, torch.stack(shares, 1))


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
) -> Schedule:
    """The schedule with Langevin steps that suit it, found on a pilot: ``knots`` stages of few moves, repeated.

    Parameters
    ----------
    energy, mean, x_t, variance, sigma, seed
        As for `run_annealing`; a pilot of its own, not the samples that are then reported.
    schedule : Schedule
        Its ``steps`` are where to begin.
    knots, rounds : int
    """
    pilot = replace(schedule, stages=knots, moves=10)
    steps = pilot.step_sizes(torch.float64).tolist()
    for k in range(rounds):
        # Knot 0 is never used by a stage: beta is above zero in the first.
        pilot = replace(pilot, steps=(steps[0], *steps))
        run = run_annealing(energy, mean, x_t, variance, sigma, pilot, seed + k, acceptance=True)
        shares = run.acceptance.double().mean(0).tolist()
        steps = [tune_step(step, share, 1.0, schedule.leapfrogs) for step, share in zip(steps, shares)]
    return replace(schedule, steps=(steps[0], *steps))
