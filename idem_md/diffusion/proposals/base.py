"""The seam of proposals: one look at a point of a path, then Gaussians down and up from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...registry import Registry
from ..gaussians import Gaussian, Isotropic

__all__ = ["PROPOSALS", "Denoise", "DiffusionProposal", "Look", "Proposal", "register_proposal"]

# (x (B,N,D) float64, sigma (B,)) -> E[x_0 | x_t], (B,N,D).
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Look:
    """A point of a path and what one network evaluation says of it. Proposals may subclass it to keep more.

    Attributes
    ----------
    x : torch.Tensor, shape (B, N, D)
    sigma : float
        Its noise level.
    denoised : torch.Tensor, shape (B, N, D)
        D(x, sigma), the estimate of E[x_0 | x].
    """

    x: torch.Tensor
    sigma: float
    denoised: torch.Tensor


class Proposal(ABC):
    """Proposes paths from noise towards samples.

    Parameters
    ----------
    denoise : callable
        See `Denoise`.
    mse : callable (sigma) -> float
        Mean squared error of the denoiser per coordinate of the subspace, at a noise level.
    """

    def __init__(self, denoise: Denoise, mse: Callable[[float], float]):
        self.denoise, self.mse = denoise, mse

    def look(self, x: torch.Tensor, sigma: float) -> Look:
        """Look at ``x`` (B, N, D) at noise level ``sigma``: one network evaluation a sample."""
        return Look(x, sigma, self.denoise(x, torch.full((len(x),), sigma, dtype=torch.float64)))

    @abstractmethod
    def down(self, look: Look, s: float) -> Gaussian:
        """q(x_s | x_t): from the look's level to the lower level ``s`` > 0."""

    @abstractmethod
    def up(self, look: Look, t: float) -> Gaussian:
        """The density of the point above, at level ``t``, given the look's; any normalised one keeps weights
        unbiased."""


class DiffusionProposal(Proposal):
    """Reverse steps about a x_t + (1-a) D with a = s^2 / t^2; upward the noising process itself."""

    @abstractmethod
    def variance(self, t: float, s: float) -> float:
        """Per coordinate of the subspace, of the step from ``t`` to ``s``."""

    def down(self, look: Look, s: float) -> Gaussian:
        """See `Proposal`."""
        a = s**2 / look.sigma**2
        return Isotropic(a * look.x + (1 - a) * look.denoised, self.variance(look.sigma, s))

    def up(self, look: Look, t: float) -> Gaussian:
        """N(x_s, t^2 - s^2)."""
        return Isotropic(look.x, t**2 - look.sigma**2)


PROPOSALS: Registry[type[Proposal]] = Registry("kernel")


def register_proposal(name: str) -> Callable[[type[Proposal]], type[Proposal]]:
    """Class decorator: makes a `Proposal` known to samplers under ``kernel=name``."""
    return PROPOSALS.register(name)
