"""The extension point of transition kernels: one network evaluation at a point of a path, then Gaussians down and up
from there."""

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
    "KERNELS",
    "Denoise",
    "DiffusionKernel",
    "Evaluation",
    "TransitionKernel",
    "batch_size",
    "best_kernel",
    "evaluate_in_chunks",
    "has_head",
    "joined",
    "levels",
    "methods",
    "register_kernel",
]

# Samples a network evaluation: large enough for the matrix products, small enough for the caches; on a GPU, enough to
# keep it busy.
MAX_BATCH_SIZE = {"cpu": 250, "cuda": 8192}
# For one (ND, ND) matrix for each of a batch. An elastic step takes some ten of them, a network not more.
MAX_MATRIX_BYTES = {"cpu": 2**24, "cuda": 2**29}
# (x (B,N,D) float64, sigma (B,)) -> E[x_0 | x_t], (B,N,D).
Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What one network evaluation says of a point of a path. Kernels may subclass it to keep more.

    Attributes
    ----------
    x : torch.Tensor, shape (B, N, D)
        The point.
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
        """The estimated distribution of x_0 given x: N(D, mse), or better."""
        return Isotropic(self.denoised, self.mse)


def batch_size(n_atoms: int, n_dims: int, device: str = "cpu") -> int:
    """Samples that a network best evaluates together, on a device of that type.

    By the size of the system and not by what memory there is, as random numbers are drawn for one batch after another:
    samples are the same on a large machine and on a small one. For 55 atoms 77, which take 0.2 GB, on the CPU.
    """
    return max(min(MAX_BATCH_SIZE[device], MAX_MATRIX_BYTES[device] // (8 * (n_atoms * n_dims) ** 2)), 1)


def joined(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations at one level as one, with what every `Evaluation` has; a single one stays what it is."""
    if len(evaluations) == 1:
        return evaluations[0]
    x, denoised = (torch.cat([getattr(each, name) for each in evaluations]) for name in ("x", "denoised"))
    return Evaluation(x, evaluations[0].sigma, denoised, evaluations[0].mse)


def levels(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """One noise level for each of a batch, as denoisers take it."""
    return torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)


def has_head(denoise: Any, name: str) -> bool:
    """Whether a denoiser has a head of that name."""
    return name in getattr(denoise, "heads", ())


class TransitionKernel(ABC):
    """The Gaussian steps of a path from noise towards samples.

    Attributes
    ----------
    method : str
        What a user calls methods of its kind.
    needs : str
        What a denoiser must have, for error messages; empty if any will do.
    preference : int
        Where nothing has been measured, the kernel with the highest one is taken of those that suit a denoiser.
    few_evaluations : bool
        Whether raw samples of two to six evaluations are best drawn with it.
    tuned : bool
        Whether `idem-md tune` tries it.
    nfes : tuple of int
        Numbers of evaluations for which plans are tuned, unless others are asked for; those of the first kernel of a
        method count for all of it.
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
    needs: ClassVar[str] = ""
    preference: ClassVar[int] = 0
    few_evaluations: ClassVar[bool] = False
    tuned: ClassVar[bool] = True
    nfes: ClassVar[tuple[int, ...]] = (4, 6, 8, 12, 16, 25, 50)
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

    def evaluate(self, x: torch.Tensor, sigma: float) -> Evaluation:
        """Evaluate the network at ``x`` (B, N, D) and noise level ``sigma``: once a sample."""
        return Evaluation(x, sigma, self.denoise(x, levels(x, sigma)), self.mse(sigma))

    def evaluation_of(self, x: torch.Tensor, sigma: float, denoised: torch.Tensor, features: Any) -> Evaluation:
        """The result of `evaluate` from what the network has said already, D and the features for heads."""
        return Evaluation(x, sigma, denoised, self.mse(sigma))

    def extrapolate(self, evaluation: Evaluation, s: float, generator: torch.Generator) -> Evaluation:
        """A point at the lower level ``s`` and the best guess of what an evaluation there would say.

        Raises
        ------
        UsageError
            Kernels that have to evaluate.
        """
        raise UsageError("nfe: expected at least 2, this kernel evaluates the network at the lowest level too, got 1")

    @abstractmethod
    def down(self, evaluation: Evaluation, s: float) -> Gaussian:
        """q(x_s | x_t): from the evaluation's level to the lower level ``s`` > 0."""

    @abstractmethod
    def up(self, evaluation: Evaluation, t: float) -> Gaussian:
        """The density of the point above, at level ``t``, given the evaluation's; any normalised one keeps weights
        unbiased."""


class DiffusionKernel(TransitionKernel):
    """Reverse steps about a x_t + (1-a) D with a = s^2 / t^2; upward the noising process itself."""

    @abstractmethod
    def variance(self, t: float, s: float) -> float:
        """Per coordinate of the subspace, of the step from ``t`` to ``s``."""

    @staticmethod
    def noise_variance(t: float, s: float) -> float:
        """s^2 (1-a), the variance of x_s given x_t and x_0."""
        return s**2 * (1 - s**2 / t**2)

    def down(self, evaluation: Evaluation, s: float) -> Gaussian:
        """See `TransitionKernel`."""
        a = s**2 / evaluation.sigma**2
        return Isotropic(a * evaluation.x + (1 - a) * evaluation.denoised, self.variance(evaluation.sigma, s))

    def up(self, evaluation: Evaluation, t: float) -> Gaussian:
        """N(x_s, t^2 - s^2)."""
        return Isotropic(evaluation.x, t**2 - evaluation.sigma**2)


def evaluate_in_chunks(kernel: TransitionKernel, x: torch.Tensor, sigma: float) -> Evaluation:
    """An evaluation at any number of points (n, N, D), in chunks that suit the network."""
    chunks = x.split(batch_size(x.shape[1], x.shape[2], x.device.type))
    return joined([kernel.evaluate(chunk, sigma) for chunk in chunks])


KERNELS: Registry[type[TransitionKernel]] = Registry("kernel")

KernelType = TypeVar("KernelType", bound=TransitionKernel)


def register_kernel(name: str) -> Callable[[type[KernelType]], type[KernelType]]:
    """Class decorator: makes a `TransitionKernel` known to samplers and to tuning under ``kernel=name``."""
    return KERNELS.register(name)


def methods() -> dict[str, list[str]]:
    """Names of the registered kernels by method."""
    found: dict[str, list[str]] = {}
    for name, kind in KERNELS.items():
        found.setdefault(kind.method, []).append(name)
    return found


def best_kernel(denoise: Any, method: str) -> str:
    """The kernel of a method with the highest preference of those that suit a denoiser.

    Raises
    ------
    UsageError
        None does; says what the denoiser lacks.
    """
    names = methods().get(method, [])
    able = [name for name in names if KERNELS[name].suits(denoise)]
    if not able:
        lacking = KERNELS[names[0]].needs if names else "a kernel of that method"
        raise UsageError(f"method: expected another than {method!r}, for which the checkpoint lacks {lacking}")
    return max(able, key=lambda name: KERNELS[name].preference)
