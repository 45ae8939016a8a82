"""Lennard-Jones clusters: the native op and, beside it, the same formula in plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .. import native
from ..checks import check_float, check_int
from ..errors import UsageError
from .base import Energy
from .capabilities import AnnealRun, ChainRun, DemScores, TemperingRun

__all__ = ["LennardJones", "lennard_jones_reference"]

# The native ops' threshold on (r/r_m)^2 below which the energy is +inf (see src/lennard_jones.hpp).
OVERLAP = 1e-5


class LennardJones(Energy):
    """Lennard-Jones cluster of one or two species in a weak harmonic trap about its centroid.

    u = sum_{i<j} epsilon [(r_m/r_ij)^12 - 2 (r_m/r_ij)^6] + trap/2 * sum_i |x_i - mean(x)|^2, with epsilon and r_m
    those of the pair's species.

    ============ ===============================================
    symbol       argument
    ============ ===============================================
    epsilon      ``epsilon``, well depth in kT
    r_m          ``r_min``, distance of the minimum
    trap         ``trap``, stiffness in kT / length^2
    ============ ===============================================

    The literature's LJ-13 and LJ-55 sampling benchmarks are epsilon=2, r_min=1, trap=1 (Köhler, Klein & Noé,
    ICML 2020, whose double sum counts every pair twice).

    Parameters
    ----------
    n_atoms : int
        2 to 1000.
    epsilon, r_min : float or 2 x 2 symmetric nested sequence
        One number, or with ``species`` a matrix over them.
    trap : float
        May be 0 for a bare energy; such a cluster evaporates and cannot be sampled.
    n_dims : int
        2 or 3.
    species : sequence of 0 and 1, length ``n_atoms``, optional

    Raises
    ------
    UsageError
        A parameter out of range.
    """

    users_code = False

    def __init__(self, n_atoms: int, epsilon=1.0, r_min=1.0, trap: float = 1.0, n_dims: int = 3, species=None):
        super().__init__(check_int("n_atoms", n_atoms, 2, 1000), check_int("n_dims", n_dims, 2, 3))
        if species is not None and not isinstance(species, Iterable):
            raise UsageError(f"species: expected a sequence of 0 and 1, got {species!r}")
        self.species = None if species is None else tuple(check_int("species", s, 0, 1) for s in species)
        if self.species is not None and len(self.species) != n_atoms:
            raise UsageError(f"species: expected one for each of {n_atoms} atoms, got {len(self.species)}")
        self.epsilon = self._by_species("epsilon", epsilon)
        self.r_min = self._by_species("r_min", r_min)
        self.trap = check_float("trap", trap, minimum=0.0)
        flat = lambda a: [a] if self.species is None else [v for row in a for v in row]  # noqa: E731
        self._op: dict[str, Any] = {
            "epsilon": flat(self.epsilon),
            "r_min": flat(self.r_min),
            "trap": self.trap,
            "species": None if self.species is None else torch.tensor(self.species, dtype=torch.uint8, device="cpu"),
        }

    def _by_species(self, name: str, value):
        if self.species is None:
            return check_float(name, value, above=0.0)
        try:
            (a, b), (c, d) = value
        except (TypeError, ValueError):
            raise UsageError(f"{name}: expected a 2 x 2 matrix over the species, got {value!r}") from None
        rows = [[check_float(name, v, above=0.0) for v in row] for row in ((a, b), (c, d))]
        if rows[0][1] != rows[1][0]:
            raise UsageError(f"{name}: expected a symmetric matrix, got {rows}")
        return rows

    @property
    def parameters(self) -> dict:
        """The constructor's epsilon, r_min, trap and, where there are two, species."""
        return {
            "epsilon": self.epsilon,
            "r_min": self.r_min,
            "trap": self.trap,
            **({} if self.species is None else {"species": list(self.species)}),
        }

    def scaled(self, factor: float) -> LennardJones:
        """``factor`` times this energy: as at 1/``factor`` times the temperature, the trap included."""

        def times(value):
            return [[factor * v for v in row] for row in value] if isinstance(value, list) else factor * value

        return LennardJones(
            self.n_atoms, times(self.epsilon), self.r_min, factor * self.trap, self.n_dims, self.species
        )

    @property
    def flop(self) -> int:
        """Floating-point operations of one energy with forces; see `native.count_flop`."""
        return native.count_flop(self.n_atoms, self.n_dims, **self._op)

    def evaluate(self, x):
        """See `Energy.evaluate`; runs the native op in the dtype of ``x``."""
        return native.lj_energy_forces(x, **self._op)

    def native_mala(self, x, step, beta, n_steps, seed, centre, stiffness, averages) -> ChainRun:
        """Metropolis-adjusted Langevin chains run wholly in native code; see `chains.run_mala` and `native.lj_mala`.

        A chain that starts at an infinite energy moves only if an op happens to give a finite one.
        """
        return ChainRun(
            *native.lj_mala(
                x, step, beta, n_steps, seed, centre=centre, stiffness=stiffness, averages=averages, **self._op
            )
        )

    def native_tempering(self, x, step, beta, n_rounds, n_steps, seed) -> TemperingRun:
        """Replica exchange run wholly in native code; see `chains.run_tempering` and `native.lj_tempering`."""
        return TemperingRun(*native.lj_tempering(x, step, beta, n_rounds, n_steps, seed, **self._op))

    def native_anneal(self, mean, x_t, ends, beta, step, n_moves, n_leapfrogs, seed, start, trace) -> AnnealRun:
        """Annealed importance sampling run wholly in native code; see `chains.run_annealing` and `native.lj_anneal`."""
        return AnnealRun(
            *native.lj_anneal(
                mean,
                x_t,
                ends,
                beta,
                step,
                n_moves,
                seed,
                start=start,
                trace=trace,
                n_leapfrogs=n_leapfrogs,
                **self._op,
            )
        )

    def native_dem_scores(self, x, sigma, n_samples, seed) -> DemScores:
        """Importance-sampled scores, fused and streamed; see `targets.dem_scores` and `native.lj_dem_scores`."""
        return DemScores(*native.lj_dem_scores(x, sigma, n_samples, seed, **self._op))


def lennard_jones_reference(
    x: torch.Tensor, epsilon, r_min, trap: float, species=None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`LennardJones` in plain torch, forces by the closed form: the reference that native ops are tested against."""
    b, n, _ = x.shape
    if species is not None:
        kind = torch.as_tensor(species, dtype=torch.int64, device=x.device)
        epsilon, r_min = (torch.as_tensor(a, dtype=x.dtype, device=x.device)[kind][:, kind] for a in (epsilon, r_min))
    dx = x[:, :, None] - x[:, None]
    s2 = (dx**2).sum(-1) / r_min**2
    self_pair = torch.eye(n, dtype=torch.bool, device=x.device)
    overlap = ((s2 < OVERLAP) & ~self_pair).flatten(1).any(1)
    inv6 = s2.clamp(min=OVERLAP).masked_fill(self_pair, torch.inf) ** -3
    y = x - x.mean(1, keepdim=True)
    u = 0.5 * (epsilon * inv6 * (inv6 - 2)).sum((1, 2)) + 0.5 * trap * (y**2).sum((1, 2))
    g = 12 * epsilon / r_min**2 * inv6 * (inv6 - 1) / s2.clamp(min=OVERLAP)
    f = (g[..., None] * dx).sum(2) - trap * y
    return u.masked_fill(overlap, torch.inf), f
