"""What an energy may be able to do beyond its contract, one protocol each; ask with `isinstance`.

Whoever runs an algorithm (chains, targets, baselines) checks arguments, counts energy calls, and takes the faster way
where there is one; the energy only does the work.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..units import Units
from .base import Energy

__all__ = [
    "AnnealRun",
    "ChainRun",
    "DemScores",
    "ExactSamples",
    "HasWorkers",
    "Modes",
    "NativeAnnealing",
    "NativeChains",
    "NativeDemScores",
    "Physical",
    "Scalable",
    "TemperingRun",
]


class ChainRun(NamedTuple):
    """Where a batch of chains ended.

    Attributes
    ----------
    x, u, f : torch.Tensor, shapes (C, N, D), (C,), (C, N, D)
        Final positions, energies and forces, without a restraint.
    acceptance : torch.Tensor, shape (C,)
        NaN without steps.
    mean_x, mean_f : torch.Tensor, shape (C, N, D), or (0, N, D) if they were not asked for
        Averages of positions and bare forces over the steps.
    """

    x: Tensor
    u: Tensor
    f: Tensor
    acceptance: Tensor
    mean_x: Tensor
    mean_f: Tensor


class TemperingRun(NamedTuple):
    """Where C ladders of R replicas ended.

    Attributes
    ----------
    x, u, f : torch.Tensor, shapes (C, R, N, D), (C, R), (C, R, N, D)
        Final state by rung.
    acceptance : torch.Tensor, shape (C, R)
        Of the moves between swaps; NaN without rounds.
    swaps : torch.Tensor, shape (C, R-1)
        Accepted share of the attempted swaps of rungs r and r+1; NaN where none was attempted.
    round_trips : torch.Tensor, shape (C,)
        Arrivals at the coldest rung of replicas that had been hottest.
    trace : torch.Tensor, shape (C, rounds, R)
        Energies by rung after each round.
    """

    x: Tensor
    u: Tensor
    f: Tensor
    acceptance: Tensor
    swaps: Tensor
    round_trips: Tensor
    trace: Tensor


class DemScores(NamedTuple):
    """Importance-sampled scores of the noised Boltzmann density at B positions.

    Attributes
    ----------
    tsi, dsi : torch.Tensor, shape (B, N, D)
        S_T = sum w f(x_k), by the target-score identity (the estimator of iDEM), and S_D = sum w eps_k / sigma, by the
        denoising-score identity.
    alpha : torch.Tensor, shape (B,)
        Weight of S_T in the mix of least variance, in [0, 1].
    log_mean_exp : torch.Tensor, shape (B,)
        log (1/K) sum_k exp(-u(x_k)); -inf where every draw overlaps (then the scores are 0).
    ess : torch.Tensor, shape (B,)
        (sum w)^2 / sum w^2; 0 where every draw overlaps.
    """

    tsi: Tensor
    dsi: Tensor
    alpha: Tensor
    log_mean_exp: Tensor
    ess: Tensor


class AnnealRun(NamedTuple):
    """Where annealed chains ended, and their log weights.

    Attributes
    ----------
    x, u : torch.Tensor, shapes (C, N, D), (C,)
        End points and their energies.
    log_w : torch.Tensor, shape (C,), float64
        Log weights; see `chains.run_annealing`.
    acceptance : torch.Tensor, shape (C, T), or (0, T) if it was not asked for
        Of the moves of each stage.
    increments : torch.Tensor, shape (C, T), or (0, T)
        What log_w grew by at each stage, but for the ratio of the norms of the two Gaussians.
    """

    x: Tensor
    u: Tensor
    log_w: Tensor
    acceptance: Tensor
    increments: Tensor


@runtime_checkable
class NativeAnnealing(Protocol):
    """Annealed importance sampling in native code, in float32; see `chains.run_annealing` for the arguments."""

    def native_anneal(
        self,
        mean: Tensor,
        x_t: Tensor,
        ends: tuple[float, float, float],
        beta: Tensor,
        step: Tensor,
        n_moves: int,
        n_leapfrogs: int,
        seed: int,
        start: Tensor | None,
        trace: bool,
    ) -> AnnealRun: ...


@runtime_checkable
class NativeChains(Protocol):
    """Markov chains in native code, in float32; see `chains.run_mala` and `chains.run_tempering` for the arguments."""

    def native_mala(
        self,
        x: Tensor,
        step: Tensor,
        beta: Tensor,
        n_steps: int,
        seed: int,
        centre: Tensor | None,
        stiffness: Tensor | None,
        averages: bool,
    ) -> ChainRun: ...

    def native_tempering(
        self, x: Tensor, step: Tensor, beta: Tensor, n_rounds: int, n_steps: int, seed: int
    ) -> TemperingRun: ...


@runtime_checkable
class NativeDemScores(Protocol):
    """The importance-sampled score in native code, streamed, in float32; see `targets.dem_scores`."""

    def native_dem_scores(self, x: Tensor, sigma: Tensor, n_samples: int, seed: int) -> DemScores: ...


@runtime_checkable
class ExactSamples(Protocol):
    """A formula for exact samples."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...


@runtime_checkable
class Modes(Protocol):
    """Known modes of equal weight: their centres (M, D)."""

    @property
    def means(self) -> Tensor: ...


@runtime_checkable
class Physical(Protocol):
    """An energy with a physical scale, and with a chemical symbol for each atom."""

    @property
    def units(self) -> Units: ...

    @property
    def elements(self) -> tuple[str, ...]: ...


@runtime_checkable
class Scalable(Protocol):
    """An energy that is of the same kind after multiplication by a number, as at another temperature."""

    def scaled(self, factor: float) -> Energy: ...


@runtime_checkable
class HasWorkers(Protocol):
    """An energy with processes of its own, which `close` stops; they start again when needed."""

    def close(self) -> None: ...
