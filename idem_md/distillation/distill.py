"""Distillation: the flow map of a trained sampler, by regression on its trajectories. No energy calls."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Checkpoint, weights_digest
from ..checks import check_float, check_int
from ..diffusion import Denoiser
from ..errors import ConfigError, FileFormatError, IdemError, Interrupted, UsageError
from ..geometry import standard_normal
from ..nets import FLOW_COVARIANCE, FLOW_MAP, FlowMap, build_flow_map
from ..tensor_files import read_tensors, write_tensors
from ..torch_state import own_torch
from ..training.budgets import Budget
from ..training.config import OptimizerConfig
from ..training.optimisers import (
    load_optimizers,
    make_optimizers,
    optimizer_tensors,
    schedule,
    take_step,
    update_average,
)
from .flow_covariance import train_flow_covariance
from .trajectories import Pool, Trajectories, draw_trajectories, follow

__all__ = ["Distillation", "distill", "flow_map_error"]

# Steps of a round, after which the oldest trajectories are renewed; rounds from one saved state to the next.
ROUND, SAVED = 100, 5
# Levels of a trajectory; steps between two of them when errors are measured, and trajectories of that.
LEVELS, FINE, ERROR_SAMPLES = 24, 4, 256


@dataclass(frozen=True)
class Distillation:
    """Settings of a distillation.

    Attributes
    ----------
    steps, batch : int
        Optimiser steps, in whole rounds of a hundred, and pairs of points a step.
    lowest : float, optional
        The flow map goes between this level and the highest of the training; by default 0.4 of the data's scale.
    pool, renewed : int
        Trajectories that are kept, and how many of them each round replaces.
    covariance_steps : int, optional
        Steps in which the flow covariance is learnt afterwards; by default six tenths of ``steps``.
    seed : int
    head : dict
        Options of the flow map, see ``nets.FLOW_MAPS``; by default its own.
    optimizer : OptimizerConfig
    """

    steps: int = 5000
    batch: int = 128
    lowest: float | None = None
    pool: int = 3072
    renewed: int = 256
    covariance_steps: int | None = None
    seed: int = 0
    head: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="muon", learning_rate=0.003, matrix_rate=0.003, clip_norm=0.1, warmup=100, inner_steps=ROUND
        )
    )

    def __post_init__(self):
        if check_int("steps", self.steps, ROUND) % ROUND:
            raise UsageError(f"steps: expected a multiple of {ROUND}, got {self.steps}")
        check_int("batch", self.batch, 2)
        check_int("renewed", self.renewed, 1)
        check_int("pool", self.pool, self.renewed)
        if self.covariance_steps is None:
            object.__setattr__(self, "covariance_steps", 6 * self.steps // 10)
        check_int("covariance_steps", self.covariance_steps, 1)
        check_int("seed", self.seed, 0, 2**31 - 1)
        o, usual = self.optimizer, OptimizerConfig()
        if o.inner_steps != ROUND or (o.batch, o.iterations, o.precision) != (
            usual.batch,
            usual.iterations,
            usual.precision,
        ):
            raise UsageError(
                f"optimizer: expected inner_steps {ROUND}, and batch, iterations and precision as they are"
            )
        if self.lowest is not None:
            check_float("lowest", self.lowest, above=0.0)

    def table(self) -> dict[str, Any]:
        """The options, as JSON."""
        return {**asdict(self), "optimizer": self.optimizer.model_dump()}


@dataclass
class _State:
    """A distillation between two rounds."""

    flow_map: FlowMap
    ema: FlowMap
    optimizers: tuple[torch.optim.Optimizer, ...]
    generator: torch.Generator
    total: int
    pool: Pool
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def round(self) -> int:
        return len(self.losses)


def _loss(denoiser: Denoiser, flow_map: FlowMap, batch: Trajectories) -> torch.Tensor:
    """|g(x_t, t -> s) - x_s|^2 / s^2 per coordinate, (B,), from two points of each path: the first to the second."""
    (x, y), (t, s) = batch.x.unbind(1), batch.sigma.unbind(1)
    g = denoiser.mapped(x, *denoiser.featured(x, t), t, s, flow_map)
    return ((g - y) / s[:, None, None]).square().mean((1, 2))


@own_torch
def distill(
    checkpoint: Checkpoint,
    state: Path,
    settings: Distillation | None = None,
    *,
    resume: bool = False,
    minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, int, float], None] = lambda *_: None,
    on_step: Callable[[int], None] = lambda _: None,
) -> Checkpoint:
    """The checkpoint with a flow map and a flow covariance; its network, other heads and plans stay as they are.

    Parameters
    ----------
    checkpoint : Checkpoint
        With a network that has features for heads.
    state : Path
        File for the state, from which the distillation can be resumed bit for bit.
    settings : Distillation, optional
    resume : bool
        Go on from that file.
    minutes : float, optional
        Budget of wall time, earlier sessions included: the number of rounds is fixed when what is left is just what the
        final decay of the step size will take. The steps for the flow covariance are not counted.
    stop : callable () -> bool
        Asked after each round and step.
    on_round : callable (round, total, loss)
    on_step : callable (step)
        Of the flow covariance.

    Returns
    -------
    Checkpoint
        Its provenance has the settings, seconds and the error of the flow map by level.

    Raises
    ------
    UsageError
        A network for which there is no flow map, one for a range of temperatures, or levels out of order.
    ConfigError, FileFormatError
        The state belongs to another distillation, or cannot be read.
    Interrupted
        ``stop`` was true; the state is there to go on from.
    IdemError
        The training diverged.
    """
    settings, budget = settings or Distillation(), Budget(minutes)
    denoiser, system = checkpoint.denoiser, checkpoint.system
    if denoiser.log_beta is not None:
        raise UsageError("checkpoint: expected a network for a single temperature, got one for a range")
    lowest = settings.lowest or 0.4 * denoiser.sigma_data
    highest = checkpoint.noise_range[1]
    if not checkpoint.noise_range[0] <= lowest < highest / 2:
        raise UsageError(
            f"lowest: expected between the lowest level of the training, {checkpoint.noise_range[0]}, and half of the "
            f"highest, {highest / 2}, got {lowest}"
        )
    levels, n = (LEVELS, lowest, highest), (system.n_atoms, system.n_dims)
    now = _begin(checkpoint, settings, levels)
    header = {"settings": settings.table(), "network": weights_digest(denoiser.net)}
    start = time.perf_counter()
    if resume:
        _load(state, now, header)
    else:
        now.pool.fill()
    earlier = now.seconds

    def check() -> None:
        if stop():
            _save(state, now, header)
            raise Interrupted(f"{state}: stopped after {now.round} of {now.total} rounds; resume goes on from here")

    while now.round < now.total:
        check()
        if now.round:
            now.pool.renew(now.round)
        total = 0.0
        for k in range(ROUND):
            total += _step(denoiser, now, settings, now.round * ROUND + k)
        now.losses.append(total / ROUND)
        now.seconds = earlier + time.perf_counter() - start
        used = budget.used(now.seconds, 0)
        now.total = budget.shortened(now.round, now.total, used, 0.0, settings.optimizer.decay_fraction)
        if now.round % SAVED == 0:
            _save(state, now, header)
        on_round(now.round, now.total, now.losses[-1])
    _save(state, now, header)
    done = copy.deepcopy(denoiser)
    done.heads[FLOW_MAP] = now.ema.eval().requires_grad_(False)

    def step(k: int) -> None:
        check()
        on_step(k)

    began = time.perf_counter()
    assert settings.covariance_steps is not None
    covariance = train_flow_covariance(done, n, levels, settings.covariance_steps, settings.seed, step)
    done.heads[FLOW_COVARIANCE] = covariance.requires_grad_(False)
    seconds = time.perf_counter() - began
    settled = settings.table()
    steps = settled.pop("covariance_steps")
    record = {
        **settled,
        "lowest": lowest,
        "rounds": now.round,
        "losses": [float(f"{loss:.3g}") for loss in now.losses],
        "seconds": now.seconds,
        **flow_map_error(done, (ERROR_SAMPLES, *n), lowest, highest, torch.Generator().manual_seed(settings.seed + 1)),
    }
    made = replace(checkpoint, denoiser=done, provenance=checkpoint.with_head_record(FLOW_MAP, record), digest="")
    return replace(made, provenance=made.with_head_record(FLOW_COVARIANCE, {"steps": steps, "seconds": seconds}))


def _step(denoiser: Denoiser, now: _State, settings: Distillation, step: int) -> float:
    """One optimiser step; returns the loss."""
    o = settings.optimizer
    loss = _loss(denoiser, now.flow_map, now.pool.pairs(settings.batch, now.generator)).mean()
    now.flow_map.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(now.flow_map.parameters(), o.clip_norm)
    if not bool(torch.isfinite(norm)):
        raise IdemError(f"distillation diverged: the gradient of step {step} is not finite")
    take_step(now.optimizers, schedule(o, now.total, step))
    update_average(now.ema, now.flow_map, o.ema, step)
    return float(loss.detach())


def _begin(checkpoint: Checkpoint, settings: Distillation, levels: tuple[int, float, float]) -> _State:
    denoiser, system = checkpoint.denoiser, checkpoint.system
    options = {**settings.head, "lowest": levels[1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        flow_map = build_flow_map(options, denoiser.net, denoiser.sigma_data)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = make_optimizers(settings.optimizer, flow_map)
    ema = copy.deepcopy(flow_map).requires_grad_(False)

    def draw(n: int) -> Trajectories:
        return draw_trajectories(denoiser, (n, system.n_atoms, system.n_dims), *levels, generator)

    pool = Pool(draw, settings.pool, settings.renewed)
    return _State(flow_map, ema, optimizers, generator, settings.steps // ROUND, pool)


def _save(path: Path, now: _State, header: Mapping[str, Any]) -> None:
    tensors = {f"heads.{FLOW_MAP}.{k}": v for k, v in now.flow_map.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in now.ema.state_dict().items()}
    tensors |= optimizer_tensors(now.optimizers)
    tensors |= {"pool.x": now.pool.paths.x, "pool.sigma": now.pool.paths.sigma, "generator": now.generator.get_state()}
    numbers = {"losses": now.losses, "total": now.total, "seconds": now.seconds}
    write_tensors(path, "distillation", tensors, {**header, **numbers})


def _load(path: Path, now: _State, header: Mapping[str, Any]) -> None:
    """Put a fresh state where a saved one was."""
    tensors, theirs = read_tensors(path, "distillation")
    for key, ours in header.items():
        if theirs.get(key) != ours:
            raise ConfigError(f"{path}: cannot resume: {key} was {theirs.get(key)!r} there, now it is {ours!r}")
    try:
        for name, module in ((f"heads.{FLOW_MAP}.", now.flow_map), ("ema.", now.ema)):
            module.load_state_dict({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)})
        load_optimizers(now.optimizers, tensors)
        now.pool.paths = Trajectories(tensors["pool.x"], tensors["pool.sigma"])
        now.generator.set_state(tensors["generator"])
        now.losses, now.total, now.seconds = list(theirs["losses"]), theirs["total"], theirs["seconds"]
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: its contents do not describe a distillation ({error})") from None


@torch.no_grad()
def flow_map_error(
    denoiser: Denoiser, shape: tuple[int, int, int], lowest: float, highest: float, generator: torch.Generator
) -> dict[str, Any]:
    """Measure how far the flow map misses, against trajectories of finer steps than those of the training.

    Returns
    -------
    dict
        ``levels`` and, from each of them (rows) to each other (columns), ``flow_map_error``: root mean square of
        |g(x_t, t -> s) - x_s| / s per coordinate; ``round_trip``, that of |g(g(x_t, t -> s), s -> t) - x_t| / t;
        ``flow_error``, of the steps of the training.
    """
    levels = torch.exp(torch.linspace(math.log(highest), math.log(lowest), 5, dtype=torch.float32))
    sigma = levels.expand(shape[0], -1)
    x = math.sqrt(highest**2 + denoiser.sigma_data**2) * standard_normal(shape, generator, torch.float32)
    coarse = points = x[:, None]
    steps = (LEVELS - 1) // (len(levels) - 1)
    for k in range(len(levels) - 1):
        ends = sigma[:, k], sigma[:, k + 1]
        points = torch.cat([points, follow(denoiser, points[:, -1], *ends, FINE * steps)[:, None]], 1)
        coarse = torch.cat([coarse, follow(denoiser, coarse[:, -1], *ends, steps)[:, None]], 1)

    def rms(a: torch.Tensor, b: int) -> float:
        return float(((a - points[:, b]) / levels[b]).square().mean().sqrt())

    def mapped(x: torch.Tensor, a: int, b: int) -> torch.Tensor:
        t, s = sigma[:, a], sigma[:, b]
        return denoiser.mapped(x, *denoiser.featured(x, t), t, s)

    every = range(len(levels))
    there = {(a, b): mapped(points[:, a], a, b) for a in every for b in every}
    return {
        "levels": levels.tolist(),
        "flow_map_error": [[rms(there[a, b], b) for b in every] for a in every],
        "round_trip": [[rms(mapped(there[a, b], b, a), a) for b in every] for a in every],
        "flow_error": rms(coarse[:, -1], len(levels) - 1),
    }
