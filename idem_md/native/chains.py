"""Markov chains on Lennard-Jones energies as torch ops; parameters as in `native.lennard_jones`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_int
from ..errors import UsageError
from .module import check_batch, check_tensor, native, place
from .parameters import DEVICES, FLOATS, chain_numbers, parameters, run, species_on

__all__ = ["lj_anneal", "lj_mala", "lj_tempering"]

MAX_STEPS = 2**24  # accepted moves are counted in float32


@torch.library.custom_op("idem_md::lj_mala", mutates_args=(), device_types=DEVICES)
def lj_mala(
    x: Tensor,
    step: Tensor,
    beta: Tensor,
    n_steps: int,
    seed: int,
    epsilon: Sequence[float],
    r_min: Sequence[float],
    trap: float,
    species: Tensor | None = None,
    centre: Tensor | None = None,
    stiffness: Tensor | None = None,
    averages: bool = False,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Metropolis-adjusted Langevin chains on beta*u(x) + stiffness/2 |x - centre|^2, in the mean-free subspace.

    Proposal x' = x + h g + sqrt(2h) noise, with g the total force, each atom's part cut to the length sqrt(2 D / h)
    and the mean removed (MALTA; Roberts & Tweedie, Bernoulli 2, 341, 1996). The whole loop runs in native code, one
    chain a vector lane or CUDA thread; on one device a chain's random numbers depend on (seed, chain index) only.

    Parameters
    ----------
    x : torch.Tensor, shape (C, N, D), float32
        Starting positions, mean-free.
    step, beta : torch.Tensor, shape (C,) or one element
        Langevin step h (length^2) and inverse temperature relative to kT = 1.
    n_steps, seed : int
    epsilon, r_min, trap, species
        See `native.lennard_jones`.
    centre : torch.Tensor, shape (C, N, D), optional
    stiffness : torch.Tensor, shape (C,) or one element, optional
        Harmonic restraint; both or neither.
    averages : bool
        Also average positions and bare forces over the steps of each chain.

    Returns
    -------
    x, u, f : torch.Tensor
        Final positions (C, N, D), energies (C,) and forces (C, N, D) without the restraint.
    acceptance : torch.Tensor, shape (C,)
    mean_x, mean_f : torch.Tensor, shape (C, N, D), or (0, N, D) without ``averages``
    """
    check_batch(x)
    check_int("n_steps", n_steps, 0, MAX_STEPS)
    check_int("seed", seed, 0, 2**63 - 1)
    x = x.detach().contiguous()
    c, n, d = x.shape
    step, beta = chain_numbers("step", step, c, x), chain_numbers("beta", beta, c, x)
    if (centre is None) != (stiffness is None):
        raise UsageError("centre, stiffness: expected both or neither")
    if centre is not None and stiffness is not None:
        check_tensor("centre", centre, (c, n, d), FLOATS)
        centre, stiffness = centre.to(x.device, torch.float32).contiguous(), chain_numbers("stiffness", stiffness, c, x)
    species = species_on(species, n, x.device)
    out, f = torch.empty_like(x), torch.empty_like(x)
    u, acceptance = x.new_empty(c), x.new_empty(c)
    mean_x, mean_f = (x.new_empty(c if averages else 0, n, d) for _ in range(2))
    address = lambda t: 0 if t is None else t.data_ptr()  # noqa: E731
    run(
        native.mala,
        place(x.device, isa),
        x,
        parameters(n, d, epsilon, r_min, trap, species),
        c,
        n_steps,
        seed,
        *map(
            address,
            (
                step,
                beta,
                centre,
                stiffness,
                x,
                out,
                u,
                f,
                mean_x if averages else None,
                mean_f if averages else None,
                acceptance,
            ),
        ),
    )
    return out, u, f, acceptance, mean_x, mean_f


@lj_mala.register_fake
def _(
    x,
    step,
    beta,
    n_steps,
    seed,
    epsilon,
    r_min,
    trap,
    species=None,
    centre=None,
    stiffness=None,
    averages=False,
    isa="",
):
    c = x.shape[0]
    mean = (c if averages else 0, *x.shape[1:])
    return (
        x.new_empty(x.shape),
        x.new_empty(c),
        x.new_empty(x.shape),
        x.new_empty(c),
        x.new_empty(mean),
        x.new_empty(mean),
    )


@torch.library.custom_op("idem_md::lj_tempering", mutates_args=(), device_types=DEVICES)
def lj_tempering(
    x: Tensor,
    step: Tensor,
    beta: Tensor,
    n_rounds: int,
    n_steps: int,
    seed: int,
    epsilon: Sequence[float],
    r_min: Sequence[float],
    trap: float,
    species: Tensor | None = None,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Parallel tempering: ladders of replicas, each round ``n_steps`` of MALA a replica and one sweep of swaps.

    Even and odd pairs of neighbouring rungs take turns; a swap of r and r+1 is accepted with probability
    min(1, exp[(beta_r - beta_{r+1})(u_r - u_{r+1})]). One ladder a vector lane or CUDA thread, the whole loop in
    native code.

    Parameters
    ----------
    x : torch.Tensor, shape (C, R, N, D), float32
        Starting positions of C ladders of R >= 2 rungs, mean-free.
    step, beta : torch.Tensor, shape (R,)
        Langevin step and inverse temperature of each rung, the coldest (largest beta) first.
    n_rounds, n_steps, seed : int
    epsilon, r_min, trap, species
        See `native.lennard_jones`.

    Returns
    -------
    x, u, f : torch.Tensor, shapes (C, R, N, D), (C, R), (C, R, N, D)
        Final state by rung.
    acceptance : torch.Tensor, shape (C, R)
        Of the MALA moves.
    swaps : torch.Tensor, shape (C, R-1)
        Accepted share of the attempted swaps of rungs r and r+1; NaN where none was attempted.
    round_trips : torch.Tensor, shape (C,)
        How often a replica that had been hottest arrived at the coldest rung.
    trace : torch.Tensor, shape (C, n_rounds, R)
        Energies by rung after each round.
    """
    check_tensor("x", x, (None,) * 4)
    c, r, n, d = x.shape
    if r < 2:
        raise UsageError(f"x: expected at least two rungs, got shape {tuple(x.shape)}")
    check_batch(x[:, 0])
    for name, value in (("n_rounds", n_rounds), ("n_steps", n_steps), ("n_rounds * n_steps", n_rounds * n_steps)):
        check_int(name, value, 0, MAX_STEPS)
    check_int("seed", seed, 0, 2**63 - 1)
    x = x.detach().contiguous()
    step, beta = chain_numbers("step", step, r, x), chain_numbers("beta", beta, r, x)
    if not bool((beta[:-1] > beta[1:]).all()):
        raise UsageError("beta: expected inverse temperatures falling from the coldest rung to the hottest")
    species = species_on(species, n, x.device)
    out, f = torch.empty_like(x), torch.empty_like(x)
    u, acceptance, swaps = x.new_empty(c, r), x.new_empty(c, r), x.new_empty(c, r - 1)
    trips, trace = x.new_empty(c), x.new_empty(c, n_rounds, r)
    run(
        native.tempering,
        place(x.device, isa),
        x,
        parameters(n, d, epsilon, r_min, trap, species),
        c,
        r,
        n_rounds,
        n_steps,
        seed,
        *(t.data_ptr() for t in (beta, step, x, out, u, f, acceptance, swaps, trips, trace)),
    )
    return out, u, f, acceptance, swaps, trips, trace


@lj_tempering.register_fake
def _(x, step, beta, n_rounds, n_steps, seed, epsilon, r_min, trap, species=None, isa=""):
    c, r = x.shape[:2]
    return (
        x.new_empty(x.shape),
        x.new_empty(c, r),
        x.new_empty(x.shape),
        x.new_empty(c, r),
        x.new_empty(c, r - 1),
        x.new_empty(c),
        x.new_empty(c, n_rounds, r),
    )


@torch.library.custom_op("idem_md::lj_anneal", mutates_args=(), device_types=DEVICES)
def lj_anneal(
    mean: Tensor,
    x_t: Tensor,
    ends: Sequence[float],
    beta: Tensor,
    step: Tensor,
    n_moves: int,
    seed: int,
    epsilon: Sequence[float],
    r_min: Sequence[float],
    trap: float,
    species: Tensor | None = None,
    start: Tensor | None = None,
    trace: bool = False,
    n_leapfrogs: int = 1,
    isa: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Annealed importance sampling from N(mean, variance I) to exp(-end u(y) - |y - x_t|^2 / 2 sigma^2), all in native
    code.

    Along q_0^(1-b) gamma^b for b = beta_0 = 0, ..., beta_T = 1: each stage raises b, adds to the weight, and takes
    ``n_moves`` steps of Hamiltonian Monte Carlo, Metropolis-adjusted Langevin if of one leapfrog. One chain a vector
    lane or CUDA thread; chains in float32, weights summed in float64. On one device a chain's random numbers depend on
    (seed, chain index) only.

    Parameters
    ----------
    mean, x_t : torch.Tensor, shape (C, N, D), float32
        Mean-free.
    ends : (variance, sigma, end)
        Of the Gaussian at the start, of the restraint at the end, and the inverse temperature of u there.
    beta : torch.Tensor, shape (T+1,), float64, on the CPU
        Rising from 0 to 1; falling from 1 to 0 with a ``start``.
    step : torch.Tensor, shape (T,) or one element
        Langevin step h after each rise; a leapfrog has the length sqrt(2h).
    n_moves, seed : int
    epsilon, r_min, trap, species
        See `native.lennard_jones`.
    start : torch.Tensor, shape (C, N, D), float32, optional
        Where chains begin that go the way back, instead of at draws from q_0.
    trace : bool
        Also return the acceptance after each step of beta, and what log_w grew by.
    n_leapfrogs : int
        Leapfrogs a move; each takes an energy call.

    Returns
    -------
    x, u : torch.Tensor, shapes (C, N, D), (C,)
    log_w : torch.Tensor, shape (C,), float64
        Sum of (beta_k+1 - beta_k) [-end u - |x - x_t|^2 / 2 sigma^2 + |x - mean|^2 / 2 variance]: the estimate of the
        ratio of the two densities' integrals, that of q_0 taken without its normalisation.
    acceptance, increments : torch.Tensor, shape (C, T), or (0, T)
    """
    check_batch(x_t)
    check_tensor("mean", mean, tuple(x_t.shape))
    check_int("n_moves", n_moves, 1, MAX_STEPS)
    check_int("n_leapfrogs", n_leapfrogs, 1)
    check_int("seed", seed, 0, 2**63 - 1)
    check_tensor("beta", beta, (None,), (torch.float64,))
    variance, sigma, end = ends
    if not (variance > 0 and sigma > 0 and end > 0):
        raise UsageError(f"ends: expected three positive numbers, got {list(ends)}")
    rising = beta if start is None else beta.flip(0)
    if len(beta) < 2 or rising[0] != 0 or rising[-1] != 1 or not bool((rising[1:] >= rising[:-1]).all()):
        way = "rising from 0 to 1" if start is None else "falling from 1 to 0"
        raise UsageError(f"beta: expected two or more numbers {way}, got shape {tuple(beta.shape)}")
    c, n, d = x_t.shape
    stages = len(beta) - 1
    step = chain_numbers("step", step, stages, x_t)
    if start is not None:
        check_tensor("start", start, tuple(x_t.shape))
        start = start.detach().to(x_t.device).contiguous()
    mean, x_t, beta = mean.detach().contiguous(), x_t.detach().contiguous(), beta.to(x_t.device).contiguous()
    species = species_on(species, n, x_t.device)
    out, u, log_w = torch.empty_like(x_t), x_t.new_empty(c), x_t.new_empty(c, dtype=torch.float64)
    share, increments = (x_t.new_empty(c if trace else 0, stages) for _ in range(2))
    lj = parameters(n, d, epsilon, r_min, trap, species)
    numbers = (c, stages, n_moves, n_leapfrogs, seed, 1 / variance, sigma**-2, end)
    optional = 0 if start is None else start.data_ptr()
    addresses = [beta.data_ptr(), step.data_ptr(), optional, *(t.data_ptr() for t in (mean, x_t, out, u, log_w))]
    where = place(x_t.device, isa)
    addresses += [t.data_ptr() if trace else 0 for t in (share, increments)]
    run(native.anneal, where, x_t, lj, *numbers, *addresses)
    return out, u, log_w, share, increments


@lj_anneal.register_fake
def _(
    mean,
    x_t,
    ends,
    beta,
    step,
    n_moves,
    seed,
    epsilon,
    r_min,
    trap,
    species=None,
    start=None,
    trace=False,
    n_leapfrogs=1,
    isa="",
):
    c = x_t.shape[0]
    share, increments = (x_t.new_empty(c if trace else 0, beta.shape[0] - 1) for _ in range(2))
    return x_t.new_empty(x_t.shape), x_t.new_empty(c), x_t.new_empty(c, dtype=torch.float64), share, increments
