"""Energy-only training: an outer loop that renews the buffer, an inner loop that fits the denoiser to it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch

from ..checks import BudgetExhausted, IdemError
from ..diffusion import Denoiser, DenoiserError, noise_grid, stratified_log_uniform
from ..energies import Energy
from ..geometry import centred, standard_normal, subspace_dimension
from ..sampling import sample_paths
from ..systems import System
from ..targets import buffer_target, importance_target, posterior_target
from .buffer import Buffer, relax
from .checkpoint import build_denoiser
from .config import TrainingConfig

__all__ = ["TrainingState", "init", "make_optimizers", "measure_error", "outer_iteration", "schedule", "tune_step"]

LOSS_BINS = 8
# Share of the steps of an outer iteration whose gradient may overflow before the training counts as diverged.
MAX_SKIPPED = 0.02


@dataclass
class TrainingState:
    """Everything that a resumed run needs to go on bit for bit.

    Attributes
    ----------
    denoiser, ema : Denoiser
        The weights being trained and their exponential moving average.
    optimizers : tuple of torch.optim.Optimizer
        See `make_optimizers`.
    buffer : Buffer
    generator : torch.Generator
        The one source of randomness.
    iteration, total : int
        Outer iterations done and planned; ``total`` fixes the step-size schedule.
    mala_step : float
        Tuned between refinements by `tune_step`.
    system : System
    seconds : float
        Wall time so far.
    filled : tuple[float, int]
        Seconds and energy calls of the first buffer.
    """

    denoiser: Denoiser
    ema: Denoiser
    optimizers: tuple[torch.optim.Optimizer, ...]
    buffer: Buffer
    generator: torch.Generator
    iteration: int
    total: int
    mala_step: float
    system: System
    seconds: float = 0.0
    filled: tuple[float, int] = (0.0, 0)


@dataclass
class IterationReport:
    """What one outer iteration saw; ``loss`` by noise level in units of the preconditioned target."""

    iteration: int
    loss: float
    loss_by_sigma: list[float] = field(default_factory=list)
    sigma_edges: list[float] = field(default_factory=list)
    raw_median_energy: float = math.nan
    raw_failed: int = 0
    buffer_mean_energy: float = math.nan
    acceptance: float = math.nan
    learning_rate: float = math.nan
    skipped: int = 0


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def make_optimizers(config: TrainingConfig, denoiser: Denoiser) -> tuple[torch.optim.Optimizer, ...]:
    """The configured optimisers, each with its full step size as ``initial_lr`` in its groups."""
    o = config.optimizer
    parameters = dict(denoiser.named_parameters())
    matrices = {}
    if o.name == "muon":
        # Embeddings and rows of one have no spectrum worth evening out.
        matrices = {name: p for name, p in parameters.items()
                    if p.dim() == 2 and min(p.shape) > 1 and not name.startswith(("net.noise.", "net.kind."))}
    optimizers = [torch.optim.Adam([p for name, p in parameters.items() if name not in matrices], lr=o.learning_rate)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices.values(), lr=o.matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return tuple(optimizers)


def tune_step(step: float, acceptance: float, gain: float = 0.3) -> float:
    """A MALA step nearer to an acceptance of 0.57 (Roberts & Rosenthal, JRSS B 60, 255, 1998)."""
    return step * math.exp(gain * (acceptance - 0.57))


def init(config: TrainingConfig, system: System, energy: Energy, expired=lambda: False) -> TrainingState:
    """Fresh weights and a buffer of noise, relaxed and refined on the energy.

    Parameters
    ----------
    expired : callable () -> bool
        Asked now and then; if true the time is up.

    Raises
    ------
    EnergyError
        No configuration of the buffer reached a finite energy.
    BudgetExhausted
        The budget of energy calls or of time does not even fill the buffer.
    """
    b = config.buffer
    rounds = 20 if b.warmup_steps else 0
    needed = b.size * (b.relax_steps + 1 + rounds * (max(b.warmup_steps // 20, 1) + 1))
    if energy.max_calls is not None and energy.calls + needed > energy.max_calls:
        raise BudgetExhausted(f"energy calls: the first buffer takes {needed}, more than the budget of {energy.max_calls}")
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = build_denoiser(config.network, system)
    ema = copy.deepcopy(denoiser).eval().requires_grad_(False)
    x = (system.sigma_data * standard_normal((b.size, energy.n_atoms, energy.n_dims), generator)).float()
    buffer = Buffer.of(energy, relax(energy, x, b.relax_steps))
    state = TrainingState(denoiser, ema, make_optimizers(config, denoiser), buffer, generator, 0, config.optimizer.iterations, b.mala_step, system)
    # Short rounds, so that the step has settled before most of the work is done.
    for _ in range(rounds):
        if expired():
            raise BudgetExhausted(f"minutes: the time was up before the first buffer was made, after {energy.calls} of {needed} energy "
                                  "calls; allow more time or a smaller buffer")
        acceptance = buffer.refine(energy, state.mala_step, max(b.warmup_steps // rounds, 1), _seed(generator))
        state.mala_step = tune_step(state.mala_step, acceptance)
    return state


def schedule(config: TrainingConfig, total: int, step: int) -> float:
    """Share of the full step size: linear warm-up, constant, then a cosine to 1% over the last ``decay_fraction`` of ``total``
    iterations."""
    o = config.optimizer
    last = total * o.inner_steps
    start = (1 - o.decay_fraction) * last
    decay = 1.0
    if step > start:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((step - start) / (last - start), 1.0)))
    return min(1.0, (step + 1) / max(o.warmup, 1)) * decay


def _renew_buffer(config, energy, state, report) -> None:
    """Samples of the averaged model, relaxed, replace the oldest; then everything is refined."""
    b, system = config.buffer, state.system
    if state.iteration > 0:
        grid = noise_grid(config.noise.sigma_min, config.noise.sigma_max, b.sampling_steps)
        # The last step's width matters little here, refinement follows: the posterior's for a flat prior.
        error = DenoiserError((1.0,), (1.0,))
        paths = sample_paths(state.ema, energy, grid, error, system.sigma_data, b.fresh, state.generator, "ddpm")
        ok = torch.isfinite(paths.positions).flatten(1).all(1)
        report.raw_failed = paths.failed
        report.raw_median_energy = float(paths.energies.median())
        ceiling = float(state.buffer.u.max())
        state.buffer.put(energy, relax(energy, paths.positions[ok].float(), b.relax_steps, ceiling))
    if b.refine_steps:
        report.acceptance = state.buffer.refine(energy, state.mala_step, b.refine_steps, _seed(state.generator))
        state.mala_step = tune_step(state.mala_step, report.acceptance)
    report.buffer_mean_energy = float(state.buffer.u.double().mean())


def make_target(config: TrainingConfig, energy: Energy, state: TrainingState, x_t, sigma, x_0, f_0, force_scale):
    """The configured denoiser target for a batch."""
    t = config.target
    if t.name == "buffer":
        return buffer_target(x_t, sigma, x_0, f_0, force_scale)
    if t.name == "posterior":
        return posterior_target(energy, x_t, sigma, x_0, force_scale, state.mala_step, t.chains, t.chain_steps,
                                _seed(state.generator))[0]
    return importance_target(energy, x_t, sigma, t.n_samples, _seed(state.generator), t.name == "mixed", t.max_score_norm)


def outer_iteration(config: TrainingConfig, energy: Energy, state: TrainingState, stop=lambda: False,
                    on_step=lambda: None) -> IterationReport | None:
    """Renew the buffer, then take ``inner_steps`` optimiser steps; advances ``state`` in place.

    Parameters
    ----------
    stop : callable () -> bool
        Asked before every step; if true the iteration is abandoned and None returned, with ``state`` half-way:
        the caller goes back to the last saved state.
    on_step : callable ()

    Raises
    ------
    IdemError
        The loss left the real numbers.
    """
    o = config.optimizer
    report = IterationReport(state.iteration, math.nan)
    _renew_buffer(config, energy, state, report)
    parameters = list(state.denoiser.parameters())
    force_scale = state.buffer.force_scale()
    lo, hi = config.noise.sigma_min, config.noise.sigma_max
    totals = torch.zeros(2, LOSS_BINS, dtype=torch.float64)
    for k in range(o.inner_steps):
        if stop():
            return None
        step = state.iteration * o.inner_steps + k
        if config.buffer.train_on == "prior":
            x_0 = hi * standard_normal((o.batch, energy.n_atoms, energy.n_dims), state.generator, torch.float32)
            f_0 = None
        else:
            idx = torch.randint(len(state.buffer.x), (o.batch,), generator=state.generator)
            x_0, f_0 = state.buffer.x[idx], state.buffer.f[idx]
        sigma = stratified_log_uniform(o.batch, lo, hi, state.generator)
        x_t = x_0 + sigma[:, None, None] * standard_normal(x_0.shape, state.generator, torch.float32)
        target = make_target(config, energy, state, x_t, sigma, x_0, f_0, force_scale)
        scale = state.denoiser.c_out(sigma)[:, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=o.precision == "bf16"):
            denoised = state.denoiser(x_t, sigma)
        # 1 / c_out^2: every noise level weighs the same in units of the network's output.
        loss_B = (((denoised - centred(target)) / scale) ** 2).mean((1, 2))
        state.denoiser.zero_grad(set_to_none=True)
        loss_B.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, o.clip_norm)
        on_step()
        if not bool(torch.isfinite(norm)):
            # A rare configuration on which the network overflows: left out and counted, unless it is not rare.
            report.skipped += 1
            if report.skipped > max(MAX_SKIPPED * o.inner_steps, 1):
                raise IdemError(f"training diverged: {report.skipped} of {k + 1} gradients of iteration {state.iteration} are not finite")
            continue
        share = schedule(config, state.total, step)
        report.learning_rate = o.learning_rate * share
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            optimizer.step()
        with torch.no_grad():
            # The average starts short, or the first weights would linger in it.
            decay = min(o.ema, (1 + step) / (10 + step))
            for average, p in zip(state.ema.parameters(), parameters):
                average.lerp_(p, 1 - decay)
        bins = ((torch.log(sigma / lo) / math.log(hi / lo)) * LOSS_BINS).long().clamp(0, LOSS_BINS - 1)
        totals[0].index_add_(0, bins, loss_B.detach().double())
        totals[1].index_add_(0, bins, torch.ones(o.batch, dtype=torch.float64))
    state.iteration += 1
    report.loss = float(totals[0].sum() / totals[1].sum())
    report.loss_by_sigma = (totals[0] / totals[1].clamp(min=1)).tolist()
    report.sigma_edges = torch.exp(torch.linspace(math.log(lo), math.log(hi), LOSS_BINS + 1)).tolist()
    return report


@torch.no_grad()
def measure_error(config: TrainingConfig, state: TrainingState, levels: int = 33, samples: int = 256) -> DenoiserError:
    """Mean squared error of the averaged denoiser on noised buffer samples, per coordinate, by noise level.

    Uses a generator of its own, so that measuring does not change the training that may follow.
    """
    generator = torch.Generator().manual_seed(config.seed + 1)
    grid = torch.exp(torch.linspace(math.log(config.noise.sigma_min), math.log(config.noise.sigma_max), levels))
    mse = []
    for sigma in grid:
        idx = torch.randint(len(state.buffer.x), (samples,), generator=generator)
        x_0 = state.buffer.x[idx]
        x_t = x_0 + sigma * standard_normal(x_0.shape, generator, torch.float32)
        d = state.ema(x_t, sigma.expand(samples))
        mse.append(float(((d - x_0).double() ** 2).sum((1, 2)).mean() / subspace_dimension(*x_0.shape[1:])))
    return DenoiserError(tuple(grid.tolist()), tuple(mse))
