"""Energy-only training: an outer loop that renews the buffer, an inner loop that fits the denoiser to it."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from ..callers import warn_caller
from ..chains import (
    ChainState,
    equilibrate,
    geometry_start,
    noise_start,
    relax,
    tune_step,
)
from ..checkpoint import build_denoiser
from ..checks import check_fits
from ..diffusion import PathSampler, PlainLastStep, noise_grid, stratified_log_uniform
from ..diffusion.kernels import Ddpm
from ..energies import Energy, TemperingRun
from ..energies.floor import FloorError
from ..errors import BudgetExhausted, EnergyError, IdemError, TrainingWarning, UsageError
from ..geometry import centred, standard_normal
from ..seeds import draw_seed
from ..systems import System
from ..targets import TARGETS, Batch, Target
from .config import TrainingConfig
from .first_buffer import FirstBuffer, calls_an_iteration
from .gain import Gain
from .ladder import respaced
from .moves import langevin, refinement
from .muon import has_bfloat16_units
from .optimisers import make_optimizers, schedule, take_step, update_average
from .ranks import ALONE, Ranks
from .resampling import renewed_by_weight, weighted_paths
from .ring import RingBuffer
from .state import TrainingState

__all__ = ["IterationReport", "init", "outer_iteration"]

LOSS_BINS = 8
# Share of the steps of an outer iteration whose gradient may overflow before the training counts as diverged.
MAX_SKIPPED = 0.02


@dataclass
class IterationReport:
    """What one outer iteration saw, in all processes; ``loss`` by noise level in units of the preconditioned target.

    Energies by weight are NaN where too few samples of a process are effective to renew the buffer; ``raw_failed`` and
    ``weighted_ess`` are then those of an eighth of the paths. With a ladder energies are those of the rung nearest to
    the system's own temperature, ``raw_failed`` and ``weighted_ess`` those of the rung whose turn it is; ``swaps`` is
    the accepted share of swaps of neighbouring rungs.
    """

    iteration: int
    loss: float
    loss_by_sigma: list[float] = field(default_factory=list)
    sigma_edges: list[float] = field(default_factory=list)
    raw_median_energy: float = math.nan
    raw_failed: int = 0
    buffer_mean_energy: float = math.nan
    weighted_ess: float = math.nan
    weighted_mean_energy: float = math.nan
    weighted_mean_energy_err: float = math.nan
    acceptance: float = math.nan
    swaps: float = field(default=math.nan, init=False)
    learning_rate: float = math.nan
    skipped: int = 0
    gain: Gain | None = field(default=None, init=False)


def init(
    config: TrainingConfig,
    system: System,
    energy: Energy,
    guard: Callable[[], None] = lambda: None,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Fresh weights and a buffer of relaxed noise, or of copies of the geometry (by ``buffer.start``, or where the
    potential fails on noise), refined on the energy.

    Parameters
    ----------
    guard : callable ()
        Called now and then; may raise.
    device : torch.device or str
        Where networks and buffer are to be.
    ranks : Ranks
        Each has the same weights, and a part of the buffer with random numbers of its own.

    Raises
    ------
    UsageError
        The temperatures of the ladder do not have the system's own among them, the system lacks the geometry that
        walkers are to start at, or has no unlike atoms to exchange or bonds to turn.
    EnergyError
        No configuration of the buffer reached a finite energy.
    BudgetExhausted
        The budget of energy calls does not even fill the buffer.
    """
    b, numbers = config.buffer, system.n_atoms * system.n_dims
    check_fits("buffer.size", b.size, 32 * numbers)
    # At the very least: features of every atom in every layer.
    check_fits("optimizer.batch", config.optimizer.batch, 1024 * system.n_atoms)
    plan = FirstBuffer.of(config, system, ranks)
    size, walkers, ladder, at_geometry, legs, steps_a_round, needed = plan
    if b.exchanges and len(set(system.kinds)) < 2:
        raise UsageError(f"buffer.exchanges: expected 0 for {system.name!r}, all of one kind, got {b.exchanges}")
    if b.torsions and not system.rotations.bonds:
        raise UsageError(f"buffer.torsions: expected 0 for {system.name!r}, no bond of which turns, got {b.torsions}")
    least = needed + calls_an_iteration(config, walkers)
    if energy.max_calls is not None and energy.calls + needed > energy.max_calls:
        raise BudgetExhausted(
            f"energy calls: the first buffer takes {needed}, more than the budget of {energy.max_calls}; "
            f"{least} are enough for it and one iteration"
        )
    generator = ranks.generator(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = build_denoiser(config.network, system, ladder is not None).to(device)
    ema = copy.deepcopy(denoiser).eval().requires_grad_(False)

    def near_geometry() -> ChainState:
        geometry = torch.tensor(system.geometry, dtype=torch.float64, device=device)
        return geometry_start(energy, geometry, config.noise.sigma_min, walkers, generator, device)

    try:
        noise = partial(noise_start, energy, system.sigma_data, walkers, b.relax_steps, generator, guard, device)
        start = near_geometry() if at_geometry else noise()
    except EnergyError as error:
        if at_geometry or system.geometry is None or b.start == "noise" or isinstance(error, FloorError):
            raise
        warn_caller(
            f"training starts near the geometry, as the potential fails on noise ({error}); [buffer] start = "
            "'geometry' does so at once",
            TrainingWarning,
        )
        start = near_geometry()
    # The second half of the last rounds, as far as there is room; what chains see before is not in equilibrium.
    kept = min(math.ceil(size / walkers), legs[-1] - legs[-1] // 2) - 1
    seen: deque[ChainState] = deque(maxlen=max(kept, 0))

    def on_round(now: ChainState) -> None:
        guard()
        seen.append(now)

    last, step = start, b.mala_step
    for leg in legs:
        if ladder is not None and last is not start:
            ladder, last = respaced(ladder, last, ranks)
            seen.clear()
        move = partial(langevin, b.torsions, system, ladder, len(last.u), device)
        last, step = equilibrate(
            energy, last, step, leg, steps_a_round, lambda: draw_seed(generator), on_round=on_round, move=move
        )
    if ladder is not None:
        walkers = len(last.u)
        size = ladder.whole(size) if b.walkers else walkers
    first, *others = (*seen, last)
    buffer = RingBuffer(first, size, walkers)
    for samples in others:
        buffer.append(samples)
    (step,) = ranks.means(step)
    return TrainingState(
        denoiser,
        ema,
        make_optimizers(config.optimizer, denoiser),
        buffer,
        generator,
        0,
        config.optimizer.iterations,
        step,
        system,
        ladder=ladder,
    )


def _flat_prior(sigma: float) -> float:
    """Variance of x_0 given x_t if all x_0 were alike: the width of the last step where refinement follows anyway."""
    return sigma**2


def _renew_buffer(
    config: TrainingConfig, energy: Energy, state: TrainingState, report: IterationReport, ranks: Ranks
) -> bool:
    """Samples of the averaged model, relaxed, replace the oldest; then everything is refined. False if the budget of
    energy calls ended within it."""
    try:
        _renew_part(config, energy, state, report, ranks)
        done = True
    except BudgetExhausted:
        done = False
    report.acceptance, report.buffer_mean_energy, report.raw_median_energy, share_done = ranks.means(
        report.acceptance, float(state.own_energies.double().mean()), report.raw_median_energy, float(done)
    )
    (report.swaps,) = ranks.means(report.swaps)
    ess, report.weighted_mean_energy, variance = ranks.means(
        report.weighted_ess, report.weighted_mean_energy, report.weighted_mean_energy_err**2
    )
    report.weighted_ess, report.weighted_mean_energy_err = ess * ranks.size, math.sqrt(variance / ranks.size)
    if config.buffer.refine_steps and share_done == 1:
        state.mala_step = tune_step(state.mala_step, report.acceptance)
    return share_done == 1


def _renew_part(
    config: TrainingConfig, energy: Energy, state: TrainingState, report: IterationReport, ranks: Ranks
) -> None:
    """Renew this process's part of the buffer."""
    b, buffer = config.buffer, state.buffer
    if state.iteration > 0:
        fresh, share, rung, own = ranks.part(b.fresh), None, 0, 0
        if b.weighted:
            most = fresh if buffer.walkers == buffer.size else buffer.walkers
            if state.ladder is not None:  # one rung after the other, from the hottest down
                rungs, own = len(state.ladder), state.ladder.own
                rung, most = -state.iteration % rungs, buffer.walkers // rungs
            paths = weighted_paths(config, energy, state, ranks.part(b.weighted), rung)
            share = renewed_by_weight(energy, paths, most, state, rung)
            report.weighted_ess = share.ess
            if share.enough and rung == own:
                report.weighted_mean_energy, report.weighted_mean_energy_err = share.mean_energy, share.error
        else:
            grid = noise_grid(config.noise.sigma_min, config.noise.sigma_max, b.sampling_steps)
            kernel = Ddpm(state.ema, _flat_prior)
            sampler = PathSampler(kernel, PlainLastStep(), grid, state.system.sigma_data, state.device)
            (paths,) = sampler.sample([energy], fresh, state.generator)
        report.raw_failed = paths.failed
        if rung == own:
            report.raw_median_energy = float(paths.energies.median())
        if state.ladder is None and (share is None or not share.enough):
            ok = torch.isfinite(paths.positions).flatten(1).all(1)
            ceiling = float(buffer.samples.u.max())
            x = paths.positions[ok][:fresh].float().to(state.device)
            buffer.put(energy, relax(energy, x, b.relax_steps, ceiling))
    if b.refine_steps:
        run = buffer.refine(energy, refinement(config, state), b.refine_steps, draw_seed(state.generator))
        report.acceptance = float(run.acceptance.mean())
        if isinstance(run, TemperingRun):
            report.swaps = float(run.swaps.nanmean())


def _draw_batch(
    config: TrainingConfig, energy: Energy, state: TrainingState, size: int, force_scales: list[float]
) -> Batch:
    """``size`` noised positions for one optimiser step, and where they came from."""
    lo, hi = config.noise.sigma_min, config.noise.sigma_max
    generator, beta = state.generator, None
    force_scale: float | torch.Tensor = force_scales[0]
    if config.buffer.train_on == "prior":
        x_0 = hi * standard_normal((size, energy.n_atoms, energy.n_dims), generator, torch.float32, state.device)
        f_0 = torch.full_like(x_0, torch.nan)
    else:
        samples = state.buffer.samples
        idx = state.buffer.drawn(size, generator)
        if config.ladder is not None:
            idx = state.colder(idx, config.ladder.cold)
        x_0, f_0 = samples.x[idx], samples.f[idx]
        if state.ladder is not None:
            beta = state.ladder.beta(idx.to(state.device))
            scales = torch.tensor(force_scales, dtype=torch.float32, device=state.device)
            force_scale = (scales[idx % len(scales)] / beta)[:, None, None]
            f_0 = beta[:, None, None] * f_0
    sigma = stratified_log_uniform(size, lo, hi, generator).to(state.device)
    x_t = x_0 + sigma[:, None, None] * standard_normal(x_0.shape, generator, torch.float32, state.device)
    return Batch(x_t, sigma, x_0, f_0, force_scale, state.mala_step, beta)


def _loss(config: TrainingConfig, denoiser, energy: Energy, target: Target, batch: Batch, generator) -> torch.Tensor:
    """Squared error of the denoiser, shape (B,), in units of the network's output: every noise level weighs the
    same."""
    wanted = target(energy, batch, generator)
    scale = denoiser.c_out(batch.sigma)[:, None, None]
    denoiser = denoiser if batch.beta is None else denoiser.at(torch.log(batch.beta))
    device = batch.x_t.device.type
    reduced = config.optimizer.precision == "bf16" and (device != "cpu" or has_bfloat16_units())
    with torch.autocast(device, torch.bfloat16, enabled=reduced):
        denoised = denoiser(batch.x_t, batch.sigma)
    return (((denoised - centred(wanted)) / scale) ** 2).mean((1, 2))


def outer_iteration(
    config: TrainingConfig,
    energy: Energy,
    state: TrainingState,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> IterationReport | None:
    """Renew the buffer, then take ``inner_steps`` optimiser steps; advances ``state`` in place.

    Parameters
    ----------
    stop : callable () -> bool
        Asked before every step.
    on_step : callable ()
    ranks : Ranks
        Each draws its part of every batch, from its part of the buffer; all take the same steps.

    Returns
    -------
    IterationReport or None
        None if someone was to stop, or the budget of energy calls ended within the iteration: ``state`` is half-way
        then, and the caller goes back to the last saved one.

    Raises
    ------
    IdemError
        The training diverged, or another process is gone.
    """
    o, lo, hi = config.optimizer, config.noise.sigma_min, config.noise.sigma_max
    report = IterationReport(state.iteration, math.nan)
    if not _renew_buffer(config, energy, state, report, ranks):
        return None
    force_scales = ranks.means(*state.buffer.force_scales(state.rungs))
    size = ranks.part(o.batch)
    target = TARGETS.find(config.target.name)(config.target)
    totals = torch.zeros(2, LOSS_BINS, dtype=torch.float64, device="cpu")
    parameters = list(state.denoiser.parameters())
    for k in range(o.inner_steps):
        step, halt = state.iteration * o.inner_steps + k, stop()
        state.denoiser.zero_grad(set_to_none=True)
        if not halt:
            batch = _draw_batch(config, energy, state, size, force_scales)
            try:
                loss_B = _loss(config, state.denoiser, energy, target, batch, state.generator)
                loss_B.mean().backward()
            except BudgetExhausted:
                halt = True
        if ranks.average_gradients(parameters, halt):
            return None
        norm = torch.nn.utils.clip_grad_norm_(parameters, o.clip_norm)
        on_step()
        if not bool(torch.isfinite(norm)):
            # A rare configuration on which the network overflows: left out and counted, unless it is not rare.
            report.skipped += 1
            if report.skipped > max(MAX_SKIPPED * o.inner_steps, 1):
                raise IdemError(
                    f"training diverged: {report.skipped} of {k + 1} gradients of iteration {state.iteration} "
                    "are not finite"
                )
            continue
        share = schedule(o, state.total, step)
        report.learning_rate = o.learning_rate * share
        take_step(state.optimizers, share, ranks)
        update_average(state.ema, state.denoiser, o.ema, step)
        with torch.no_grad():
            for copied, buffer in zip(state.ema.buffers(), state.denoiser.buffers()):
                copied.copy_(buffer)
        bins = ((torch.log(batch.sigma / lo) / math.log(hi / lo)) * LOSS_BINS).long().clamp(0, LOSS_BINS - 1)
        bins = bins.cpu()
        totals[0].index_add_(0, bins, loss_B.detach().double().cpu())
        totals[1].index_add_(0, bins, totals.new_ones(size))
    state.iteration += 1
    totals = ranks.totals(totals)
    report.raw_failed = int(ranks.totals(torch.tensor(report.raw_failed, device="cpu")))
    report.loss = float(totals[0].sum() / totals[1].sum())
    report.loss_by_sigma = (totals[0] / totals[1].clamp(min=1)).tolist()
    report.sigma_edges = torch.exp(
        torch.linspace(math.log(lo), math.log(hi), LOSS_BINS + 1, dtype=torch.float32, device="cpu")
    ).tolist()
    return report
