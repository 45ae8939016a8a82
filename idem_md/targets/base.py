"""The extension point of training targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch

from ..energies import Energy
from ..registry import Registry
from ..tables import Table

__all__ = ["TARGETS", "Batch", "Target", "TargetOptions", "register_target"]


class TargetOptions(Table):
    """Settings of a target; each has a subclass with those that it uses."""

    name: str


@dataclass(frozen=True)
class Batch:
    """What a target may use.

    Attributes
    ----------
    x_t : torch.Tensor, shape (B, N, D)
        Noised positions, x_0 + sigma eps.
    sigma : torch.Tensor, shape (B,)
    x_0, f_0 : torch.Tensor, shape (B, N, D)
        Where x_t came from, and the stored forces there; no samples of the system if training is on the prior, and then
        without forces (NaN).
    force_scale : float or torch.Tensor, shape (B, 1, 1)
        <f^2>^(-1/2) per coordinate over the samples of that temperature, the stiffness length of the potential.
    mala_step : float
        A Langevin step that suits the energy at an inverse temperature of one.
    beta : torch.Tensor, shape (B,), optional
        Inverse temperature of each x_0, where there are several; by which ``f_0`` is multiplied already.
    """

    x_t: torch.Tensor
    sigma: torch.Tensor
    x_0: torch.Tensor
    f_0: torch.Tensor
    force_scale: float | torch.Tensor
    mala_step: float
    beta: torch.Tensor | None = None


class Target(ABC):
    """Estimates of E[x_0 | x_t] for a batch.

    Attributes
    ----------
    Options : type
        The settings, a subclass of `TargetOptions`.
    needs_samples : bool
        Whether x_0 must be samples of the system.
    takes_temperatures : bool
        Whether it heeds ``Batch.beta``.
    """

    Options: ClassVar[type[TargetOptions]] = TargetOptions
    needs_samples: ClassVar[bool] = True
    takes_temperatures: ClassVar[bool] = False

    def __init__(self, options: Any):
        self.options = options

    @abstractmethod
    def __call__(self, energy: Energy, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Denoiser values, shape (B, N, D)."""


TARGETS: Registry[type[Target]] = Registry("target.name")

TargetType = TypeVar("TargetType", bound=Target)


def register_target(name: str) -> Callable[[type[TargetType]], type[TargetType]]:
    """Class decorator: makes a `Target` known to configurations under ``target.name = name``."""
    return TARGETS.register(name)
