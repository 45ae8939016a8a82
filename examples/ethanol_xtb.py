"""A molecule by quantum chemistry: the conformers of ethanol by GFN2-xTB at 300 K, from up to 10,000 energy calls.

    pip install tblite
    python examples/ethanol_xtb.py [folder] [seed]           # half an hour on one core
    python examples/ethanol_xtb.py folder seed langevin      # and Langevin chains of as many calls

Seen along the bond from oxygen to carbon, the hydrogen of the hydroxyl group is anti to the methyl group or gauche, on
the one side or the other.
"""

import sys
from functools import partial

import numpy as np
from ase.build import molecule
from ase.optimize import BFGS
from salt_xtb import by_twin

from idem_md.analysis import departures
from idem_md.energies import Topology
from idem_md.systems import torsions

KELVIN = 300.0


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


def shares(ensemble, torsion):
    """Shares of anti, gauche on the one side and on the other, with standard errors."""

    def conformers(x):
        angle = torsions(x, torsion)
        return np.stack([np.abs(angle) > 120, (0 < angle) & (angle <= 120), (-120 <= angle) & (angle <= 0)], 1) * 1.0

    return ensemble.expectation(conformers)


def main(folder="runs", seed=0, langevin=False, atoms=None, n=2000, **options):
    """Samples of the molecule, and those of chains; see `salt_xtb.by_twin`."""
    atoms = atoms or ethanol()
    of_conformers, labels = partial(shares, torsion=hydroxyl(atoms)), "anti and the two gauche conformers"
    ours, theirs = by_twin("ethanol", atoms, KELVIN, labels, of_conformers, folder, seed, 1 * langevin, n, **options)
    for departure in departures(ours)[:5]:
        print(f"{departure.what}: {departure.samples} samples, {departure.share:.2%} of the weight")
    return ours, theirs


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]), langevin=sys.argv[3:4] == ["langevin"])
