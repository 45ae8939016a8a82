"""log Z by routes that share nothing but the energy: paths, the probability flow, MBAR, a formula or quadrature."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..baselines.mbar import mbar_log_z
from ..checks import check_int
from ..diffusion import KERNELS, Flow
from ..diffusion.kernels import evaluate_in_chunks
from ..energies import DoubleWell, GaussianMixture, Harmonic
from ..ensemble import WeightedEnsemble, WeightWarning
from ..provenance import finite_or_none
from ..sampler import Sampler

__all__ = ["double_well_log_z", "flow_ensemble", "measure_log_z"]


def double_well_log_z(energy: DoubleWell, points: int = 256) -> float:
    """log Z of four particles in the plane by quadrature, to better than 1e-6 for DW-4.

    With two of the particles at a distance r, the integral over the other two is one over both of F F K, F what one
    feels of the pair and K what they feel of each other: a convolution. The trapezoidal rule converges as fast as the
    Fourier series of the integrand, which is smooth but where two particles meet: they may hardly do so.
    """
    # Beyond it the Boltzmann factor of a pair, exp(-a t^4 - b t^2), is below exp(-80).
    reach = energy.d0 + math.sqrt((math.sqrt(energy.b**2 + 320 * energy.a) - energy.b) / (2 * energy.a))
    width = 2.5 * reach
    h = 2 * width / points
    line = (np.arange(points) - points // 2) * h

    def factor(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        t = np.hypot(dx, dy) - energy.d0
        return np.exp(-energy.a * t**4 - energy.b * t**2)

    x, y = np.meshgrid(line, line, indexing="ij")
    kernel = np.fft.rfft2(np.fft.ifftshift(factor(x, y)))
    total = 0.0
    for k in range(1, points // 2):
        r = k * reach / (points // 2)
        f = factor(x - r / 2, y) * factor(x + r / 2, y)
        both = (f * np.fft.irfft2(np.fft.rfft2(f) * kernel, f.shape)).sum() * h**4
        total += 2 * math.pi * r * float(factor(np.array(r), np.array(0.0))) * both * reach / (points // 2)
    return math.log(total) - math.log(4)  # of relative coordinates: N^(-D/2) of them is the mean-free volume


def flow_ensemble(sampler: Sampler, n: int, nfe: int = 25, seed: int = 0, step: float = 0.2) -> WeightedEnsemble:
    """Samples whose weights come from the density of the probability flow down to the plan's lowest level, and the
    plan's last step from there: no Gaussian steps, no other noise levels."""
    plan, checkpoint = sampler.plan(nfe), sampler.checkpoint
    lowest, highest = checkpoint.noise_range
    low, energy = plan.sigma_1 or lowest, sampler.system.energy()
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0, 2**31 - 1))
    flow = Flow(checkpoint.denoiser, checkpoint.system.sigma_data, low, highest, step=step)
    x, log_p = flow.sample(check_int("n", n, 2), energy.n_atoms, energy.n_dims, generator)
    evaluation = evaluate_in_chunks(KERNELS[plan.kernel](checkpoint.denoiser, checkpoint.accuracy), x, low)
    end = plan.build_last_step().finish(energy, evaluation, generator)
    log_w = end.log_ratio - end.u - log_p
    return WeightedEnsemble(end.x.numpy(), end.u.numpy(), log_w.numpy(), sampler.system, kind="importance")


def _exact(sampler: Sampler) -> float | None:
    """log Z where a formula or a quadrature has it."""
    energy = sampler.system.energy()
    if isinstance(energy, GaussianMixture):
        return 0.0
    if isinstance(energy, Harmonic):
        return energy.log_z
    if isinstance(energy, DoubleWell) and (energy.n_atoms, energy.n_dims) == (4, 2):
        return double_well_log_z(energy)
    return None


def measure_log_z(
    sampler: Sampler, nfe: int = 25, n: int = 10_000, flow_n: int = 100, mbar_n: int = 1000, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """One row a route: what ``idem-md bench log-z`` prints.

    Parameters
    ----------
    sampler : Sampler
    nfe, n, seed : int
        For the paths.
    flow_n : int
        Points of the flow; the exact trace costs as many gradients an evaluation as there are dimensions.
    mbar_n : int
        Chains of MBAR.

    Yields
    ------
    dict
        route, log_z, log_z_err, seconds.
    """
    name = sampler.system.name

    def row(route: str, log_z: float, error: float, start: float) -> dict[str, Any]:
        seconds = time.perf_counter() - start
        return {
            "bench": "log-z",
            "system": name,
            "route": route,
            "log_z": log_z,
            "log_z_err": finite_or_none(error),
            "seconds": seconds,
        }

    start = time.perf_counter()
    exact = _exact(sampler)
    if exact is not None:
        yield row("exact", exact, 0.0, start)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)  # the error says it
        paths = sampler.sample(n, nfe, seed)
    yield row("paths", paths.log_z, paths.log_z_err, start)
    start = time.perf_counter()
    flow = flow_ensemble(sampler, flow_n, nfe, seed + 1)
    yield row("flow", flow.log_z, flow.log_z_err, start)
    start = time.perf_counter()
    yield row("mbar", *mbar_log_z(sampler.system, mbar_n, seed=seed + 2), start)
