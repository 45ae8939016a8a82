"""A way back from overlaps to ordinary energies."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..energies import Energy
from ..geometry import centred

__all__ = ["relax"]


def relax(
    energy: Energy,
    x: torch.Tensor,
    n_steps: int,
    ceiling: float = -torch.inf,
    max_move: float = 0.05,
    on_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Move atoms out of overlaps by force steps of bounded length; not a minimiser, a way back to ordinary energies.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D)
    n_steps : int
    ceiling : float
        Configurations at or below this energy are left alone: pushed further they would only be cooled.
    max_move : float
        Largest move of an atom in one step, in reduced length.
    on_step : callable ()
        Called before every step; may raise.
    """
    x, dtype = x.to(torch.float64, copy=True), x.dtype  # squared forces of near overlaps overflow in float32
    todo = torch.arange(len(x))
    for _ in range(n_steps):
        on_step()
        u, f = energy(x[todo])
        high = ~(u <= ceiling)
        todo, f = todo[high], f[high]
        if not len(todo):
            break
        norm = f.norm(dim=-1, keepdim=True)
        x[todo] += f * torch.clamp(max_move / norm.clamp(min=1e-12), max=1e-3)
    return centred(x).to(dtype)
