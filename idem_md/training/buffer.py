"""The replay buffer: samples with stored energies and forces, relaxed and refined on the true energy."""

from __future__ import annotations

import torch

from ..checks import EnergyError
from ..energies import Energy
from ..geometry import centred, subspace_dimension

__all__ = ["Buffer", "relax"]


def relax(energy: Energy, x: torch.Tensor, n_steps: int, ceiling: float = -torch.inf, max_move: float = 0.05) -> torch.Tensor:
    """Move atoms out of overlaps by force steps of bounded length; not a minimiser, a way back to ordinary energies.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D)
    n_steps : int
    ceiling : float
        Configurations at or below this energy are left alone: pushed further they would only be cooled.
    max_move : float
        Largest move of an atom in one step, in reduced length.
    """
    x, dtype = x.to(torch.float64, copy=True), x.dtype  # squared forces of near overlaps overflow in float32
    todo = torch.arange(len(x))
    for _ in range(n_steps):
        u, f = energy(x[todo])
        high = ~(u <= ceiling)
        todo, f = todo[high], f[high]
        if not len(todo):
            break
        norm = f.norm(dim=-1, keepdim=True)
        x[todo] += f * torch.clamp(max_move / norm.clamp(min=1e-12), max=1e-3)
    return centred(x).to(dtype)


class Buffer:
    """Ring of samples with energies and forces.

    Attributes
    ----------
    x, f : torch.Tensor, shape (size, N, D), float32
    u : torch.Tensor, shape (size,), float32
    next : int
        Where the next fresh samples go; the oldest ones are there.
    """

    def __init__(self, x: torch.Tensor, u: torch.Tensor, f: torch.Tensor, next: int = 0):
        self.x, self.u, self.f, self.next = x, u, f, next

    @classmethod
    def of(cls, energy: Energy, x: torch.Tensor) -> Buffer:
        """A buffer of ``x``, configurations of infinite energy replaced by copies of the others.

        Raises
        ------
        EnergyError
            There are no others.
        """
        u, f = energy(x)
        ok = torch.isfinite(u)
        if not bool(ok.any()):
            raise EnergyError(f"buffer: expected at least one configuration of finite energy among {len(x)}, got none")
        fill = torch.where(ok, torch.arange(len(x)), ok.nonzero()[torch.arange(len(x)) % int(ok.sum()), 0])
        return cls(x[fill], u[fill], f[fill])

    def put(self, energy: Energy, x: torch.Tensor) -> int:
        """Overwrite the oldest samples by those of ``x`` (M, N, D) with a finite energy; returns how many had one."""
        u, f = energy(x)
        ok = torch.isfinite(u)
        where = (self.next + torch.arange(int(ok.sum()))) % len(self.x)
        self.x[where], self.u[where], self.f[where] = x[ok], u[ok], f[ok]
        self.next = int((self.next + len(where)) % len(self.x))
        return len(where)

    def refine(self, energy: Energy, step: float, n_steps: int, seed: int) -> float:
        """MALA on the true energy for every sample; returns the acceptance."""
        x, self.u, self.f, acceptance, *_ = energy.mala(self.x, step, n_steps, seed)
        self.x = centred(x)
        return float(acceptance.mean())

    def force_scale(self) -> float:
        """s = <f^2>^(-1/2) per coordinate of the mean-free subspace."""
        return float((self.f.double() ** 2).sum((1, 2)).mean() / subspace_dimension(*self.f.shape[1:])) ** -0.5
