"""A foreign, expensive potential from end to end: a copper cluster with ASE's EMT at 1200 K.

    python examples/cu13_emt.py [folder]

Energies only, fewer than a million of them, training included; some 20 minutes on two cores. Markov chains are the
yardstick: at this temperature the cluster is a liquid drop, and they mix.
"""

import sys
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

import idem_md
from idem_md.analysis import energy_w2
from idem_md.energies import ASE
from idem_md.systems import nearest_neighbour_distance


def copper(workers):
    """The system: potential, units, scale."""
    atoms = Icosahedron("Cu", 2)
    energy = ASE(atoms, EMT, temperature_K=1200, length_angstrom=nearest_neighbour_distance(atoms.positions), workers=workers)
    return idem_md.System.of_energy(energy, atoms.positions, name="cu13")


def main(folder="runs/cu13", n=1000, workers=2, minutes=25.0, max_energy_calls=800_000, refine_steps=100, config=None, reference=None):
    """Train, sample, refine; returns the raw, weighted and refined energies in kT."""
    system = copper(workers)
    config = config or idem_md.preset(system, "frugal")
    checkpoint = idem_md.train(config, Path(folder), system=system, minutes=minutes, max_energy_calls=max_energy_calls)
    print(f"trained in {checkpoint.provenance['seconds']:.0f} s with {checkpoint.provenance['energy_calls']} energy calls")

    sampler = idem_md.load_sampler(folder, system)
    weighted = sampler.sample(n, nfe=50, seed=0)
    raw = sampler.sample(n, nfe=50, seed=1, kernel="ddpm")
    refined = raw.refine(refine_steps, seed=0, resample=False)
    weighted.save(Path(folder) / "weighted.dcd")
    refined.save(Path(folder) / "refined.dcd")
    mean, error = weighted.mean_energy
    print(f"raw:      median {np.median(raw.energies):.2f} kT")
    print(f"weighted: mean {mean:.2f} +- {error:.2f} kT, {weighted.ess:.1f} effective samples of {n}, "
          f"all weights finite: {bool(np.isfinite(weighted.log_weights).all())}")
    print(f"refined:  mean {refined.energies.mean():.2f} +- {refined.energies.std() / n**0.5:.2f} kT after {refine_steps} Langevin steps a sample")
    if reference is not None:
        exact = idem_md.load_ensemble(reference).energies
        half = len(exact) // 2
        print(f"E-W2 to the reference: raw {energy_w2(raw.energies, exact):.2f}, refined {energy_w2(refined.energies, exact):.2f}; "
              f"one half of the reference to the other {energy_w2(exact[:half], exact[half:]):.2f} kT")
    system.make_energy().close()
    return raw.energies, weighted.energies, refined.energies


if __name__ == "__main__":
    main(*sys.argv[1:2])
