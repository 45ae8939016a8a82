"""A molecule by quantum chemistry: the conformers of ethanol by GFN2-xTB at 300 K, from a few thousand energy calls.

    pip install tblite
    python examples/ethanol_xtb.py [folder] [seed]           # half an hour on one core
    python examples/ethanol_xtb.py folder seed langevin      # and Langevin chains of as many calls

Seen along the bond from oxygen to carbon, the hydrogen of the hydroxyl group is anti to the methyl group or gauche, on
the one side or the other.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.optimize import BFGS
from salt_xtb import langevin_chains

from idem_md.analysis import departures
from idem_md.ase import BoltzmannSampler
from idem_md.energies import Topology
from idem_md.systems import torsions

KELVIN, CHAINS = 300.0, 20


def ethanol():
    """Relaxed by the potential."""
    from tblite.ase import TBLite

    atoms = molecule("CH3CH2OH", calculator=TBLite(method="GFN2-xTB", verbosity=0))
    BFGS(atoms, logfile=None).run(fmax=0.01)
    return atoms


def hydroxyl(atoms):
    """The four atoms H, O, C, C of the torsion of the hydroxyl group."""
    near, symbols = Topology.of_atoms(atoms).neighbours(), atoms.get_chemical_symbols()
    oxygen = symbols.index("O")
    hydrogen, carbon = sorted(near[oxygen], key=lambda k: symbols[k] != "H")
    (methyl,) = (k for k in near[carbon] if symbols[k] == "C")
    return hydrogen, oxygen, carbon, methyl


def shares(ensemble, four):
    """Shares of anti, gauche on the one side and on the other, with standard errors."""

    def conformers(x):
        angle = torsions(x, four)
        return np.stack([np.abs(angle) > 120, (0 < angle) & (angle <= 120), (-120 <= angle) & (angle <= 0)], 1) * 1.0

    return ensemble.expectation(conformers)


def told(name, ensemble, calls, four):
    """A line on samples that have taken so many energy calls."""
    mean, error = ensemble.mean_energy
    parts = ", ".join(f"{s:.3f} ± {e:.3f}" for s, e in zip(*shares(ensemble, four)))
    return (
        f"{name}: {mean:.2f} ± {error:.2f} kT, {ensemble.ess:.0f} effective, {calls:,} energy calls; "
        f"shares of anti and the two gauche conformers: {parts}"
    )


def main(folder="runs", seed=0, langevin=False, atoms=None, n=2000, budget=None, chains=CHAINS):
    """Train on a twin, sample, and run chains; returns the samples, and those of the chains."""
    start, budget = time.perf_counter(), budget or {"minutes": 15.0, "max_energy_calls": 8000}
    atoms = atoms or ethanol()
    four = hydroxyl(atoms)
    dyn = BoltzmannSampler(
        atoms, KELVIN, cache=Path(folder) / f"ethanol-{seed}", batch=n, seed=seed, twin=True, **budget
    )
    dyn.run(n)
    ours, training = dyn.ensemble, dyn.sampler.checkpoint.provenance
    calls = training["energy_calls"] + ours.provenance["energy_calls"]
    print(
        f"{training['energy_calls']:,} energy calls for the twin, {ours.provenance['energy_calls']:,} for {n} samples; "
        f"{time.perf_counter() - start:.0f} s in all"
    )
    print(told("samples", ours, calls, four), ours.advice or "nothing to beware of", sep="\n")
    for one in departures(ours)[:5]:
        print(f"{one.what}: {one.samples} samples, {one.share:.2%} of the weight")
    ours.save(Path(folder) / f"ethanol-{seed}.dcd")
    theirs = None
    if langevin:
        file = Path(folder) / f"langevin-{seed}.bin"
        theirs = langevin_chains(dyn.system, chains, calls, 1000 + seed, file)
        print(told("Langevin", theirs, theirs.provenance["energy_calls"], four))
    dyn.close()
    return ours, theirs


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]), langevin=sys.argv[3:4] == ["langevin"])
