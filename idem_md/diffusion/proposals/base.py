"""The seam of proposals: one look at a point of a path, then Gaussians down and up from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch

from ...errors import UsageError
from ...registry import Registry
from ..gaussians import Gaussian, Isotropic

__all__ = [
    "PROPOSALS",
    "Denoise",
    "DiffusionProposal",
    "Look",
    "Proposal",
    "batch_size",
    "joined",
    "levels",
    "look_in_chunks",
    "register_proposal",
]

# Samples a network evaluation: large enough for the matrix products, small enough for the caches; on a GPU, enough to
# keep it busy.
MOST = {"cpu": 250, "cuda": 8192}
# Bytes of one (ND, ND) matrix for each of a batch. An elastic step takes some ten of them, a network not more.
MATRICES = {"cpu": 2**24, "cuda": 2**29}
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
    mse : float
        Mean squared error of the denoiser per coordinate of the subspace at this level.
    """

    x: torch.Tensor
    sigma: float
    denoised: torch.Tensor
    mse: float

    def posterior(self) -> Gaussian:
        """What the look makes of x_0 given x: N(D, mse), or better."""
        return Isotropic(self.denoised, self.mse)


def batch_size(n_atoms: int, n_dims: int, device: str = "cpu") -> int:
    """Samples that a network best looks at together, on a device of that type.

    By the size of the system and not by what memory there is, as random numbers are drawn for one batch after another:
    samples are the same on a large machine and on a small one. For 55 atoms 77, which take 0.2 GB, on the CPU.
    """
    return max(min(MOST[device], MATRICES[device] // (8 * (n_atoms * n_dims) ** 2)), 1)


def joined(looks: Sequence[Look]) -> Look:
    """Looks at one level as one, of what every look has; a single one stays what it is."""
    if len(looks) == 1:
        return looks[0]
    x, denoised = (torch.cat([getattr(look, name) for look in looks]) for name in ("x", "denoised"))
    return Look(x, looks[0].sigma, denoised, looks[0].mse)


def levels(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """One noise level for each of a batch, as denoisers take it."""
    return torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)


class Proposal(ABC):
    """Proposes paths from noise towards samples.

    Attributes
    ----------
    method : str
        What a user calls methods of its kind.
    densities : tuple
        Of noise levels, see `noise_grid`: those that are tried when plans are tuned.

    Parameters
    ----------
    denoise : callable
        See `Denoise`.
    mse : callable (sigma) -> float
        Mean squared error of the denoiser per coordinate of the subspace, at a noise level.
    """

    method: ClassVar[str] = "diffusion"
    densities: ClassVar[tuple[tuple[float, ...] | None, ...]] = (None,)

    @classmethod
    def suits(cls, denoise: Any) -> bool:
        """Whether a denoiser has what the kernel takes."""
        return True

    @classmethod
    def fitted(
        cls,
        denoise: Any,
        mse: Callable[[float], float],
        levels: Sequence[float],
        x_0: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        """Options of the kernel that suit such descending levels, found on samples ``x_0`` (n, N, D); by default
        none."""
        return {}

    def __init__(self, denoise: Denoise, mse: Callable[[float], float]):
        self.denoise, self.mse = denoise, mse

    def look(self, x: torch.Tensor, sigma: float) -> Look:
        """Look at ``x`` (B, N, D) at noise level ``sigma``: one network evaluation a sample."""
        return Look(x, sigma, self.denoise(x, levels(x, sigma)), self.mse(sigma))

    def leap(self, look: Look, s: float, generator: torch.Generator) -> Look:
        """What a look at a point below would see, without one; for raw samples by a single evaluation.

        Raises
        ------
        UsageError
            Proposals that have to look.
        """
        raise UsageError("nfe: expected at least 2, this kernel has to look at the lowest level too, got 1")

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


def look_in_chunks(proposal: Proposal, x: torch.Tensor, sigma: float) -> Look:
    """A look at any number of points (n, N, D), in chunks that suit the network."""
    return joined([proposal.look(chunk, sigma) for chunk in x.split(batch_size(x.shape[1], x.shape[2], x.device.type))])


PROPOSALS: Registry[type[Proposal]] = Registry("kernel")

ProposalType = TypeVar("ProposalType", bound=Proposal)


def register_proposal(name: str) -> Callable[[type[ProposalType]], type[ProposalType]]:
    """Class decorator: makes a `Proposal` known to samplers under ``kernel=name``."""
    return PROPOSALS.register(name)
