"""Metropolis-adjusted Langevin chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..checks import check_int, check_positions
from ..energies import ChainRun, Energy, NativeChains
from ..geometry import centred, standard_normal, uniform
from ..torch_state import own_torch
from .move import ChainState, chain_numbers

__all__ = ["MALA", "Restraint", "run_mala"]


class Restraint(NamedTuple):
    """Harmonic restraint stiffness/2 |x - centre|^2.

    Attributes
    ----------
    centre : torch.Tensor, shape (C, N, D)
    stiffness : torch.Tensor, shape (C,) or one element
    """

    centre: torch.Tensor
    stiffness: torch.Tensor


@own_torch
def run_mala(
    energy: Energy,
    x: torch.Tensor,
    step,
    n_steps: int,
    seed: int,
    *,
    beta=1.0,
    restraint: Restraint | None = None,
    averages: bool = False,
) -> ChainRun:
    """Metropolis-adjusted Langevin chains on beta*u(x) + stiffness/2 |x - centre|^2.

    TransitionKernel x' = x + h g + sqrt(2h) noise in the mean-free subspace, with g the total force, each atom's part
    cut to the length sqrt(2 D / h) and the mean removed: an atom's drift never exceeds its noise, or chains
    would stick where forces are steep (MALTA; Roberts & Tweedie, Bernoulli 2, 341, 1996).

    Parameters
    ----------
    energy : Energy
    x : torch.Tensor, shape (C, N, D)
        Starting positions, mean-free. Their dtype is that of the chains; float32 runs in native code where the energy
        has it.
    step, beta : float or torch.Tensor broadcastable to (C,)
        Langevin step h, and inverse temperature relative to kT = 1.
    n_steps, seed : int
    restraint : Restraint, optional
    averages : bool
        Also average positions and bare forces over the steps of each chain.

    Returns
    -------
    ChainRun

    Raises
    ------
    UsageError
        Wrong shapes, steps that are not positive, a negative number of steps.
    EnergyError
        NaN or infinite positions.
    BudgetExhausted
        ``C (n_steps + 1)`` energy calls are more than is left.
    """
    check_positions("x", x, energy.n_atoms, energy.n_dims)
    check_int("n_steps", n_steps, 0)
    check_int("seed", seed, 0, 2**63 - 1)
    if restraint is not None:
        check_positions("centre", restraint.centre, energy.n_atoms, energy.n_dims)
        restraint = Restraint(restraint.centre, chain_numbers("stiffness", restraint.stiffness, len(x), x))
    step, beta = (chain_numbers(name, a, len(x), x) for name, a in (("step", step), ("beta", beta)))
    if x.dtype == torch.float32 and isinstance(energy, NativeChains):
        energy.count(len(x) * (n_steps + 1))
        centre, stiffness = (None, None) if restraint is None else restraint
        return energy.native_mala(x, step, beta, n_steps, seed, centre, stiffness, averages)
    energy.afford(len(x) * (n_steps + 1))
    u, f = energy(x)
    return walk(energy, ChainState(x, u, f), step, beta, n_steps, seed, restraint, averages)


def walk(
    energy: Energy,
    start: ChainState,
    step: torch.Tensor,
    beta: torch.Tensor,
    n_steps: int,
    seed: int,
    restraint: Restraint | None,
    averages: bool,
    leapfrogs: int = 1,
) -> ChainRun:
    """`run_mala` in plain torch, for any energy, from a start that has been evaluated.

    Moves of several ``leapfrogs`` are Hamiltonian Monte Carlo. Any field in the place of the force leaves a leapfrog
    reversible and volumes as they are, so that accepting by the energy is exact.
    """
    x, u, f = start.x, start.u, start.f
    generator = torch.Generator().manual_seed(seed)
    h, beta = step.expand(len(x)), beta.expand(len(x))
    if restraint is None:
        centre, k = torch.zeros_like(x), x.new_zeros(len(x))
    else:
        centre = restraint.centre
        k = restraint.stiffness.expand(len(x))
    h3, beta3, k3 = (a[:, None, None] for a in (h, beta, k))
    cap = torch.sqrt(2 * energy.n_dims / h3)

    def total(x, u, f):
        g = beta3 * f - k3 * (x - centre)
        g = g * (cap / g.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
        return beta * u + 0.5 * k * ((x - centre) ** 2).sum((1, 2)), centred(g)

    big_u, force = total(x, u, f)
    accepted = x.new_zeros(len(x))
    mean_x, mean_f = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(n_steps):
        eps = standard_normal(x.shape, generator, x.dtype, x.device)
        y = x + h3 * force + torch.sqrt(2 * h3) * eps
        way = y - x
        for leap in range(1, leapfrogs + 1):
            u_y, f_y = energy(y)
            big_u_y, force_y = total(y, u_y, f_y)
            if leap < leapfrogs:
                way = way + 2 * h3 * force_y
                y = y + way
        reverse = ((way + h3 * force_y) ** 2).sum((1, 2)) / (4 * h)
        log_ratio = big_u - big_u_y + 0.5 * (eps**2).sum((1, 2)) - reverse
        take = torch.log(uniform(len(x), generator, x.dtype, x.device)) < log_ratio
        x, f, force = (torch.where(take[:, None, None], a, b) for a, b in ((y, x), (f_y, f), (force_y, force)))
        u, big_u = torch.where(take, u_y, u), torch.where(take, big_u_y, big_u)
        accepted += take
        mean_x += x
        mean_f += f
    scale = 1 / n_steps if n_steps else torch.nan
    if averages:
        return ChainRun(x, u, f, accepted * scale, mean_x * scale, mean_f * scale)
    return ChainRun(x, u, f, accepted * scale, x.new_empty(0, *x.shape[1:]), x.new_empty(0, *x.shape[1:]))


@dataclass(frozen=True)
class MALA:
    """The move of `run_mala`.

    Parameters
    ----------
    step_size, beta : float or torch.Tensor broadcastable to (C,)
    restraint : Restraint, optional
    """

    step_size: float | torch.Tensor
    beta: float | torch.Tensor = 1.0
    restraint: Restraint | None = None

    def init(self, energy: Energy, x: torch.Tensor) -> ChainState:
        """See `Move`."""
        return ChainState(x, *energy(x))

    def step(self, energy: Energy, state: ChainState, n: int, seed: int) -> tuple[ChainState, ChainRun]:
        """See `Move`; the centroid, which drifts by rounding, is put back."""
        run = run_mala(energy, state.x, self.step_size, n, seed, beta=self.beta, restraint=self.restraint)
        return ChainState(centred(run.x), run.u, run.f), run
