"""Weighted samples of an argon cluster from an ASE script, used like molecular dynamics.

python examples/ase_lj_cluster.py [folder]
"""

import sys
from pathlib import Path

import numpy as np
from ase import units
from ase.cluster import Icosahedron
from ase.io import read

from idem_md.ase import BoltzmannSampler, LennardJonesCluster


def main(folder=".", steps=400):
    """Draw samples into ar13.traj and return (mean potential energy in eV, its standard error)."""
    kT = 60 * units.kB
    atoms = Icosahedron("Ar", 2, latticeconstant=3.822 * 2**0.5)
    atoms.calc = LennardJonesCluster(trap=1.0 * kT / 3.822**2)  # argon; a free cluster would evaporate

    # The shipped checkpoint was trained at 59.9 K; the weights make up for the difference. Leave out `checkpoint`
    # and a sampler for exactly this cluster is trained at first use, in 20 minutes, and cached.
    trajectory = Path(folder) / "ar13.traj"
    dyn = BoltzmannSampler(
        atoms, temperature_K=60, checkpoint="lj13", seed=1, trajectory=trajectory, logfile="-", loginterval=1
    )
    radii = []
    dyn.attach(lambda: radii.append(np.sqrt((atoms.positions**2).sum(1).mean())), interval=10)
    dyn.run(steps)

    ensemble = dyn.ensemble
    mean, error = ensemble.mean_energy
    print(f"{len(read(trajectory, ':'))} frames in {trajectory}, {ensemble.ess:.0f} effective samples")
    print(
        f"mean potential energy, trap included: {mean * kT:.4f} +- {error * kT:.4f} eV  ({mean:.2f} +- {error:.2f} kT)"
    )
    print(f"raw radius of every tenth sample: {np.mean(radii):.2f} A")
    return mean * kT, error * kT


if __name__ == "__main__":
    main(*sys.argv[1:2])
