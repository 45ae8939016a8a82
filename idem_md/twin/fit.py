"""Fitting an energy network to energies and forces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..nets import EnergyNetwork
from ..torch_state import own_torch

__all__ = ["FitResult", "FitSettings", "Frames", "fit"]


@dataclass(frozen=True)
class Frames:
    """Configurations with what the real potential says of them.

    Attributes
    ----------
    x, u, f : torch.Tensor, shapes (n, N, D), (n,), (n, N, D)
        Positions in reduced length, energies in kT relative to the reference geometry, forces; float64.
    """

    x: torch.Tensor
    u: torch.Tensor
    f: torch.Tensor

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, rows) -> Frames:
        return Frames(self.x[rows], self.u[rows], self.f[rows])

    def __add__(self, other: Frames) -> Frames:
        return Frames(*(torch.cat(pair) for pair in zip(self.arrays, other.arrays)))

    @property
    def arrays(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions, energies and forces."""
        return self.x, self.u, self.f


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    Attributes
    ----------
    steps, batch : int
    learning_rate : float
        Of Adam, after a warm-up; it falls with a cosine to a hundredth.
    force_weight : float
        Of the squared error of a force component, in units of the mean squared force, beside that of the energy in
        units of ``tolerance``.
    tolerance : float
        Error of an energy (kT) that matters.
    seed : int
    """

    steps: int = 1500
    batch: int = 32
    learning_rate: float = 3e-3
    force_weight: float = 100.0
    tolerance: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class FitResult:
    """What a fit has come to.

    Attributes
    ----------
    spread : float
        Standard deviation of the error of the energy (kT) on frames that were left out, which lie as low as samples do.
    force_error : float
        Relative error of the forces there.
    seconds : float
    """

    spread: float
    force_error: float
    seconds: float


# Widths above ordinary energies from which on it is enough that the network is as high, and what such frames count.
CAP, CAPPED_WEIGHT = 3.0, 0.3


def _weights(u: torch.Tensor, typical: float, width: float) -> torch.Tensor:
    """What a frame counts: less, the farther above ordinary samples it lies; `CAPPED_WEIGHT` beyond `CAP`, where the
    network only has to be as high."""
    weights = 1 / (1 + ((u - typical).clamp(min=0) / width) ** 2)
    return torch.where(u > typical + CAP * width, CAPPED_WEIGHT, weights)


@own_torch
def fit(
    network: EnergyNetwork,
    frames: Frames,
    held_out: Frames,
    typical: float,
    width: float,
    settings: FitSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> FitResult:
    """Fit a network in place, by Adam on squared errors of energies and forces; its weights end as their average over
    the last steps.

    Parameters
    ----------
    network : EnergyNetwork
    frames, held_out : Frames
        To learn from, and to judge by.
    typical, width : float
        Highest energy (kT) of ordinary samples, and how far above it frames still count.
    settings : FitSettings
    on_step : callable (int)
        Called after each step with how many there were.
    """
    start, generator = time.perf_counter(), torch.Generator().manual_seed(settings.seed)
    weights = _weights(frames.u, typical, width)
    cap = typical + CAP * width
    low, goals = (frames.u <= cap).double(), frames.u.clamp(max=cap)
    force_scale = float((low[:, None, None] * frames.f**2).sum() / low.sum() / frames.f[0].numel())
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    average = [p.detach().clone() for p in parameters]
    x, f = frames.x.float(), frames.f.float()
    for step in range(settings.steps):
        share = min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))
        for group in optimizer.param_groups:
            group["lr"] = share * settings.learning_rate
        rows = torch.multinomial(weights, min(settings.batch, len(frames)), generator=generator)
        here = x[rows].requires_grad_(True)
        u = network(here)
        (gradient,) = torch.autograd.grad(u.sum(), here, create_graph=True)
        error = u - goals[rows]
        error = torch.where((low[rows] == 0) & (error > 0), 0.0, error)  # high enough, whatever the forces are
        energy_error = (error / settings.tolerance) ** 2
        force_error = low[rows] * ((gradient + f[rows]) ** 2).mean((1, 2)) / force_scale
        loss = (torch.log1p(energy_error) + settings.force_weight * force_error).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(average, parameters):
                a.lerp_(p, 1 - decay)
        on_step(step + 1)
    with torch.no_grad():
        for a, p in zip(average, parameters):
            p.copy_(a)
    return FitResult(*errors(network, held_out, typical), time.perf_counter() - start)


def errors(network: EnergyNetwork, frames: Frames, typical: float) -> tuple[float, float]:
    """Standard deviation of the error of energies (kT) that are no higher than ``typical``, and relative error of the
    forces there."""
    low = frames[frames.u <= typical]
    if len(low) < 2:
        return math.inf, math.inf
    u, f = network.with_forces(low.x.float())
    return float((u - low.u).std()), float((f - low.f).norm() / low.f.norm())
