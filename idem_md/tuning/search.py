"""Where plans are looked for, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..diffusion import SamplingPlan
from .pilots import COUNTED, PILOT_SECONDS

__all__ = ["Search"]

# Samples from which the step of moves is tuned.
STEP_SAMPLES = 250
# Seconds of one trial of the paths above a level.
PATH_SECONDS = 1.5
# Seconds of the confirmation of one plan; fewer samples are used where they do not suffice.
CONFIRM_SECONDS = 3.0
# If speed alone counted, exp(-1) of the samples would be effective where the last step takes most of the time; with
# this power of the share, exp(-1/3). It is two thirds of the number of evaluations, within these bounds.
SHARE_POWERS = 3.0, 16.0
# Most paths that compete for a sample, or chunks of samples would take too long; and the power of the share that says
# how many do. If the potential costs nothing, a third of the samples is effective with it, and an effective sample
# takes one and a half times the least time.
MOST_CANDIDATES, CANDIDATES_POWER = 64, 1.5


@dataclass(frozen=True)
class Search:
    """Where plans are looked for, and what they are worth.

    Attributes
    ----------
    lowest : sequence of float, optional
        Lowest noise levels that are tried, in units of the standard deviation of a coordinate; by default
        `plans.LOWEST`.
    best_kernel : bool
        Whether only the kernel of the highest preference is tried of each method.
    power : float, optional
        To which a share of effective samples counts; by default it grows with the number of evaluations.
    step_samples : int
        From which the step of moves is tuned.
    path_seconds : float
        Of one trial of the paths above a level.
    pilot_seconds : float
        Of a pilot of one last step at one level.
    confirm_seconds : float
        Of the confirmation of a plan.
    counted : float
        From this number of effective samples on the share of a confirmation is counted.
    down_seconds : float
        Of paths down, which confirm the share as well; 0 for none.
    beside : float, optional
        Seconds that the potential takes for a sample for which a twin stands; there is no twin without.
    """

    lowest: Sequence[float] | None = None
    best_kernel: bool = False
    power: float | None = None
    step_samples: int = STEP_SAMPLES
    path_seconds: float = PATH_SECONDS
    pilot_seconds: float = PILOT_SECONDS
    confirm_seconds: float = CONFIRM_SECONDS
    counted: float = COUNTED
    down_seconds: float = 0.0
    beside: float | None = None

    @property
    def moves(self) -> bool:
        """Whether plans end with moves."""
        return self.beside is None

    @classmethod
    def by_twin(cls, beside: float) -> Search:
        """With a twin, whose calls take a thousand times as long as native ones: few samples and more seconds for them.

        Paths that compete for a sample see to it that the share is large. Variances are large here, and log weights
        have a tail of small ones, which cost little: the share falls more slowly than exp(-variance). Annealing from a
        low level takes fewer calls. So few samples do not tell kernels apart.
        """
        return cls(
            lowest=(0.1, 0.15, 0.2, 0.25, 0.35),
            best_kernel=True,
            power=0.75,
            step_samples=24,
            path_seconds=5.0,
            pilot_seconds=20.0,
            confirm_seconds=25.0,
            counted=10.0,
            down_seconds=25.0,
            beside=beside,
        )

    def share_power(self, plan: SamplingPlan) -> float:
        """To which power a share of effective samples counts."""
        assert plan.nfe is not None
        return self.power or min(max(2 / 3 * plan.nfe, SHARE_POWERS[0]), SHARE_POWERS[1])

    def log_worth(self, plan: SamplingPlan) -> float:
        """The logarithm of a power of the expected share of effective samples, divided by the seconds a sample: the
        share itself may be too small for a number."""
        assert plan.tuned is not None and plan.seconds is not None
        return -self.share_power(plan) * plan.tuned.variance - math.log(plan.seconds)

    def with_candidates(self, plan: SamplingPlan) -> SamplingPlan:
        """The plan with as many paths a sample as are worth most: the share of effective samples to a power p a second.

        The share of M paths is M / (M + r), r = 1 / share - 1, and takes M t + b seconds with the potential's b: the
        best M solves M^2 - (p - 1) r M = p r b / t.
        """
        if self.beside is None or not plan.ess_fraction or plan.seconds is None:
            return plan
        r = 1 / plan.ess_fraction - 1
        half = (CANDIDATES_POWER - 1) * r / 2
        best = half + math.sqrt(half**2 + CANDIDATES_POWER * r * self.beside / plan.seconds)
        plan = plan.of_candidates(min(max(round(best), 1), MOST_CANDIDATES))
        return replace(plan, seconds=(plan.seconds or 0.0) + self.beside)
