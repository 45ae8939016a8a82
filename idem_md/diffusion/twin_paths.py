"""Paths by a cheap energy, of which a few compete for each sample; the potential itself is called once a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..checks import check_int
from ..energies import Energy
from .last_step import choose, energies_where_finite
from .paths import Paths, PathSampler

__all__ = ["TwinPaths"]

# Paths that are drawn at a time: those that are interrupted are lost, and a twin is a fourth slower by 64 than by 250.
BLOCK = 250


@dataclass(frozen=True)
class TwinPaths:
    """Paths whose last step calls a cheap energy u_c in the place of u; it pickles.

    For each sample M paths are drawn, with weights w_m that are proper for exp(-u_c); one is kept, with a probability
    in proportion to its weight, and

    log w = log mean_m w_m + u_c(x_0) - u(x_0)

    so that E[w] = Z whatever u_c and M are (importance sampling on the extended space of all M paths; Andrieu, Doucet
    and Holenstein, J. R. Stat. Soc. B 72, 269, 2010). The larger M, the more of the samples, and of the calls of u,
    are effective.

    Attributes
    ----------
    paths : PathSampler
    cheap : Energy
        Of the same atoms, at the same temperature, such as a `energies.Twin`; counts its own calls.
    candidate_paths : int
        M.
    record : Energy, optional
        Called in the place of the potential, such as a `twin.Recorded` of it; the potential counts the calls.
    """

    paths: PathSampler
    cheap: Energy
    candidate_paths: int = 1
    record: Energy | None = None

    def __post_init__(self):
        check_int("candidate_paths", self.candidate_paths, 1)

    @property
    def cheap_calls(self) -> int:
        """Calls of the cheap energy so far."""
        return self.cheap.calls

    def block(self, energy: Energy) -> int:
        """How many samples are best finished at a time."""
        return max(min(self.paths.block(self.cheap), BLOCK) // self.candidate_paths, 1)

    def sample(self, energies: Sequence[Energy], n: int, generator: torch.Generator) -> list[Paths]:
        """Draw ``n`` weighted samples of each of several potentials, see `PathSampler.sample`."""
        m = self.candidate_paths
        (drawn,) = self.paths.sample([self.cheap], n * m, generator)
        chosen, log_mean = choose(drawn.log_weights.reshape(n, m), generator)
        rows = torch.arange(n) * m + chosen
        return [self._real(energy, drawn, rows, log_mean) for energy in energies]

    def raw(self, energy: Energy, n: int, generator: torch.Generator) -> Paths:
        """Draw ``n`` end points of the same paths, without weights."""
        return self._weightless(energy, self.paths.raw(self.cheap, n, generator))

    def raw_by_one_evaluation(self, energy: Energy, n: int, generator: torch.Generator) -> Paths:
        """Draw ``n`` end points, without weights, see `PathSampler.raw_by_one_evaluation`."""
        return self._weightless(energy, self.paths.raw_by_one_evaluation(self.cheap, n, generator))

    def forward(self, energy: Energy, x_0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Log weights (n,) of paths that go up from samples of the system, see `PathSampler.forward`: each is one of M,
        and the others are drawn."""
        n, m = len(x_0), self.candidate_paths
        log_w = self.paths.forward(self.cheap, x_0, generator)[:, None].cpu()
        if m > 1:
            (others,) = self.paths.sample([self.cheap], n * (m - 1), generator)
            log_w = torch.cat([log_w, others.log_weights.reshape(n, m - 1)], 1)
        x_0 = x_0.cpu()
        gap = energies_where_finite(self.cheap, x_0) - energies_where_finite(energy, x_0)
        return torch.logsumexp(log_w, 1) - math.log(m) + gap

    def _real(self, energy: Energy, drawn: Paths, rows: torch.Tensor, log_w: torch.Tensor) -> Paths:
        """The chosen ``rows`` of paths by the cheap energy, with log mean weights (n,), on the potential."""
        x, u_c, alive = drawn.positions[rows], drawn.energies[rows], torch.isfinite(log_w)
        u = torch.full_like(u_c, torch.inf)
        u[alive] = self._asked(energy, x[alive]).to(u)  # the others have no weight whatever they cost
        log_w = torch.where(torch.isfinite(u), log_w + u_c - u, -torch.inf)
        return Paths(x, u, log_w, drawn.nfe, int((~torch.isfinite(x)).flatten(1).any(1).sum()))

    def _asked(self, energy: Energy, x: torch.Tensor) -> torch.Tensor:
        """Energies (n,) of the potential."""
        if self.record is None:
            return energies_where_finite(energy, x)
        energy.calls += int(torch.isfinite(x).flatten(1).all(1).sum())
        return energies_where_finite(self.record, x)

    def _weightless(self, energy: Energy, drawn: Paths) -> Paths:
        """Paths without weights on the potential."""
        alive, u = torch.isfinite(drawn.log_weights), torch.full_like(drawn.energies, torch.inf)
        u[alive] = self._asked(energy, drawn.positions[alive]).to(u)
        log_w = torch.where(torch.isfinite(u), 0.0, -torch.inf).to(u)
        return Paths(drawn.positions, u, log_w, drawn.nfe, drawn.failed)
