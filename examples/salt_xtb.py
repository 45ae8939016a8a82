"""A quantum-chemical potential by a few thousand calls: a cluster of salt, (NaCl)4, by GFN2-xTB at 800 K.

    pip install tblite
    python examples/salt_xtb.py [folder] [seed]           # half an hour on one core
    python examples/salt_xtb.py folder seed langevin      # and Langevin chains of ten times the calls

The cube, which has the lowest energy, competes with open shapes of more entropy. A call takes some 10 ms, a hundred
times as long as one of the twin that the sampler is trained on.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from idem_md import WeightedEnsemble
from idem_md.ase import BoltzmannSampler
from idem_md.baselines.correlation import statistical_inefficiency
from idem_md.chains import MALA, equilibrate, first_step, geometry_start
from idem_md.ensemble.estimators import Source
from idem_md.seeds import draw_seed
from idem_md.twin import Recorded

KELVIN = 800.0
# Å below which sodium and chlorine are neighbours: 2.5 in the cube, 4.3 along its diagonal.
NEIGHBOURS = 3.1
# Chains to compare with, how many times the energy calls of the samples they get, and rounds of steps.
CHAINS, TIMES, ROUNDS = 20, 10, 100


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


def langevin_chains(system, chains, calls, seed, file):
    """Metropolis-adjusted Langevin chains from the geometry, whose first half is left out: the step is tuned there. A
    configuration on which the code fails is a step that is not taken."""
    energy, generator = Recorded(system.energy(), file), torch.Generator().manual_seed(seed)
    start = geometry_start(energy, torch.tensor(system.geometry), 0.02 * system.sigma_data, chains, generator)
    steps, first = max(calls // chains // (2 * ROUNDS), 1), first_step(system.sigma_data)
    state, step = equilibrate(energy, start, first, ROUNDS, steps, lambda: draw_seed(generator), gain=1.0)
    seen = []
    for _ in range(ROUNDS):
        state, _ = MALA(step).step(energy, state, steps, draw_seed(generator))
        seen.append(state)
    x, u = (torch.cat([getattr(s, name).double() for s in seen]).numpy() for name in ("x", "u"))
    worth = len(u) / statistical_inefficiency(list(u.reshape(ROUNDS, chains).T))
    record = {"method": "langevin", "energy_calls": energy.calls}
    source = Source(len(u), min(worth, len(u)), np.nan, np.nan)
    return WeightedEnsemble(x, u, np.zeros(len(u)), system, record, "chain", source)


def summary(name, ensemble, calls, labels, shares):
    """A line on samples that have taken so many energy calls."""
    mean, error = ensemble.mean_energy
    parts = ", ".join(f"{s:.3f} ± {e:.3f}" for s, e in zip(*shares(ensemble)))
    return (
        f"{name}: {mean:.2f} ± {error:.2f} kT, {ensemble.ess:.0f} effective, {calls:,} energy calls, "
        f"{calls / ensemble.ess:.0f} an effective sample; shares of {labels}: {parts}"
    )


def main(folder="runs", seed=0, langevin=False, atoms=None, neighbours=NEIGHBOURS, **options):
    """Samples of the cluster, and those of chains; see `by_twin`."""
    labels, of_pairs = "11 to 12, 9 to 10 and up to 8 pairs", partial(shares, neighbours=neighbours)
    return by_twin("salt", atoms or salt(), KELVIN, labels, of_pairs, folder, seed, TIMES * langevin, **options)


def by_twin(name, atoms, kelvin, labels, shares, folder, seed, times, n=1000, budget=None, chains=CHAINS):
    """Train on a twin, sample, and run chains of so many ``times`` the energy calls, if any; returns the samples, and
    those of the chains."""
    start, budget = time.perf_counter(), budget or {"minutes": 15.0, "max_energy_calls": 8000}
    cache = Path(folder) / f"{name}-{seed}"
    dyn = BoltzmannSampler(atoms, kelvin, cache=cache, batch=n, seed=seed, twin=True, **budget)
    dyn.run(n)
    ours, training = dyn.ensemble, dyn.sampler.checkpoint.provenance
    calls = training["energy_calls"] + ours.provenance["energy_calls"]
    print(
        f"{training['energy_calls']:,} energy calls for the twin, {ours.provenance['energy_calls']:,} for {n} samples; "
        f"{time.perf_counter() - start:.0f} s in all"
    )
    print(summary("samples", ours, calls, labels, shares), ours.advice or "no warnings", sep="\n")
    ours.save(Path(folder) / f"{name}-{seed}.dcd")
    theirs = None
    if times:
        file = Path(folder) / f"langevin-{name}-{seed}.bin"
        theirs = langevin_chains(dyn.system, chains, times * calls, 1000 + seed, file)
        print(summary("Langevin", theirs, theirs.provenance["energy_calls"], labels, shares))
    dyn.close()
    return ours, theirs


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]), langevin=sys.argv[3:4] == ["langevin"])
