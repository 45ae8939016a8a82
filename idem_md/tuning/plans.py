"""Sampling plans by number of network evaluations.

Plans are tuned on forward paths, which start at samples of the system and so see every mode: never on samples that are
later reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..chains import equilibrate, finite_start, first_step
from ..checkpoint import Checkpoint
from ..diffusion import (
    KERNELS,
    LAST_STEPS,
    DiffusionKernel,
    LastStep,
    PathSampler,
    SamplingPlan,
    best_plan,
    methods,
    noise_grid,
)
from ..diffusion.kernels import best_kernel, evaluate_in_chunks
from ..diffusion.plan import MOVES_SHARE
from ..energies import Energy
from ..ensemble import ForwardWeights
from ..geometry import standard_normal
from ..seeds import draw_seed

__all__ = ["default_nfes", "measure_plan_seconds", "tune_plans"]

# Lowest noise level in units of the standard deviation of a coordinate.
LOWEST = (0.25, 0.35, 0.45, 0.55, 0.7, 0.85)
# Samples from which the step of moves is tuned, and samples by which a plan is timed, at most.
STEP_SAMPLES, MAX_TIMED_SAMPLES = 250, 1000


def default_nfes() -> dict[str, tuple[int, ...]]:
    """Numbers of evaluations for which plans are tuned, by method."""
    return {method: KERNELS[names[0]].nfes for method, names in methods().items()}


def tune_plans(
    checkpoint: Checkpoint,
    energy: Energy,
    samples: torch.Tensor,
    nfes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    on_plan: Callable[[SamplingPlan], None] = lambda _: None,
) -> Checkpoint:
    """The checkpoint with a `SamplingPlan` for each of ``nfes``: that with the most effective samples a second.

    Every kernel with every lowest level and every effort of a last step: paths are measured once for each kernel, level
    and number of evaluations, last steps once for each level and effort, and put together. What is found is timed by
    sampling, together with the plans that stay.

    Parameters
    ----------
    checkpoint : Checkpoint
        Every registered kernel is tried that is ``tuned`` and suits the denoiser with its heads.
    energy : Energy
        Of the checkpoint's system; its calls are counted.
    samples : torch.Tensor, shape (n, N, D)
        Equilibrium samples, at least a few hundred. Options of kernels are fitted to every fourth, plans are measured
        on the others.
    nfes : dict of sequence of int, optional
        By method, by default `default_nfes`; plans for others stay as they are.
    seed : int
    on_plan : callable (SamplingPlan)
    """
    nfes = default_nfes() if nfes is None else nfes
    fourth = torch.arange(len(samples)) % 4 == 3
    others, samples = samples[fourth].double(), samples[~fourth].double()
    step = _move_step(energy, samples, checkpoint.system.sigma_data, seed)
    bottoms = [_Bottom(checkpoint, energy, samples, share, step, seed + k) for k, share in enumerate(LOWEST)]
    plans = dict(checkpoint.plans)
    for method, names in methods().items():
        tried_kernels = [name for name in names if KERNELS[name].tuned and KERNELS[name].suits(checkpoint.denoiser)]
        found: dict[int, SamplingPlan] = {}
        for nfe in sorted(nfes.get(method, ())) if tried_kernels else ():
            tried = [plan for name in tried_kernels for bottom in bottoms for plan in bottom.plans(name, nfe, others)]
            # More evaluations are not to be worse than fewer.
            least = max((plan.ess_fraction or 0.0 for plan in found.values()), default=0.0)
            found[nfe] = _with_siblings(checkpoint, best_plan(tried, least), others, seed)
            on_plan(found[nfe])
        if found:
            plans[method] = found
    return measure_plan_seconds(replace(checkpoint, plans=plans), energy, seed)


def _with_siblings(checkpoint: Checkpoint, plan: SamplingPlan, others: torch.Tensor, seed: int) -> SamplingPlan:
    """The plan with options for other kernels of its method, which a user may ask for in its place."""
    grid, options = plan.levels(*checkpoint.noise_range), dict(plan.kernel_options)
    for name in methods()[KERNELS[plan.kernel].method]:
        if name != plan.kernel and KERNELS[name].suits(checkpoint.denoiser):
            generator = torch.Generator().manual_seed(seed)
            fitted = KERNELS[name].fitted(checkpoint.denoiser, checkpoint.accuracy, grid, others, generator)
            options |= {name: fitted} if fitted else {}
    return replace(plan, kernel_options=options)


def measure_plan_seconds(checkpoint: Checkpoint, energy: Energy, seed: int = 0) -> Checkpoint:
    """The checkpoint with ``seconds`` of all its plans measured one after the other, by sampling: so they compare."""
    c, generator = checkpoint, torch.Generator().manual_seed(seed)

    def seconds(plan: SamplingPlan) -> float:
        paths = plan.build(c.denoiser, c.accuracy, c.noise_range, c.system.sigma_data)
        n = min(paths.block(energy), MAX_TIMED_SAMPLES)
        start = time.perf_counter()
        paths.sample([energy], n, generator)
        return (time.perf_counter() - start) / n

    plans = {
        method: {nfe: replace(plan, seconds=seconds(plan)) for nfe, plan in known.items()}
        for method, known in c.plans.items()
    }
    return replace(c, plans=plans, digest="")


def _move_step(energy: Energy, samples: torch.Tensor, sigma_data: float, seed: int) -> float:
    """The Langevin step for moves on u."""
    seeds = torch.Generator().manual_seed(seed)
    start = finite_start(energy, samples[:STEP_SAMPLES].float())
    return equilibrate(energy, start, first_step(sigma_data), 20, 20, lambda: draw_seed(seeds), gain=1.0)[1]


@dataclass(frozen=True)
class _Tried:
    """One effort of a last step at one level: log weights of `LastStep.retrace`, and seconds a sample."""

    name: str
    options: dict[str, Any]
    last_step: LastStep
    log_w: torch.Tensor
    seconds: float


class _Bottom:
    """Samples noised to a lowest level, and what last steps from there give."""

    def __init__(
        self, checkpoint: Checkpoint, energy: Energy, samples: torch.Tensor, share: float, step: float, seed: int
    ):
        self.checkpoint, self.move_step, self.seed = checkpoint, step, seed
        sigma_data = checkpoint.system.sigma_data
        self.sigma = share * sigma_data
        generator = torch.Generator().manual_seed(seed)
        self.x = samples + self.sigma * standard_normal(samples.shape, generator)
        # With what every denoiser knows, as last steps of more samples than a batch get no more.
        analytic = KERNELS[best_kernel(None, DiffusionKernel.method)](checkpoint.denoiser, checkpoint.accuracy)
        evaluation = evaluate_in_chunks(analytic, self.x, self.sigma)
        self.tried = []
        for name, kind in LAST_STEPS.items():
            for options in kind.efforts(energy, evaluation, sigma_data, seed):
                last_step = kind.build(options)
                began = time.perf_counter()
                log_w = last_step.retrace(energy, evaluation, samples, generator)
                seconds = (time.perf_counter() - began) / len(self.x)
                self.tried.append(_Tried(name, options, last_step, log_w, seconds))

    def plans(self, kernel: str, nfe: int, others: torch.Tensor) -> list[SamplingPlan]:
        """A plan for each density of levels and each effort, with what it gave; fitted to other samples."""
        checkpoint, kind = self.checkpoint, KERNELS[kernel]
        parts = checkpoint.denoiser, checkpoint.accuracy
        plans = []
        for density in kind.densities:
            grid = noise_grid(self.sigma, checkpoint.noise_range[1], nfe, density=density)
            generator = torch.Generator().manual_seed(self.seed)
            fitted = kind.fitted(*parts, grid, others, generator)
            last_step = self.tried[0].last_step  # of no account above the lowest level
            paths = PathSampler(kind(*parts, **fitted), last_step, grid, checkpoint.system.sigma_data)
            generator.manual_seed(self.seed)
            start = time.perf_counter()
            log_w = paths.forward_above(self.x, generator)
            seconds = (time.perf_counter() - start) / len(self.x)
            for tried in self.tried:
                plans.append(
                    SamplingPlan(
                        kernel,
                        tried.name,
                        self.sigma,
                        tried.options,
                        ForwardWeights((log_w + tried.log_w).numpy()).ess_fraction,
                        seconds + tried.seconds,
                        moves=tried.last_step.calls // (MOVES_SHARE - 1),
                        move_step=self.move_step,
                        density=density,
                        kernel_options={kernel: fitted} if fitted else {},
                        nfe=nfe,
                    )
                )
        return plans
