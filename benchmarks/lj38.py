"""LJ-38 from 12 K to 25 K by one network, beside parallel tempering with as many energy calls: for information, as its
two funnels (a truncated octahedron, and icosahedra) are a test that chains fail for long.

    python benchmarks/lj38.py FOLDER [minutes]

Prints effective samples (100 evaluations and one energy call each), mean energies, and the share of the octahedral
funnel (Q4 above 0.12) at five temperatures.
"""

import sys
from pathlib import Path

import numpy as np
from ase import units
from ase.calculators.lj import LennardJones
from ase.cluster import Octahedron

import idem_md
from idem_md.analysis.steinhardt import q4
from idem_md.energies.native_ase import native_energy
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from heat_capacity import tempered

KELVIN = (12.0, 14.0, 16.0, 20.0, 25.0)
SIGMA, TRAP, OCTAHEDRAL = 3.405, 0.05, 0.12


def main(folder, minutes=15.0, n=1000, heads=1000):
    """Train, tune, sample, run chains."""
    atoms = Octahedron("Ar", 4, 1, latticeconstant=2 ** (2 / 3) * SIGMA)
    atoms.calc = LennardJones(epsilon=119.8 * units.kB, sigma=SIGMA, rc=1e4)
    energy = native_energy(atoms, KELVIN[0], TRAP)
    system = idem_md.System.of_energy(energy, atoms.positions, "ar38")
    run = Path(folder)
    config = idem_md.preset(system, "refined", 0, (KELVIN[0], KELVIN[-1]))
    if not (run / "tuned.safetensors").exists():
        resume = (run / "state.safetensors").exists()
        checkpoint = idem_md.train(config, run, system=system, minutes=minutes, resume=resume)
        # Plans with annealing at every other rung would take an hour.
        settings = {"system": system, "heads": HeadTraining(steps=heads), "nfes": {}}
        tune(checkpoint, run_samples(run), run / "tuned.safetensors", **settings)
    sampler = idem_md.load_sampler(run / "tuned.safetensors", system)
    cost = sampler.checkpoint.provenance
    scan = sampler.scan(n, list(KELVIN), seed=1, nfe=100, last_step_calls=1)
    calls = cost["energy_calls"] + cost.get("tuning_energy_calls", 0) + sum(e.provenance["energy_calls"] for e in scan)
    ladders, temperatures = 200, sorted({*np.geomspace(KELVIN[0], KELVIN[-1], 12).tolist(), *KELVIN})
    steps = int(calls / (ladders * len(temperatures)))
    print(
        f"{calls:.3g} energy calls; tempering: {ladders} ladders of {len(temperatures)} rungs, {steps} steps",
        flush=True,
    )
    chains = dict(zip(temperatures, tempered(system, temperatures, ladders, steps)))
    print("T (K)  effective   mean energy (kT), tempering's       share of the octahedral funnel, tempering's")
    for kelvin, ours in zip(KELVIN, scan):
        theirs = chains[kelvin]
        share, other = (e.expectation(lambda x: (q4(x) > OCTAHEDRAL).astype(float)) for e in (ours, theirs))
        print(
            f"{kelvin:5.1f} {ours.ess:8.0f}   {ours.mean_energy[0]:9.2f} ± {ours.mean_energy[1]:.2f} "
            f"{theirs.mean_energy[0]:9.2f} ± {theirs.mean_energy[1]:.2f}     {share[0]:.3f} ± {share[1]:.3f}   "
            f"{other[0]:.3f} ± {other[1]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]))
