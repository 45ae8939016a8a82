"""Where chains start."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..energies import Energy
from ..errors import EnergyError
from ..geometry import centred, standard_normal
from .move import ChainState
from .relaxation import relax

__all__ = ["finite_start", "geometry_start", "noise_start"]


def finite_start(energy: Energy, x: torch.Tensor) -> ChainState:
    """The state at ``x`` (B, N, D), configurations of infinite energy replaced by copies of the others.

    Raises
    ------
    EnergyError
        There are no others.
    """
    u, f = energy(x)
    ok = torch.isfinite(u)
    if not bool(ok.any()):
        raise EnergyError(f"start: expected at least one configuration of finite energy among {len(x)}, got none")
    rows = torch.arange(len(x), device=x.device)
    fill = torch.where(ok, rows, ok.nonzero()[rows % int(ok.sum()), 0])
    return ChainState(x[fill], u[fill], f[fill])


def noise_start(
    energy: Energy,
    scale: float,
    n: int,
    relax_steps: int,
    generator: torch.Generator,
    on_step: Callable[[], None] = lambda: None,
    device: torch.device | str = "cpu",
) -> ChainState:
    """``n`` configurations of noise of the given extent, relaxed; float32.

    Parameters
    ----------
    scale : float
        Standard deviation of a coordinate, in reduced length.
    relax_steps : int
        See `relax`, which is also given ``on_step``.
    """
    x = (scale * standard_normal((n, energy.n_atoms, energy.n_dims), generator, device=device)).float()
    return finite_start(energy, relax(energy, x, relax_steps, on_step=on_step))


def geometry_start(
    energy: Energy,
    geometry: torch.Tensor,
    scale: float,
    n: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> ChainState:
    """``n`` copies of one configuration (N, D), each coordinate with noise of the standard deviation ``scale``, in
    reduced length; float32."""
    x = geometry + scale * standard_normal((n, energy.n_atoms, energy.n_dims), generator, device=device)
    return finite_start(energy, centred(x).float())
