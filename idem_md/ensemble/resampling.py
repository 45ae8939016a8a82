"""New ensembles from old ones: resampling, and Markov chains that go on from the samples."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from ..checks import check_float, check_int
from ..errors import ResultError
from ..provenance import Provenance
from ..systematic import systematic_indices
from ..torch_state import own_torch
from .estimators import Source
from .samples import Fields, Samples

__all__ = ["check_refinement", "refine", "resample"]

# Rounds of a third of the steps in which `refine` tunes its step.
ROUNDS = 10


def _without_twin_error(record: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without what it says of the weights of other samples."""
    return {key: value for key, value in record.items() if key != "twin_error"}


def resample(ensemble: Samples, n: int | None, seed: int) -> Fields:
    """See `WeightedEnsemble.resample`."""
    if ensemble.kind == "raw":
        raise ResultError("kind: expected samples with weights, raw ones have none to resample by")
    n = check_int("n", len(ensemble) if n is None else n, 1)
    seed = check_int("seed", seed, 0)
    index = systematic_indices(ensemble.weights, n, np.random.default_rng(seed).random())
    source = ensemble.source or Source(len(ensemble), ensemble.ess, ensemble.log_z, ensemble.log_z_err)
    log_z = 0.0 if math.isnan(source.log_z) else source.log_z
    return Fields(
        ensemble.positions[index],
        ensemble.energies[index],
        np.full(n, log_z),
        ensemble.system,
        cast(Provenance, {**_without_twin_error(ensemble.provenance), "resample_seed": seed}),
        "resampled",
        source,
    )


def check_refinement(n_steps: int, seed: int, step: float | None) -> None:
    """Raise `UsageError` for arguments of `refine` that are out of range."""
    check_int("n_steps", n_steps, 1)
    check_int("seed", seed, 0, 2**32 - 1)
    if step is not None:
        check_float("step", step, above=0.0)


@own_torch
def refine(source: Samples, n_steps: int, seed: int, step: float | None, resampled: bool) -> Fields:
    """See `WeightedEnsemble.refine`; ``resampled`` if that is what the samples are, which then keep their source.

    Arguments are those that `check_refinement` has seen.
    """
    import torch

    from ..chains import MALA, equilibrate, finite_start, first_step, relax

    n_steps, seed = int(n_steps), int(seed)
    system = source.system
    step = first_step(system.sigma_data) if step is None else float(step)
    start = time.perf_counter()
    alive = torch.from_numpy(np.isfinite(source.energies))
    if not bool(alive.any()):
        raise ResultError("energies: expected at least one finite one to start from, got none")
    energy = system.energy()
    # Exploded samples have forces that no Langevin step can follow: back among the others first.
    u = torch.tensor(source.energies)[alive]
    ceiling = float(u.median()) + 10 * max(float(u.median() - u.quantile(0.1)), 1.0)
    state = finite_start(energy, relax(energy, torch.tensor(source.positions)[alive], 200, ceiling).float())
    seeds = map(int, np.random.SeedSequence(seed).generate_state(ROUNDS + 1))
    rounds, tuning = (ROUNDS, n_steps // (3 * ROUNDS)) if n_steps >= 3 * ROUNDS else (0, 0)
    state, step = equilibrate(energy, state, step, rounds, tuning, lambda: next(seeds), gain=1.0)
    state, run = MALA(step).step(energy, state, n_steps - rounds * tuning, next(seeds))
    acceptance = float(run.acceptance.mean())
    if rounds and not 0.1 < acceptance < 0.97:
        raise ResultError(
            f"step: no Langevin step was found that suits the energy, the acceptance is {acceptance:.3f} after tuning; "
            "pass step, or more n_steps to tune it"
        )
    positions = state.x.double()
    energies, _ = energy(positions)
    before = _without_twin_error(source.provenance)
    record: dict[str, Any] = {
        **before,
        "refined": {"steps": n_steps, "seed": seed, "step": step, "acceptance": acceptance},
        "energy_calls": before.get("energy_calls", 0) + energy.calls,
        "seconds": before.get("seconds", 0.0) + time.perf_counter() - start,
    }
    n = len(energies)
    log_weights = np.full(n, source.log_weights[0]) if resampled else np.zeros(n)
    kind, origin = ("resampled", source.source) if resampled else ("equilibrium", None)
    return Fields(positions.numpy(), energies.numpy(), log_weights, system, cast(Provenance, record), kind, origin)
