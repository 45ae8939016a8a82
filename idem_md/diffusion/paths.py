"""Weighted paths, the one place where a path weight is computed: every average is unbiased whatever the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..energies import Energy
from ..geometry import standard_normal
from .gaussians import Isotropic
from .kernels import Evaluation, TransitionKernel, batch_size, evaluate_in_chunks, joined
from .last_step import LastStep, LastStepResult

__all__ = ["PathSampler", "Paths"]

# Called with the log weights of the samples finished since the last call.
Progress = Callable[[torch.Tensor], None]


def _silent(_: torch.Tensor) -> None:
    """A `Progress` that says nothing."""


@dataclass(frozen=True)
class Paths:
    """End points of weighted paths.

    Attributes
    ----------
    positions : torch.Tensor, shape (n, N, D), float64
        NaN where a path failed.
    energies : torch.Tensor, shape (n,), float64
        +inf for overlaps and failed paths.
    log_weights : torch.Tensor, shape (n,), float64
        E[exp(log_weights)] = Z, or 0 if weights are not wanted; -inf where a path failed.
    nfe, failed : int
        Network evaluations a sample, and paths that left the real numbers.
    """

    positions: torch.Tensor
    energies: torch.Tensor
    log_weights: torch.Tensor
    nfe: int
    failed: int


@dataclass(frozen=True)
class PathSampler:
    """Paths from noise to samples; it pickles.

    x_N ~ N(0, sigma_N^2 + sigma_data^2), Gaussian steps q(x_s | x_t) down to sigma_1, and a last step to x_0:

    log w = -u(x_0) + log_ratio + sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t)

    so that E[w] = Z for any denoiser (annealed importance sampling on path space; Doucet et al., NeurIPS 2022).

    Attributes
    ----------
    kernel : TransitionKernel
        Steps between levels, from one evaluation at each point.
    last_step : LastStep
        Contributes x_0, u and log_ratio.
    levels : tuple of float
        Descending noise levels, one evaluation at each.
    sigma_data : float
    device : torch.device or str
        Where the denoiser is. Random numbers are those of a generator on the CPU, and results come back to the CPU.
    """

    kernel: TransitionKernel
    last_step: LastStep
    levels: tuple[float, ...]
    sigma_data: float
    device: torch.device | str = "cpu"

    def __post_init__(self):
        object.__setattr__(self, "levels", tuple(float(s) for s in self.levels))

    @property
    def cheap_calls(self) -> int:
        """Calls of an energy in the place of the system's: none, see `TwinPaths`."""
        return 0

    def block(self, energy: Energy) -> int:
        """How many paths are best finished at a time."""
        return self.last_step.block(energy, torch.device(self.device).type)

    @torch.no_grad()
    def sample(
        self, energies: Sequence[Energy], n: int, generator: torch.Generator, progress: Progress = _silent
    ) -> list[Paths]:
        """Draw ``n`` weighted samples of each of several potentials, from the same paths.

        Parameters
        ----------
        energies : sequence of Energy
            Of the same atoms; the samples of different ones are not independent.
        n : int
        generator : torch.Generator
        progress : callable (log weights), optional
            Called with the log weights of the samples finished since the last call, those of the first potential.
        """
        parts: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in energies]
        for starts in self._starts(energies[0], n):
            evaluations, weights = [], []
            for start in starts:
                x = start.sample(generator)
                log_w = -start.log_density(x)
                evaluation = self.kernel.evaluate(x, self.levels[0])
                for t, s in zip(self.levels, self.levels[1:]):
                    down = self.kernel.down(evaluation, s)
                    y = down.sample(generator)
                    evaluation = self.kernel.evaluate(y, s)
                    log_w += self.kernel.up(evaluation, t).log_density(x) - down.log_density(y)
                    x = y
                evaluations.append(evaluation)
                weights.append(log_w)
            evaluation, above = joined(evaluations), torch.cat(weights)
            for energy, done in zip(energies, parts):
                end = self.last_step.finish(energy, evaluation, generator)
                log_w = above + end.log_ratio
                ok = torch.isfinite(end.x).flatten(1).all(1) & torch.isfinite(log_w)
                u = torch.where(ok, end.u, torch.inf)
                x = torch.where(ok[:, None, None], end.x, torch.nan)
                done.append(tuple(a.cpu() for a in (x, u, torch.where(ok, log_w - u, -torch.inf), ok)))
            progress(parts[0][-1][2])
        return [_paths(done, len(self.levels)) for done in parts]

    @torch.no_grad()
    def raw(self, energy: Energy, n: int, generator: torch.Generator, progress: Progress = _silent) -> Paths:
        """Draw ``n`` end points of the same paths, without weights: no step is evaluated from below."""

        def descend(start: Isotropic) -> Evaluation:
            evaluation = self.kernel.evaluate(start.sample(generator), self.levels[0])
            for s in self.levels[1:]:
                evaluation = self.kernel.evaluate(self.kernel.down(evaluation, s).sample(generator), s)
            return evaluation

        return self._raw(energy, n, generator, progress, descend, len(self.levels))

    @torch.no_grad()
    def raw_by_one_evaluation(
        self, energy: Energy, n: int, generator: torch.Generator, progress: Progress = _silent
    ) -> Paths:
        """Draw ``n`` end points, without weights, by one evaluation each at the highest level; the kernel extrapolates
        to the lowest one.

        Raises
        ------
        UsageError
            A kernel that has to evaluate the network there.
        """

        def extrapolate(start: Isotropic) -> Evaluation:
            evaluation = self.kernel.evaluate(start.sample(generator), self.levels[0])
            return self.kernel.extrapolate(evaluation, self.levels[-1], generator)

        return self._raw(energy, n, generator, progress, extrapolate, 1)

    @torch.no_grad()
    def forward(self, energy: Energy, x_0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Log weights (n,) of paths that go up from samples of the system: what those of `sample` should look like.

        Samples that are in equilibrium see every mode. With their weights 1 / (mean(w) mean(1/w)) is the share of
        effective samples, modes that sampling misses included; mean(1/w) is 1/Z, and mean(log w) no less than log Z.

        Parameters
        ----------
        energy : Energy
        x_0 : torch.Tensor, shape (n, N, D), float64
        generator : torch.Generator
        """
        lowest = self.levels[-1]
        x = x_0 + lowest * standard_normal(x_0.shape, generator, device=x_0.device)
        above = self.forward_above(x, generator)
        parts = []
        block = self.last_step.block(energy, x.device.type)
        for start, end in zip(x.split(block), x_0.split(block)):
            evaluation = evaluate_in_chunks(self.kernel, start, lowest)
            parts.append(self.last_step.retrace(energy, evaluation, end, generator))
        return above + torch.cat(parts)

    @torch.no_grad()
    def forward_above(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The part of `forward` above the lowest level, shape (n,), from points ``x`` (n, N, D) there.

        sum log up(x_t | x_s) - log q(x_N) - sum log q(x_s | x_t).
        """
        upward = self.levels[::-1]
        parts = []
        for start in x.split(batch_size(x.shape[1], x.shape[2], x.device.type)):
            evaluation = self.kernel.evaluate(start, upward[0])
            log_w = start.new_zeros(len(start))
            for s, t in zip(upward, upward[1:]):
                up = self.kernel.up(evaluation, t)
                y = up.sample(generator)
                above = self.kernel.evaluate(y, t)
                log_w += up.log_density(y) - self.kernel.down(above, s).log_density(evaluation.x)
                evaluation = above
            top = Isotropic(torch.zeros_like(evaluation.x), upward[-1] ** 2 + self.sigma_data**2)
            parts.append(log_w - top.log_density(evaluation.x))
        return torch.cat(parts)

    def _starts(self, energy: Energy, n: int) -> Iterator[list[Isotropic]]:
        """Distributions of the starting points of ``n`` paths: as many at a time as the last step takes, and of those
        as many together as the network evaluates."""
        variance = self.levels[0] ** 2 + self.sigma_data**2
        block, batch = self.block(energy), batch_size(energy.n_atoms, energy.n_dims, torch.device(self.device).type)
        for first in range(0, n, block):
            size = min(block, n - first)
            shapes = [(min(batch, size - k), energy.n_atoms, energy.n_dims) for k in range(0, size, batch)]
            zeros = (torch.zeros(shape, dtype=torch.float64, device=self.device) for shape in shapes)
            yield [Isotropic(mean, variance) for mean in zeros]

    def _raw(
        self,
        energy: Energy,
        n: int,
        generator: torch.Generator,
        progress: Progress,
        descend: Callable[[Isotropic], Evaluation],
        nfe: int,
    ) -> Paths:
        """End points without weights; ``descend`` goes from the start of paths to the lowest level."""
        parts: list[tuple[torch.Tensor, ...]] = []
        for starts in self._starts(energy, n):
            evaluation = joined([descend(start) for start in starts])
            end: LastStepResult = self.last_step.finish(energy, evaluation, generator)
            ok = torch.isfinite(end.x).flatten(1).all(1) & ~torch.isnan(end.u)
            u = torch.where(ok, end.u, torch.inf)
            x, weightless = torch.where(ok[:, None, None], end.x, torch.nan), torch.zeros_like(u)
            parts.append(tuple(a.cpu() for a in (x, u, torch.where(torch.isfinite(u), weightless, -torch.inf), ok)))
            progress(parts[-1][2])
        return _paths(parts, nfe)


def _paths(parts: Sequence[tuple[torch.Tensor, ...]], nfe: int) -> Paths:
    """Blocks of positions, energies, log weights and successes, put together."""
    x, u, log_w, ok = (torch.cat(column) for column in zip(*parts))
    return Paths(x, u, log_w, nfe, int((~ok).sum()))
