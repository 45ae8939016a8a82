"""The extension point of last steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch

from ...energies import Energy
from ...errors import UsageError
from ...registry import Registry
from ..gaussians import Gaussian, Isotropic
from ..kernels import Evaluation, batch_size

__all__ = ["LAST_STEPS", "LastStepResult", "LastStep", "energies_where_finite", "log_ratio", "register_last_step"]


class LastStepResult(NamedTuple):
    """Samples, and what the last step contributes to the weights of their paths.

    Attributes
    ----------
    x : torch.Tensor, shape (B, N, D)
        x_0; not finite where the path failed.
    u : torch.Tensor, shape (B,)
        Energies; +inf for overlaps and failed paths.
    log_ratio : torch.Tensor, shape (B,)
        log of the density of the evaluation's point given x_0 over that of x_0 given the evaluation, auxiliary draws
        included: the mean of exp(log_ratio - u) over x_0 is the marginal density of exp(-u) noised to the evaluation's
        level.
    """

    x: torch.Tensor
    u: torch.Tensor
    log_ratio: torch.Tensor


class LastStep(ABC):
    """The end of a path, from its lowest noise level to a sample.

    Attributes
    ----------
    takes_calls : bool
        Whether `of_calls` is of use.
    open_ended : bool
        Whether what it adds to the variance of log w is about one over its energy calls: tuning then chooses how many.
    """

    takes_calls: ClassVar[bool] = False
    open_ended: ClassVar[bool] = False

    @classmethod
    def efforts(cls, energy: Energy, evaluation: Evaluation, sigma_data: float, seed: int) -> list[dict[str, Any]]:
        """Options that are tried when plans are tuned; none by default, and then the last step is not tried. Where it
        is ``open_ended`` their numbers of calls are those of a first pilot.

        Parameters
        ----------
        energy : Energy
        evaluation : Evaluation
            At samples that were noised to the level that the last step is tried from.
        sigma_data : float
        seed : int
        """
        return []

    @property
    def calls(self) -> int:
        """Energy calls that a sample takes, by which moves after it are dealt out."""
        return 1

    def block(self, energy: Energy, device: str = "cpu") -> int:
        """Samples that are best finished at a time on a device of that type; beyond `kernels.batch_size` they come as
        a plain `Evaluation`."""
        return batch_size(energy.n_atoms, energy.n_dims, device)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> LastStep:
        """From what a `SamplingPlan` keeps: JSON."""
        return cls(**options)

    @classmethod
    def of_calls(cls, options: Mapping[str, Any], calls: int) -> dict[str, Any]:
        """Options that spend about ``calls`` energy calls a sample; a way without ``takes_calls`` refuses."""
        raise UsageError(f"last_step_calls: expected none, this last step takes no number of calls, got {calls}")

    @abstractmethod
    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """Samples from an evaluation at the lowest noise level."""

    @abstractmethod
    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Log weights (B,), u included, of what could have led from the evaluations to given samples ``x_0`` (B, N, D).

        If x_0 is in equilibrium and the evaluation's point is x_0 noised to its level, then this is the log weight of a
        draw from the reverse of the extended target: exp(-log weight) is an unbiased estimate of the inverse of the
        density that `LastStepResult.log_ratio` estimates.
        """


def log_ratio(evaluation: Evaluation, posterior: Gaussian, x: torch.Tensor) -> torch.Tensor:
    """log N(evaluation.x; x, sigma^2) - log q(x), shape (B,), for x (B, N, D) from the evaluation's posterior q."""
    return Isotropic(x, evaluation.sigma**2).log_density(evaluation.x) - posterior.log_density(x)


def energies_where_finite(energy: Energy, x: torch.Tensor) -> torch.Tensor:
    """Energies (B,) of the configurations that are finite, +inf for the others."""
    ok = torch.isfinite(x).flatten(1).all(1)
    u = x.new_full((len(x),), torch.inf)
    if bool(ok.any()):
        u[ok] = energy(x[ok])[0]
    return u


LAST_STEPS: Registry[type[LastStep]] = Registry("last_step")

LastStepType = TypeVar("LastStepType", bound=LastStep)


def register_last_step(name: str) -> Callable[[type[LastStepType]], type[LastStepType]]:
    """Class decorator: makes a `LastStep` known under that name."""
    return LAST_STEPS.register(name)
