"""Noise levels for training and sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..checks import check_float, check_int
from ..errors import UsageError
from ..geometry import uniform

__all__ = ["noise_grid", "stratified_log_uniform"]


def noise_grid(
    sigma_min: float, sigma_max: float, n: int, rho: float = 7.0, density: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Descending noise levels sigma_N > ... > sigma_1; one network evaluation each.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho (Karras et al., NeurIPS
    2022, eq. 5) unless a density is given; the last step, from sigma_1 to 0, is not in the grid.

    Parameters
    ----------
    density : sequence of float, optional
        Levels a unit of ln sigma, up to a factor, at equidistant ln sigma from the lowest to the highest.

    Raises
    ------
    UsageError
        n < 2, levels that are not 0 < sigma_min < sigma_max, or fewer than two densities or one that is not positive.
    """
    n = check_int("nfe", n, 2)
    check_float("sigma_min", sigma_min, above=0.0)
    check_float("sigma_max", sigma_max, above=sigma_min)
    if density is not None:
        if len(density) < 2 or not all(check_float("density", value, above=0.0) for value in density):
            raise UsageError(f"density: expected two or more positive numbers, got {list(density)}")
        at = np.linspace(math.log(sigma_min), math.log(sigma_max), 50 * len(density))
        rate = np.interp(at, np.linspace(at[0], at[-1], len(density)), density)
        share = np.concatenate([[0.0], np.cumsum(rate[1:] + rate[:-1])])
        inner = np.exp(np.interp(np.arange(n - 2, 0, -1) / (n - 1) * share[-1], share, at))
        return sigma_max, *inner.tolist(), sigma_min
    ramp = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return tuple(levels.tolist())


def stratified_log_uniform(n: int, lo: float, hi: float, generator: torch.Generator) -> torch.Tensor:
    """``n`` values, log-uniform in [lo, hi], one in each of n equal strata, in random order; float32, where
    the generator is."""
    where = generator.device
    u = (torch.randperm(n, generator=generator, device=where) + uniform(n, generator, torch.float32, where)) / n
    return torch.exp(math.log(lo) + u * math.log(hi / lo))
