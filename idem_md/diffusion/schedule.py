"""Noise levels for training and sampling."""

from __future__ import annotations

import math

import torch

from ..checks import check_float, check_int

__all__ = ["noise_grid", "stratified_log_uniform"]


def noise_grid(sigma_min: float, sigma_max: float, n: int, rho: float = 7.0) -> tuple[float, ...]:
    """Descending noise levels sigma_N > ... > sigma_1; one network evaluation each.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho (Karras et al., NeurIPS
    2022, eq. 5); the last step, from sigma_1 to 0, is not in the grid.

    Raises
    ------
    UsageError
        n < 2, or levels that are not 0 < sigma_min < sigma_max.
    """
    n = check_int("nfe", n, 2)
    check_float("sigma_min", sigma_min, above=0.0)
    check_float("sigma_max", sigma_max, above=sigma_min)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return tuple(levels.tolist())


def stratified_log_uniform(n: int, lo: float, hi: float, generator: torch.Generator) -> torch.Tensor:
    """``n`` values, log-uniform in [lo, hi], one in each of n equal strata, in random order; float32."""
    u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return torch.exp(math.log(lo) + u * math.log(hi / lo))
