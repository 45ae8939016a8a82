"""What a trained network is given to sample well: springs, and plans by number of network evaluations.

Plans are tuned on forward paths, which start at samples of the system and so see every mode: never on samples that are
later reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from ..chains import Schedule, equilibrate, finite_start, first_step, tuned_schedule
from ..checkpoint import Checkpoint
from ..diffusion import (
    PROPOSALS,
    AnnealedLastStep,
    SamplingPlan,
    forward_log_weights,
    noise_grid,
    sample_paths,
)
from ..diffusion.plan import MOVES_SHARE, best_plan
from ..diffusion.proposals import look_in_chunks
from ..energies import Energy, NativeAnnealing
from ..ensemble import ForwardWeights
from ..geometry import standard_normal
from ..seeds import draw_seed

__all__ = ["NFES", "timed", "tune_plans"]

NFES = {"diffusion": (4, 6, 8, 12, 16, 25, 50), "consistency": (4, 6, 10, 16, 25)}
KERNELS = "analytic", "elastic", "consistency"
# Lowest noise level in units of the standard deviation of a coordinate.
LOWEST = (0.25, 0.35, 0.45, 0.55, 0.7, 0.85)
# Samples from which step sizes are tuned.
CHAINS = 250
# Samples by which a plan is timed, at most.
MOST = 1000


@dataclass(frozen=True)
class Effort:
    """One way of annealing: stages, moves, chains, power."""

    stages: int
    moves: int
    chains: int
    power: float


# Native chains cost next to nothing a step; one move a stage would pay most for what comes with a stage.
NATIVE = (Effort(4096, 4, 1, 5.0), Effort(1024, 4, 1, 5.0), Effort(4096, 8, 1, 5.0), Effort(4096, 8, 4, 5.0))
# In plain torch a few chains cost no more than one of as many steps in all; where there are modes they see more.
PLAIN = (Effort(128, 1, 4, 3.0), Effort(512, 1, 4, 3.0), Effort(256, 1, 16, 3.0), Effort(2048, 1, 1, 3.0))


def tune_plans(
    checkpoint: Checkpoint,
    energy: Energy,
    samples: torch.Tensor,
    nfes: Mapping[str, Sequence[int]] = NFES,
    seed: int = 0,
    on_plan: Callable[[int, SamplingPlan], None] = lambda *_: None,
) -> Checkpoint:
    """The checkpoint with a `SamplingPlan` for each of ``nfes``: that with the most effective samples a second.

    Every kernel with every lowest level and every effort of annealing: paths are measured once for each kernel, level
    and number of evaluations, annealing once for each level and effort, and put together. What is found is timed by
    sampling, together with the plans that stay.

    Parameters
    ----------
    checkpoint : Checkpoint
        With springs, the kernels ``elastic`` and ``analytic`` are tried, with jumps ``consistency``.
    energy : Energy
        Of the checkpoint's system; its calls are counted.
    samples : torch.Tensor, shape (n, N, D)
        Equilibrium samples, at least a few hundred. Options of kernels are fitted to every fourth, plans are measured
        on the others.
    nfes : dict of sequence of int
        By method; plans for others stay as they are.
    seed : int
    on_plan : callable (nfe, plan)
    """
    denoiser = checkpoint.denoiser
    fourth = torch.arange(len(samples)) % 4 == 3
    others, samples = samples[fourth].double(), samples[~fourth].double()
    kernels = [name for name in KERNELS if PROPOSALS[name].suits(denoiser)]
    step = _move_step(energy, samples, checkpoint.system.sigma_data, seed)
    bottoms = [_Bottom(checkpoint, energy, samples, share, step, seed + k) for k, share in enumerate(LOWEST)]
    plans = dict(checkpoint.plans)
    for method in dict.fromkeys(PROPOSALS[name].method for name in kernels):
        of_method = [name for name in kernels if PROPOSALS[name].method == method]
        found: dict[int, SamplingPlan] = {}
        for nfe in sorted(nfes.get(method, ())):
            tried = [plan for name in of_method for bottom in bottoms for plan in bottom.plans(name, nfe, others)]
            # More evaluations are not to be worse than fewer.
            least = max((plan.ess_fraction or 0.0 for plan in found.values()), default=0.0)
            found[nfe] = _with_siblings(checkpoint, nfe, tried[best_plan(dict(enumerate(tried)), least)], others, seed)
            on_plan(nfe, found[nfe])
        if found:
            plans[method] = found
    return timed(replace(checkpoint, plans=plans), energy, seed)


def _with_siblings(
    checkpoint: Checkpoint, nfe: int, plan: SamplingPlan, others: torch.Tensor, seed: int
) -> SamplingPlan:
    """The plan with options for other kernels of its method, which a user may ask for in its place."""
    grid, options = plan.levels(nfe, *checkpoint.noise_range), dict(plan.kernel_options)
    for name, kind in PROPOSALS.items():
        if kind.method == PROPOSALS[plan.kernel].method and name != plan.kernel:
            generator = torch.Generator().manual_seed(seed)
            fitted = kind.fitted(checkpoint.denoiser, checkpoint.accuracy, grid, others, generator)
            options |= {name: fitted} if fitted else {}
    return replace(plan, kernel_options=options)


def timed(checkpoint: Checkpoint, energy: Energy, seed: int = 0) -> Checkpoint:
    """The checkpoint with ``seconds`` of all its plans measured one after the other, by sampling: so they compare."""
    system, generator = checkpoint.system, torch.Generator().manual_seed(seed)

    def seconds(nfe: int, plan: SamplingPlan) -> float:
        ending, proposal = plan.build(), plan.proposal(checkpoint.denoiser, checkpoint.accuracy)
        grid, n = plan.levels(nfe, *checkpoint.noise_range), min(ending.block(energy), MOST)
        start = time.perf_counter()
        sample_paths(proposal, ending, [energy], grid, system.sigma_data, n, generator)
        return (time.perf_counter() - start) / n

    plans = {
        method: {nfe: replace(plan, seconds=seconds(nfe, plan)) for nfe, plan in known.items()}
        for method, known in checkpoint.plans.items()
    }
    return replace(checkpoint, plans=plans, digest="")


def _move_step(energy: Energy, samples: torch.Tensor, sigma_data: float, seed: int) -> float:
    """The Langevin step for moves on u."""
    seeds = torch.Generator().manual_seed(seed)
    start = finite_start(energy, samples[:CHAINS].float())
    return equilibrate(energy, start, first_step(sigma_data), 20, 20, lambda: draw_seed(seeds), gain=1.0)[1]


@dataclass(frozen=True)
class _Annealed:
    """One effort at one level: the schedule, log weights of `LastStep.retrace`, and seconds a sample."""

    schedule: Schedule
    chains: int
    log_w: torch.Tensor
    seconds: float


class _Bottom:
    """Samples noised to a lowest level, and what annealing from there gives."""

    def __init__(
        self, checkpoint: Checkpoint, energy: Energy, samples: torch.Tensor, share: float, step: float, seed: int
    ):
        self.checkpoint, self.move_step, self.seed = checkpoint, step, seed
        sigma_data = checkpoint.system.sigma_data
        self.sigma = share * sigma_data
        generator = torch.Generator().manual_seed(seed)
        self.x = samples + self.sigma * standard_normal(samples.shape, generator)
        analytic = PROPOSALS["analytic"](checkpoint.denoiser, checkpoint.accuracy)
        look = look_in_chunks(analytic, self.x, self.sigma)
        efforts = NATIVE if isinstance(energy, NativeAnnealing) else PLAIN
        x_t, mean = look.x[:CHAINS].float(), look.denoised[:CHAINS].float()
        steps = {}  # they depend on nothing else of an effort
        for power in {effort.power for effort in efforts}:
            start = Schedule(1, power, 1, (first_step(sigma_data),))
            steps[power] = tuned_schedule(energy, mean, x_t, look.mse, self.sigma, start, seed).steps
        self.annealed = []
        for effort in efforts:
            schedule = Schedule(effort.stages, effort.power, effort.moves, steps[effort.power])
            began = time.perf_counter()
            log_w = AnnealedLastStep(schedule, effort.chains).retrace(energy, look, samples, generator)
            seconds = (time.perf_counter() - began) / len(self.x)
            self.annealed.append(_Annealed(schedule, effort.chains, log_w, seconds))

    def plans(self, kernel: str, nfe: int, others: torch.Tensor) -> list[SamplingPlan]:
        """A plan for each density of levels and each effort, with what it gave; fitted to other samples."""
        checkpoint, kind = self.checkpoint, PROPOSALS[kernel]
        parts = checkpoint.denoiser, checkpoint.accuracy
        plans = []
        for density in kind.densities:
            grid = noise_grid(self.sigma, checkpoint.noise_range[1], nfe, density=density)
            generator = torch.Generator().manual_seed(self.seed)
            fitted = kind.fitted(*parts, grid, others, generator)
            proposal = kind(*parts, **fitted)
            generator.manual_seed(self.seed)
            start = time.perf_counter()
            log_w = forward_log_weights(proposal, grid, checkpoint.system.sigma_data, self.x, generator)
            seconds = (time.perf_counter() - start) / len(self.x)
            for a in self.annealed:
                options = {"schedule": {**asdict(a.schedule), "steps": list(a.schedule.steps)}, "chains": a.chains}
                plans.append(
                    SamplingPlan(
                        kernel,
                        "annealed",
                        self.sigma,
                        options,
                        ForwardWeights((log_w + a.log_w).numpy()).ess_fraction,
                        seconds + a.seconds,
                        moves=a.chains * a.schedule.calls // (MOVES_SHARE - 1),
                        move_step=self.move_step,
                        density=density,
                        kernel_options={kernel: fitted} if fitted else {},
                    )
                )
        return plans
