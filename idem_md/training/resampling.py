"""Fresh samples by importance weights: they bring the shares of equilibrium, where chains that do not cross between
basins of attraction keep those with which they began."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..chains import ChainState
from ..diffusion import Paths, PathSampler, PlainLastStep, level_density, noise_grid
from ..diffusion.kernels import Analytic
from ..energies import Energy
from ..geometry import uniform
from ..seeds import draw_seed
from ..systematic import systematic_indices
from .accuracy import measure_accuracy
from .config import TrainingConfig
from .state import TrainingState

__all__ = ["out_of_equilibrium", "renewed_by_weight", "weighted_paths"]

# Weights with fewer effective samples say next to nothing.
LEAST_EFFECTIVE = 16.0
# So many samples enter for each that is effective: those whose places they take may have wrong shares.
COPIES = 4
# One in so many paths goes ahead, and so many of those have to be effective.
PILOT, LEAST_OF_PILOT = 8, 3.0
# Outer iterations with such weights from which a run is judged.
LEAST_ROUNDS = 4
# Noise levels at which the error of the network is measured, samples for each; and those on which levels are placed.
ACCURACY_LEVELS, ACCURACY_SAMPLES, LEVEL_SAMPLES = 17, 128, 128


@dataclass(frozen=True)
class WeightedShare:
    """What the weights of paths say.

    Attributes
    ----------
    ess : float
        Effective samples.
    mean_energy, error : float
        By weight, in kT; NaN without weights.
    """

    ess: float
    mean_energy: float = math.nan
    error: float = math.nan

    @property
    def enough(self) -> bool:
        """Whether weights say which samples to take."""
        return self.ess >= LEAST_EFFECTIVE

    @classmethod
    def of(cls, paths: Paths) -> WeightedShare:
        """Errors to first order in 1/n."""
        alive = torch.isfinite(paths.log_weights)
        if not bool(alive.any()):
            return cls(0.0)
        w, u = torch.softmax(paths.log_weights[alive], 0), paths.energies[alive]
        mean = (w * u).sum()
        return cls(1 / float((w**2).sum()), float(mean), float((w * (u - mean)).norm()))


@torch.no_grad()
def weighted_paths(config: TrainingConfig, energy: Energy, state: TrainingState, n: int, rung: int = 0) -> Paths:
    """Draw ``n`` weighted paths of the averaged network, one energy call each, at noise levels that suit its present
    state; or the first eighth of them alone, if fewer than three of it are effective.

    Weights are those of the temperature of the ``rung``, energies in kT of the system's own.
    """
    lowest, highest = config.noise.sigma_min, config.noise.sigma_max
    beta = 1.0 if state.ladder is None else state.ladder.betas[rung]
    accuracy = measure_accuracy(config, state, ACCURACY_LEVELS, ACCURACY_SAMPLES, rung)
    kernel = Analytic(state.average_at(rung), accuracy)
    x_0 = state.buffer.samples.x[state.drawn(LEVEL_SAMPLES, rung, state.generator)].double()
    density = level_density(kernel, x_0, lowest, highest, draw_seed(state.generator))
    grid = noise_grid(lowest, highest, config.buffer.sampling_steps, density=density)
    sampler = PathSampler(kernel, PlainLastStep(), grid, state.system.sigma_data, state.device)

    def weighed(count: int) -> Paths:
        (paths,) = sampler.sample([energy], count, state.generator)
        alive = torch.isfinite(paths.log_weights)
        # exp(-u) was in the weights, exp(-beta u) is to be.
        log_w = torch.where(alive, paths.log_weights + (1 - beta) * torch.where(alive, paths.energies, 0.0), -torch.inf)
        return replace(paths, log_weights=log_w)

    first = -(-n // PILOT)
    pilot = weighed(first)
    if first == n or WeightedShare.of(pilot).ess < LEAST_OF_PILOT:
        return pilot
    rest = weighed(n - first)
    return Paths(
        torch.cat([pilot.positions, rest.positions]),
        torch.cat([pilot.energies, rest.energies]),
        torch.cat([pilot.log_weights, rest.log_weights]),
        pilot.nfe,
        pilot.failed + rest.failed,
    )


def renewed_by_weight(energy: Energy, paths: Paths, most: int, state: TrainingState, rung: int = 0) -> WeightedShare:
    """Put end points of the paths into the buffer, drawn by weight, ``most`` at most. Each distinct one costs an energy
    call.

    With a ladder they take the places of walkers of the ``rung``, drawn at random; replica exchange carries them on.
    """
    share = WeightedShare.of(paths)
    if share.enough:
        weights, n = torch.softmax(paths.log_weights, 0), min(most, int(COPIES * share.ess))
        shift = float(uniform(1, state.generator, torch.float64, "cpu"))
        drawn = torch.from_numpy(systematic_indices(weights.numpy(), n, shift))
        chosen, copies = drawn.unique(return_inverse=True)
        x, copies = paths.positions[chosen].float().to(state.device), copies.to(state.device)
        u, f = energy(x)
        copies = copies[torch.isfinite(u)[copies]]  # in single precision
        new = ChainState(x[copies], u[copies], f[copies])
        if state.ladder is None:
            state.buffer.append(new)
        else:
            places = state.buffer.newest[rung :: len(state.ladder)]
            order = torch.randperm(len(places), generator=state.generator)[: len(copies)]
            state.buffer.replace(places[order.to(places.device)], new)
    return share


def out_of_equilibrium(log: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence if in the last quarter (or half, with a ladder) of a run the mean energies of the buffer and of
    weighted samples differ by more than four times the error of the latter and the fluctuation of the former together.

    Parameters
    ----------
    log : sequence of dict
        Entries of ``log.jsonl``, one an outer iteration.
    """
    rungs_take_turns = any(entry.get("swaps") is not None for entry in log)
    for share in (4, 2) if rungs_take_turns else (4,):
        late = [entry for entry in log[-(len(log) // share) :] if entry.get("weighted_mean_energy") is not None]
        if len(late) >= LEAST_ROUNDS:
            break
    else:
        return None
    names = ("weighted_mean_energy", "weighted_mean_energy_err", "buffer_mean_energy")
    mean, error, buffer = (np.array([entry[name] for entry in late], float) for name in names)
    error_of_mean = float(np.linalg.norm(error)) / len(late)
    if abs(mean.mean() - buffer.mean()) <= 4 * math.hypot(error_of_mean, buffer.std()):
        return None
    return (
        f"the replay buffer is not in equilibrium: its mean energy is {buffer.mean():.2f} kT, that of fresh samples by "
        f"weight {mean.mean():.2f} +- {error_of_mean:.2f} kT; train longer"
    )
