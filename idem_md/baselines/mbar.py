"""log Z without a network: a ladder from a Gaussian to the potential, put together by MBAR."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..chains import Restraint, first_step, run_mala, tune_step
from ..checks import check_int
from ..energies import Energy, NativeChains
from ..errors import ResultError
from ..geometry import standard_normal, subspace_dimension
from ..seeds import draw_seed
from ..systems import System, get_system
from .correlation import quiet_pymbar

__all__ = ["mbar_log_z"]

TUNING_ROUNDS = 15
# Stands for infinity, which pymbar does not take: the Boltzmann factor is zero on every rung but the lowest.
FORBIDDEN = 1e15


def mbar_log_z(
    system: str | System, n: int = 1000, rungs: int = 60, n_steps: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """log Z and its standard error from chains on lambda u + (1 - lambda) |x|^2 / (2 s^2), s = ``sigma_data``.

    At lambda = 0 the integral is known, and a geometric ladder goes from there to 1. Chains start where those of the
    rung before ended, and give one sample each, so that the samples of a rung are independent. All go into the
    multistate Bennett acceptance ratio (Shirts & Chodera, J. Chem. Phys. 129, 124105, 2008).

    Parameters
    ----------
    system : str or System
        Of more than one mode only if chains cross between them.
    n : int
        Chains.
    rungs : int
        Above lambda = 0. Larger systems need more: LJ-55 needs 120, as 60 of its rungs hardly overlap.
    n_steps : int, optional
        Langevin steps of a chain on each rung after those that tune the step; by default 10,000 in native code, else
        1000. Chains that lag behind their rung make log Z too small (LJ-13: by 0.4 with 300, by 0.1 with 1000), which
        the error does not know: compare two lengths.
    seed : int

    Raises
    ------
    ResultError
        The equations of MBAR were not solved.
    """
    n, rungs = check_int("n", n, 10), check_int("rungs", rungs, 2)
    seed = check_int("seed", seed, 0, 2**31 - 1)
    target = get_system(system)
    energy, s = target.energy(), target.sigma_data
    if n_steps is None:
        n_steps = 10_000 if isinstance(energy, NativeChains) else 1000
    check_int("n_steps", n_steps, 1)
    generator = torch.Generator().manual_seed(seed)
    x = (s * standard_normal((n, energy.n_atoms, energy.n_dims), generator)).float()
    # The first rung is where most overlaps of the Gaussian are still bearable.
    u = energy(x)[0].double()
    zero = float(u.min())  # total energies may be large
    scale = float((u - zero).clamp(max=FORBIDDEN).quantile(0.8))
    lambdas = [0.0, *np.geomspace(1 / max(scale, 2.0), 1.0, rungs)]
    step, samples = first_step(s), [x]
    for value in lambdas[1:]:
        x, step = _climb(energy, x, float(value), s, step, n_steps, generator)
        samples.append(x)
    everything = torch.cat(samples).double()
    above = np.minimum(energy(everything)[0].numpy() - zero, FORBIDDEN)
    gaussian = 0.5 * (everything**2).sum((1, 2)).numpy() / s**2
    reduced = np.stack([value * above + (1 - value) * gaussian for value in lambdas])
    found, error = _free_energy(reduced, n)
    d = subspace_dimension(energy.n_atoms, energy.n_dims)
    return 0.5 * d * math.log(2 * math.pi * s**2) - found - zero, error


def _climb(energy: Energy, x, value: float, s: float, step: float, n_steps: int, generator: torch.Generator):
    """Chains moved to a rung, and the step that suits it."""
    stiffness = max(1 - value, 1e-12) / s**2  # a restraint must be above zero
    restraint = Restraint(torch.zeros_like(x), x.new_tensor(stiffness))
    for _ in range(TUNING_ROUNDS):
        run = run_mala(energy, x, step, 10, draw_seed(generator), beta=value, restraint=restraint)
        x, step = run.x, tune_step(step, float(run.acceptance.mean()), gain=1.0)
    run = run_mala(energy, x, step, n_steps, draw_seed(generator), beta=value, restraint=restraint)
    return run.x, step


def _free_energy(reduced: np.ndarray, n: int) -> tuple[float, float]:
    """From the first to the last of K states with ``n`` samples each; reduced potentials (K, K n)."""
    with quiet_pymbar():
        from pymbar import MBAR
        from pymbar.utils import BoundsError, ParameterError

        try:
            # From zero it takes a thousand times as long, as rungs are millions of kT apart.
            solved = MBAR(reduced, np.full(len(reduced), n), initialize="BAR")
            result = solved.compute_free_energy_differences()
        except (BoundsError, ParameterError) as error:
            raise ResultError(f"mbar: its equations were not solved ({' '.join(str(error).split())})") from None
    # At the solution the weights of every state sum to one; without it there are numbers all the same.
    off = float(np.abs(solved.weights().sum(0) - 1).max())
    if not off < 1e-3:
        raise ResultError(f"mbar: its equations were not solved: the weights of a state are off one by {off:.2g}")
    return float(result["Delta_f"][0, -1]), float(result["dDelta_f"][0, -1])
