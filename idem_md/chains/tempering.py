"""Parallel tempering: replicas at several temperatures that exchange places."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checks import check_int, check_positions
from ..energies import Energy, NativeChains, TemperingRun
from ..errors import UsageError
from ..geometry import centred, uniform
from ..seeds import draw_seed
from ..torch_state import own_torch
from .mala import walk
from .move import ChainState, chain_numbers

__all__ = ["Tempering", "run_tempering"]


@own_torch
def run_tempering(energy: Energy, x: torch.Tensor, step, beta, n_rounds: int, n_steps: int, seed: int) -> TemperingRun:
    """Replica exchange: each round ``n_steps`` of MALA a replica, then swaps of neighbouring rungs.

    Even and odd pairs take turns (Syed et al., JRSS B 84, 321, 2022); rungs r and r+1 swap with probability
    min(1, exp[(beta_r - beta_{r+1}) (u_r - u_{r+1})]).

    Parameters
    ----------
    energy : Energy
    x : torch.Tensor, shape (C, R, N, D)
        Starting positions of C ladders of R >= 2 rungs, mean-free; dtype as in `run_mala`.
    step, beta : torch.Tensor, shape (R,)
        Langevin step and inverse temperature (relative to kT = 1) of each rung, the coldest first.
    n_rounds, n_steps, seed : int

    Returns
    -------
    TemperingRun

    Raises
    ------
    UsageError
        Wrong shapes, or inverse temperatures that do not fall.
    BudgetExhausted
        ``C R (n_rounds n_steps + 1)`` energy calls are more than is left.
    """
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[1] < 2:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise UsageError(
            f"x: expected shape (ladders, at least two rungs, {energy.n_atoms}, {energy.n_dims}), got {got}"
        )
    check_int("n_rounds", n_rounds, 0)
    check_int("n_steps", n_steps, 0)
    check_positions("x", x.flatten(0, 1), energy.n_atoms, energy.n_dims)
    r = x.shape[1]
    check_int("seed", seed, 0, 2**63 - 1)
    step, beta = (chain_numbers(name, a, r, x) for name, a in (("step", step), ("beta", beta)))
    if not bool((beta.expand(r)[:-1] > beta.expand(r)[1:]).all()):
        raise UsageError(
            f"beta: expected {r} numbers that fall from the coldest rung to the hottest, got {beta.tolist()}"
        )
    cost = x.shape[0] * r * (n_rounds * n_steps + 1)
    if x.dtype == torch.float32 and isinstance(energy, NativeChains):
        energy.count(cost)
        return energy.native_tempering(x, step, beta, n_rounds, n_steps, seed)
    energy.afford(cost)
    return _exchange(energy, x, step.expand(r), beta.expand(r), n_rounds, n_steps, seed)


def _exchange(energy: Energy, x, step, beta, n_rounds: int, n_steps: int, seed: int) -> TemperingRun:
    """`run_tempering` in plain torch, for any energy."""
    c, r = x.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    acceptance, seen = x.new_zeros(c, r), x.new_zeros(c, r, dtype=torch.bool)
    swaps, trips = x.new_zeros(c, r - 1), x.new_zeros(c)
    u, f = energy(x.flatten(0, 1))
    trace = u.new_empty(c, n_rounds, r)  # not rounded to the dtype of the positions
    u, f = u.reshape(c, r), f.reshape(x.shape)
    rows = torch.arange(c, device=x.device)[:, None]
    for k in range(n_rounds):
        start = ChainState(x.flatten(0, 1), u.flatten(), f.flatten(0, 1))
        run = walk(energy, start, step.repeat(c), beta.repeat(c), n_steps, draw_seed(generator), None, False)
        x, u, f = run.x.reshape(x.shape), run.u.reshape(c, r), run.f.reshape(x.shape)
        acceptance += run.acceptance.reshape(c, r)
        for i in range(k % 2, r - 1, 2):
            log_ratio = (beta[i] - beta[i + 1]) * (u[:, i] - u[:, i + 1])
            take = torch.log(uniform(c, generator, x.dtype, x.device)) < log_ratio
            order = torch.arange(r, device=x.device).repeat(c, 1)
            order[take, i], order[take, i + 1] = i + 1, i
            x, u, f, seen = (a[rows, order] for a in (x, u, f, seen))
            swaps[:, i] += take
        trips += seen[:, 0]
        seen[:, 0], seen[:, -1] = False, True
        trace[:, k] = u
    attempts = x.new_tensor([(n_rounds + 1 - i % 2) // 2 for i in range(r - 1)])
    acceptance = acceptance / n_rounds if n_rounds else acceptance * torch.nan
    return TemperingRun(x, u, f, acceptance, swaps / attempts, trips, trace)


@dataclass(frozen=True)
class Tempering:
    """The move of `run_tempering`; one of its steps is a round.

    Parameters
    ----------
    step_size, betas : torch.Tensor, shape (R,)
    moves : int
        MALA steps a replica between two swaps.
    """

    step_size: torch.Tensor
    betas: torch.Tensor
    moves: int

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`; positions (C, R, N, D)."""
        u, f = energy(x.flatten(0, 1))
        return ChainState(x, u.reshape(x.shape[:2]), f.reshape(x.shape))

    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, TemperingRun]:
        """See `Move`; the centroid, which drifts by rounding, is put back."""
        run = run_tempering(energy, state.x, self.step_size, self.betas, n, self.moves, seed)
        return ChainState(centred(run.x.flatten(0, 1)).reshape(run.x.shape), run.u, run.f), run
