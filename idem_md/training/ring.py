"""The replay buffer: a ring of samples with stored energies and forces, refined on the true energy."""

from __future__ import annotations

from typing import Any

import torch

from ..chains import ChainState, Move
from ..energies import Energy
from ..geometry import subspace_dimension

__all__ = ["RingBuffer"]


class RingBuffer:
    """Ring of samples with energies and forces, some of which, the walkers, are the newest places of Markov chains.

    Attributes
    ----------
    samples : ChainState
        Positions (n, N, D) and forces of n <= ``size``, float32, and energies (n,) as the energy gives them.
    size, walkers : int
        Samples that fit in, and how many of them, the newest, are walkers; by default all.
    next : int
        Where the next samples go once there is no more room; the oldest ones are there.
    """

    def __init__(self, samples: ChainState, size: int | None = None, walkers: int | None = None, next: int = 0):
        self.samples, self.next = samples, next
        self.size = size or len(samples.x)
        self.walkers = walkers or self.size

    def __len__(self) -> int:
        return len(self.samples.x)

    def drawn(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """``n`` indices of samples, each drawn from all."""
        return torch.randint(len(self), (n,), generator=generator, device=generator.device)

    def append(self, new: ChainState) -> None:
        """Put samples beside the others as long as there is room, and then in the place of the oldest."""
        free = self.size - len(self)
        s = self.samples
        if s.u.dtype != new.u.dtype:  # as older versions kept them
            s = self.samples = ChainState(s.x, s.u.to(new.u.dtype), s.f)
        if free:
            pairs = ((s.x, new.x), (s.u, new.u), (s.f, new.f))
            self.samples = s = ChainState(*(torch.cat([old, more[:free]]) for old, more in pairs))
        where = (self.next + torch.arange(len(new.u[free:]), device=s.x.device)) % len(self)
        self.replace(where, ChainState(new.x[free:], new.u[free:], new.f[free:]))
        self.next = int((self.next + len(where)) % len(self))

    def put(self, energy: Energy, x: torch.Tensor) -> int:
        """`append` those samples of ``x`` (M, N, D) that have a finite energy; returns how many."""
        u, f = energy(x)
        ok = torch.isfinite(u)
        self.append(ChainState(x[ok], u[ok], f[ok]))
        return int(ok.sum())

    @property
    def newest(self) -> torch.Tensor:
        """Indices of the walkers, in the order in which they came."""
        return (self.next - self.walkers + torch.arange(self.walkers, device=self.samples.x.device)) % len(self)

    def replace(self, where: torch.Tensor, new: ChainState) -> None:
        """Put samples in the place of those of these indices."""
        s = self.samples
        s.x[where], s.u[where], s.f[where] = new.x, new.u, new.f

    def refine(self, energy: Energy, move: Move[Any], n_steps: int, seed: int) -> Any:
        """Steps of a move on the true energy for the walkers; returns what happened."""
        s = self.samples
        if self.walkers == self.size:
            self.samples, run = move.step(energy, s, n_steps, seed)
        else:
            newest = self.newest  # in their order, and so they go back: those that come next replace the oldest
            state, run = move.step(energy, ChainState(s.x[newest], s.u[newest], s.f[newest]), n_steps, seed)
            self.append(state)
        return run

    def force_scales(self, rungs: int = 1) -> list[float]:
        """s = <f^2>^(-1/2) per coordinate of the mean-free subspace, of the samples of each rung."""
        f, dimension = self.samples.f, subspace_dimension(*self.samples.f.shape[1:])
        return [float((f[k::rungs].double() ** 2).sum((1, 2)).mean() / dimension) ** -0.5 for k in range(rungs)]
