"""A way back from overlaps to ordinary energies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..energies import Energy
from ..geometry import centred

__all__ = ["quench", "relax"]


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
    todo = torch.arange(len(x), device=x.device)
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


def quench(energy: Energy, x: torch.Tensor) -> torch.Tensor:
    """Energies (B,) of the minima below configurations (B, N, D), by L-BFGS from each; float64.

    A configuration whose minimisation does not converge gives NaN.
    """
    from scipy.optimize import minimize  # whose import takes as long as that of this package

    zero: float | None = None

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal zero
        u, f = energy(torch.from_numpy(flat).reshape(1, *x.shape[1:]).to(x.device))
        zero = float(u[0]) if zero is None else zero
        return float(u[0]) - zero, -f.reshape(-1).cpu().numpy()

    out: list[float] = []
    for start in x.double().flatten(1).cpu().numpy():
        zero = None  # the first energy of each: convergence is judged by parts of the value
        objective(start)
        assert zero is not None
        # Or nothing would ever be converged enough for the rounding of a large total energy.
        options = {"maxiter": 2000, "ftol": max(1e-12, 10 * np.finfo(float).eps * abs(zero))}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        out.append(found.fun + zero if found.success else np.nan)
    return x.new_tensor(out, dtype=torch.float64)
