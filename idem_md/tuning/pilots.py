"""What last steps add to the variance of log w, measured on pilots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..diffusion import LAST_STEPS, Evaluation, LastStep, SamplingPlan
from ..energies import Energy
from ..ensemble import ForwardWeights, WeightSums

__all__ = [
    "FEW",
    "Measured",
    "Tried",
    "counted_share",
    "effective_variance",
    "robust_variance",
    "run_pilot",
    "share_both_ways",
    "timed",
]

# Samples from which the number of calls of a pilot is found, and by which anything is measured at least.
FEW = 48
# Variance of a pilot from which one can be extrapolated to more calls; how many times as many are tried next.
PILOT_VARIANCE, MORE = 3.0, 4
# Part of its variance that a pilot has at most with so many more calls, or more are of no use: it should be a fourth.
LEAST_GAIN = 0.8
# Seconds of a pilot of one last step at one level; fewer samples are used where they do not suffice.
PILOT_SECONDS = 12.0
# From this number of effective samples on a share is counted, below it follows from the variance of log w.
COUNTED = 50
# One standard normal number in ten is above this.
NORMAL_DECILE = 1.2815515655446004


@dataclass(frozen=True)
class Tried:
    """One way of ending paths at one level.

    Attributes
    ----------
    name, options, last_step
        The last step of the pilot.
    log_w : torch.Tensor, shape (2, n)
        What `LastStep.retrace` gives for the first n samples, twice.
    seconds : float
        Time that one of the two takes for a sample.
    """

    name: str
    options: dict[str, Any]
    last_step: LastStep
    log_w: torch.Tensor
    seconds: float

    @cached_property
    def variance(self) -> float:
        """What the last step adds to the variance of log w: half that of the difference of two for the same sample."""
        return 0.5 * robust_variance(self.log_w[0] - self.log_w[1])

    def above(self, log_w: torch.Tensor) -> float:
        """The variance of log w without what the last step adds, from what is above the level."""
        n = min(len(log_w), self.log_w.shape[1])
        of_both = [effective_variance(log_w[:n] + last_step[:n]) for last_step in self.log_w]
        return max(0.5 * sum(of_both) - self.variance, 0.0)

    def calls(self, seconds: float, power: float) -> int:
        """Energy calls a sample for the largest worth of a plan whose paths take so many seconds, with a share to that
        power; see `search.Search`.

        With the variance c / C of C calls of s seconds, exp(-p c / C) / (t + s C) is largest where
        s C^2 = p c (t + s C).
        """
        known = self.last_step.calls
        half, s = 0.5 * power * self.variance * known, self.seconds / known
        return max(math.ceil(half + math.sqrt(half * half + 2 * half * seconds / s)), 2)


@dataclass
class Measured:
    """What a search for plans has found so far, from which an interrupted one goes on.

    Attributes
    ----------
    plans : dict
        Plans that are done, by method and number of evaluations.
    levels : dict
        Lowest levels that are worth trying, each with a kernel, by method; levels by their place among all that are
        tried.
    tried : dict
        Last steps by lowest level.
    changed : callable
        Called after each addition to ``levels`` and ``tried``.
    """

    plans: dict[str, dict[int, SamplingPlan]] = field(default_factory=dict)
    levels: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    tried: dict[int, list[Tried]] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None


def robust_variance(a: torch.Tensor) -> float:
    """The variance of a normal distribution with the range that eight tenths of ``a`` (n,) have; inf if it is none.

    A few chains that began with overlapping atoms would rule a plain variance; they hardly count for the share of
    effective samples, which it is to foretell.
    """
    low, high = torch.quantile(a.double(), torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    variance = ((high - low) / (2 * NORMAL_DECILE)) ** 2
    return variance if math.isfinite(variance) else math.inf


def counted_share(log_w: torch.Tensor, least: float = COUNTED) -> float | None:
    """The share of effective samples of log weights (n,) of forward paths; None where fewer than ``least`` are."""
    share = ForwardWeights(log_w.numpy()).ess_fraction
    return share if share * len(log_w) >= least else None  # a NaN is not enough either


def share_both_ways(up: float, log_w: torch.Tensor, least: float) -> float:
    """The share of effective samples by paths up and by log weights (n,) of paths down: the geometric mean of what they
    say of the variance of weights, 1 / share - 1. Paths up see the few large weights that so many paths down miss, but
    one bad sample can dominate them. Where fewer than ``least`` paths down are effective the share may be smaller than
    they can show: they do not raise it then."""
    sums = WeightSums()
    sums.add(log_w.numpy())
    down = sums.ess / len(log_w)
    if not 0 < up < 1 or not 0 < down < 1 or (sums.ess < least and down > up):
        return up
    return 1 / (1 + math.sqrt((1 / up - 1) * (1 / down - 1)))


def effective_variance(log_w: torch.Tensor) -> float:
    """The variance of a normal distribution of log weights (n,), of forward paths, with the share of effective samples
    that these have: exp(-variance) where it can be counted. Elsewhere the `robust_variance`."""
    share = counted_share(log_w)
    return robust_variance(log_w) if share is None else -math.log(share)


def timed(
    work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, seconds: float, least: int = FEW
) -> tuple[torch.Tensor, float]:
    """``work`` of as many of ``x`` as it does in about so many seconds, of ``least`` anyway; and seconds for each."""
    start = time.perf_counter()
    first = work(x[:least])
    each = (time.perf_counter() - start) / len(x[:least])
    n = min(int(seconds / each), len(x))
    if n <= least:
        return first, each
    rest = work(x[least:n])
    return torch.cat([first, rest], -1), (time.perf_counter() - start) / n


def run_pilot(
    name: str,
    options: dict[str, Any],
    energy: Energy,
    evaluation: Evaluation,
    samples: torch.Tensor,
    generator,
    seconds: float = PILOT_SECONDS,
) -> Tried:
    """A last step with enough calls for its variance to tell what more would give, if more can be had."""
    kind = LAST_STEPS[name]

    def retraced(k: torch.Tensor) -> torch.Tensor:
        part = Evaluation(evaluation.x[k], evaluation.sigma, evaluation.denoised[k], evaluation.mse)
        return torch.stack([last_step.retrace(energy, part, samples[k], generator) for _ in range(2)])

    before = math.inf
    while True:
        last_step = kind.build(options)
        log_w, each = timed(retraced, torch.arange(min(FEW, len(samples))), seconds)
        tried = Tried(name, options, last_step, log_w, each / 2)
        affordable = MORE * FEW * each < seconds
        useful = PILOT_VARIANCE < tried.variance <= LEAST_GAIN * before
        if not (last_step.open_ended and affordable and useful):
            break
        before = tried.variance
        options = kind.of_calls(options, MORE * last_step.calls)
    left = torch.arange(len(samples))[FEW : int(seconds / each)]
    return replace(tried, log_w=torch.cat([log_w, retraced(left)], 1)) if len(left) else tried
