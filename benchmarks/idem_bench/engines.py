"""Do the engines agree, do their thermostats hold, and are their inefficiencies those of longer runs?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from scipy.stats import ks_2samp

from idem_md.baselines import ENGINES, reference_engine
from idem_md.checks import check_int
from idem_md.ensemble import WeightedEnsemble
from idem_md.provenance import finite_or_none
from idem_md.systems import System, get_system

__all__ = ["measure_engines"]

# The same run that many times as long tells how well the short one knew itself.
LONGER = 10


def _run(name: str, system: System, n: int, steps: int | None, seed: int, workers: int) -> WeightedEnsemble:
    engine = ENGINES.find(name)
    engine = engine.configured(workers=workers) if engine.takes_workers else engine
    return engine.run(system, n, steps, seed)


def measure_engines(
    system: str | System,
    engines: Sequence[str] = ("mala", "pt", "openmm", "ase"),
    n: int = 2000,
    steps: int | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """One row an engine.

    Parameters
    ----------
    system : str or System
    engines : sequence of str
    n : int
        Samples of each.
    steps : int, optional
        A chain; by default those of the engine.
    workers : int
        Chains of engines that run several.
    seed : int

    Yields
    ------
    dict
        engine, n, ess, steps, mean_energy and its error, z against the exact mean if it is known, ks_p (Kolmogorov and
        Smirnov's test of the energies of every n/ess-th sample against 10,000 of a reference), seconds,
        energy_calls; of chains kinetic_temperature, inefficiency in steps, and that of a run ten times as long.
    """
    n, seed = check_int("n", n, 10), check_int("seed", seed, 0, 2**31 - 2)
    target = get_system(system)
    reference = reference_engine(target).run(target, 10_000, seed=seed + 1)
    for name in engines:
        e = _run(name, target, n, steps, seed, workers)
        (mean, error), p, exact = e.mean_energy, e.provenance, target.exact_mean_energy
        row = {
            "bench": "engines",
            "system": target.name,
            "engine": name,
            "n": len(e),
            "ess": e.ess,
            "steps": p.get("steps"),
            "mean_energy": mean,
            "mean_energy_err": finite_or_none(error),
            "z": None if exact is None else finite_or_none((mean - exact[0]) / math.hypot(error, exact[1])),
            "ks_p": float(ks_2samp(e.energies[:: math.ceil(len(e) / e.ess)], reference.energies).pvalue),
            "seconds": p["seconds"],
            "energy_calls": p["energy_calls"],
            "hardware": p["hardware"],
        }
        if e.kind == "chain" and "inefficiency" in p:
            # With as many frames more, as an inefficiency is no less than what lies between two.
            longer = _run(name, target, LONGER * n, LONGER * p["steps"], seed + 1, workers).provenance
            row |= {
                "kinetic_temperature": p["kinetic_temperature"],
                "inefficiency": p["inefficiency"],
                "longer_kinetic_temperature": longer["kinetic_temperature"],
                "longer_inefficiency": longer["inefficiency"],
            }
        yield row
