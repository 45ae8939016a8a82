"""How far tuning is."""

from __future__ import annotations

from ..diffusion import SamplingPlan
from ..progress import Work

__all__ = ["TuningDisplay", "plan_line"]

PLANS = "noise levels and plans"


def plan_line(plan: SamplingPlan) -> str:
    """A plan that has been found."""
    return (
        f"{plan.nfe} evaluations: {plan.kernel}, {plan.last_step} from sigma {plan.sigma_1:.3g} "
        f"with {plan.build_last_step().calls:,} energy calls, "
        f"{100 * (plan.ess_fraction or 0):.0f}% effective, {1e3 * (plan.seconds or 0):.2g} ms a sample"
    )


class TuningDisplay:
    """Steps of heads, then plans one after the other."""

    def __init__(self, work: Work, steps: int):
        self.work, self.total, self.done = work, steps, 0
        work.phase(*(("elastic network", steps, "steps") if steps else (PLANS,)))

    def step(self, _: int) -> None:
        """After every step of a head."""
        self.done += 1
        self.work.advance()
        if self.done == self.total:
            self.work.phase(PLANS)

    def plan(self, plan: SamplingPlan) -> None:
        """After every plan."""
        if self.done < self.total:  # a head that was done sooner
            self.done = self.total
            self.work.phase(PLANS)
        self.work.say(plan_line(plan))

    def rung(self, kelvin: float) -> None:
        """Before the plans of a temperature."""
        self.work.say(f"{kelvin:.4g} K")
