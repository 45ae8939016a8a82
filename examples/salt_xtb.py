"""A quantum-chemical potential by a few thousand calls: a cluster of salt, (NaCl)4, by GFN2-xTB at 800 K.

    pip install tblite
    python examples/salt_xtb.py [folder] [seed]           # half an hour on one core
    python examples/salt_xtb.py folder seed langevin      # and Langevin chains of ten times the calls, another half

The cube, which has the lowest energy, competes with open shapes of more entropy. A call takes 15 ms, a hundred times
as long as one of the twin that the sampler is trained on.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms

from idem_md.ase import BoltzmannSampler
from idem_md.baselines import ENGINES

KELVIN = 800.0
# Å below which sodium and chlorine are neighbours: 2.5 in the cube, 4.3 along its diagonal.
NEIGHBOURS = 3.1
# Chains to compare with, and how many times the energy calls of the samples they get.
CHAINS, TIMES = 20, 10


def salt():
    """(NaCl)4, a cube."""
    from tblite.ase import TBLite

    corners = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    return Atoms("Na4Cl4", 2.5 * corners, calculator=TBLite(method="GFN2-xTB", verbosity=0))


def shares(ensemble, neighbours):
    """Shares of configurations by pairs of neighbours, at least 11 as in the cube, 9 or 10, and at most 8 as in a ring,
    with standard errors."""
    system = ensemble.system
    first = np.array([element == system.elements[0] for element in system.elements])

    def by_pairs(x):
        y = x * system.units.length_angstrom
        r = np.linalg.norm(y[:, first][:, :, None] - y[:, ~first][:, None], axis=-1)
        pairs = (r < neighbours).sum((1, 2))
        return np.stack([pairs >= 11, (pairs == 9) | (pairs == 10), pairs <= 8], 1).astype(float)

    return ensemble.expectation(by_pairs)


def told(name, ensemble, calls, neighbours):
    """A line on samples that have taken so many energy calls."""
    mean, error = ensemble.mean_energy
    parts = ", ".join(f"{s:.3f} ± {e:.3f}" for s, e in zip(*shares(ensemble, neighbours)))
    return (
        f"{name}: {mean:.2f} ± {error:.2f} kT, {ensemble.ess:.0f} effective, {calls:,} energy calls, "
        f"{calls / ensemble.ess:.0f} an effective sample; shares of 11 to 12, 9 to 10 and up to 8 pairs: {parts}"
    )


def main(folder="runs", seed=0, langevin=False, atoms=None, n=1000, budget=None, neighbours=NEIGHBOURS, chains=CHAINS):
    """Train on a twin, sample, and run chains; returns the samples, and those of the chains."""
    start, budget = time.perf_counter(), budget or {"minutes": 15.0, "max_energy_calls": 8000}
    cache = Path(folder) / f"salt-{seed}"
    dyn = BoltzmannSampler(atoms or salt(), KELVIN, cache=cache, batch=n, seed=seed, twin=True, **budget)
    dyn.run(n)
    ours, training = dyn.ensemble, dyn.sampler.checkpoint.provenance
    calls = training["energy_calls"] + ours.provenance["energy_calls"]
    print(
        f"{training['energy_calls']:,} energy calls for the twin, {ours.provenance['energy_calls']:,} for {n} samples; "
        f"{time.perf_counter() - start:.0f} s in all"
    )
    print(told("samples", ours, calls, neighbours), ours.advice or "nothing to beware of", sep="\n")
    ours.save(Path(folder) / f"salt-{seed}.dcd")
    theirs = None
    if langevin:
        engine = ENGINES["mala"]
        theirs = engine.run(dyn.system, chains, energy_calls=TIMES * calls, seed=1000 + seed)
        print(told("Langevin", theirs, theirs.provenance["energy_calls"], neighbours))
    dyn.close()
    return ours, theirs


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]), langevin=sys.argv[3:4] == ["langevin"])
