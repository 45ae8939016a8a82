"""The replay buffer: a ring of samples with stored energies and forces, refined on the true energy."""

from __future__ import annotations

import torch

from ..chains import MALA, ChainState
from ..energies import Energy
from ..geometry import subspace_dimension

__all__ = ["RingBuffer"]


class RingBuffer:
    """Ring of samples with energies and forces.

    Attributes
    ----------
    samples : ChainState
        Positions (size, N, D), energies (size,) and forces, float32.
    next : int
        Where the next fresh samples go; the oldest ones are there.
    """

    def __init__(self, samples: ChainState, next: int = 0):
        self.samples, self.next = samples, next

    def __len__(self) -> int:
        return len(self.samples.x)

    def put(self, energy: Energy, x: torch.Tensor) -> int:
        """Overwrite the oldest samples by those of ``x`` (M, N, D) with a finite energy; returns how many had one."""
        u, f = energy(x)
        ok = torch.isfinite(u)
        where = (self.next + torch.arange(int(ok.sum()))) % len(self)
        s = self.samples
        s.x[where], s.u[where], s.f[where] = x[ok], u[ok], f[ok]
        self.next = int((self.next + len(where)) % len(self))
        return len(where)

    def refine(self, energy: Energy, step: float, n_steps: int, seed: int) -> float:
        """MALA on the true energy for every sample; returns the acceptance."""
        self.samples, run = MALA(step).step(energy, self.samples, n_steps, seed)
        return float(run.acceptance.mean())

    def force_scale(self) -> float:
        """s = <f^2>^(-1/2) per coordinate of the mean-free subspace."""
        f = self.samples.f
        return float((f.double() ** 2).sum((1, 2)).mean() / subspace_dimension(*f.shape[1:])) ** -0.5
