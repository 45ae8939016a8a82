"""How to sample with so many network evaluations: what was tuned, and is kept in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..checks import check_float
from ..errors import UsageError
from .last_step import LAST_STEPS, LastStep

__all__ = ["SamplingPlan"]


@dataclass(frozen=True)
class SamplingPlan:
    """The parts of a sampler, by name and number.

    Attributes
    ----------
    kernel : str
        A name of `PROPOSALS`.
    last_step : str
        A name of `LAST_STEPS`.
    sigma_1 : float, optional
        Lowest noise level; by default the lowest of the training.
    options : dict
        Of the last step; see `LastStep.build`.
    ess_fraction, seconds : float, optional
        Measured when it was tuned: share of effective samples of forward paths, and seconds a sample.
    """

    kernel: str = "analytic"
    last_step: str = "plain"
    sigma_1: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ess_fraction: float | None = None
    seconds: float | None = None

    def __post_init__(self):
        if self.sigma_1 is not None:
            check_float("sigma_1", self.sigma_1, above=0.0)

    def build(self) -> LastStep:
        """The last step."""
        return LAST_STEPS.find(self.last_step).build(self.options)

    def changed(
        self, kernel: str | None = None, last_step: str | None = None, last_step_calls: int | None = None
    ) -> SamplingPlan:
        """With what a user asks for in its place; what was tuned for another last step is left out."""
        plan = self
        if kernel is not None:
            plan = replace(plan, kernel=kernel)
        if last_step is not None and last_step != self.last_step:
            plan = replace(plan, last_step=last_step, sigma_1=None, options={})
        if last_step_calls is not None:
            kind = LAST_STEPS.find(plan.last_step)
            plan = replace(plan, options=kind.of_calls(plan.options, last_step_calls))
        return plan

    def table(self) -> dict[str, Any]:
        """As JSON; the inverse is `SamplingPlan.of`."""
        return asdict(self)

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> SamplingPlan:
        """From `table`.

        Raises
        ------
        UsageError
            Keys that are not known.
        """
        unknown = sorted(table.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise UsageError(f"plan: expected some of {', '.join(cls.__dataclass_fields__)}, got {unknown[0]!r}")
        return cls(**table)
