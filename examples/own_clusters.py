"""Clusters that are nobody's benchmark, from an ASE script: sampled, and compared with long Markov chains.

    python examples/own_clusters.py ar19-warm [folder]    # argon, liquid-like
    python examples/own_clusters.py ar19-cold [folder]    # argon, a solid that shakes
    python examples/own_clusters.py cu8au5 [folder]       # a binary nanoparticle, ASE's EMT

The first use trains, ten minutes for argon and as long as a budget of energy calls takes for the alloy; the next ones
find the sampler in the folder.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

from idem_md.ase import BoltzmannSampler, LennardJonesCluster
from idem_md.baselines import ENGINES


def argon(n_atoms):
    """Argon around a complete icosahedron, native Lennard-Jones."""
    whole = Icosahedron("Ar", 3, latticeconstant=3.822 * 2**0.5)
    order = np.argsort(np.linalg.norm(whole.positions - whole.positions[:13].mean(0), axis=1), kind="stable")
    return Atoms(whole[order[:n_atoms]].symbols, whole.positions[order[:n_atoms]], calculator=LennardJonesCluster())


def alloy():
    """Cu8Au5, an icosahedron that is occupied at random."""
    atoms = Icosahedron("Cu", 2, latticeconstant=3.8)
    atoms.symbols[np.random.default_rng(0).permutation(13)[:5]] = "Au"
    atoms.calc = EMT()
    return atoms


# Rungs that reach from the solid to where atoms change places.
HOT = ENGINES["pt"].configured(betas=(1.0, 0.9, 0.81, 0.73, 0.66, 0.6, 0.54, 0.49))
# Atoms, temperature (K), budget of training, chains to compare with, how many and how long. EMT is an expensive
# potential here, for which there is no plan to choose the evaluations.
CLUSTERS = {
    "ar19-warm": (lambda: argon(19), 45.0, {"minutes": 10.0}, ENGINES["pt"], 1000, 20_000),
    "ar19-cold": (lambda: argon(19), 25.0, {"minutes": 10.0}, HOT, 1000, 40_000),
    "cu8au5": (alloy, 1200.0, {"minutes": 25.0, "max_energy_calls": 300_000, "nfe": 50}, ENGINES["mala"], 100, 1500),
}


def main(name="ar19-warm", folder=None, samples=None, budget=None, chains=None, steps=None):
    """Train or find the sampler, sample, run chains; returns mean energies with errors, ours and theirs, in kT."""
    make, kelvin, usual, engine, usual_chains, usual_steps = CLUSTERS[name]
    n, start = samples or 1000, time.perf_counter()
    cache = Path(folder or "runs") / name
    dyn = BoltzmannSampler(make(), kelvin, cache=cache, batch=n, seed=1, **(budget or usual))
    dyn.run(n)
    ours, training = dyn.ensemble, dyn.sampler.checkpoint.provenance
    print(f"{name}: trained in {training['seconds']:.0f} s with {training['energy_calls']:,} energy calls")
    calls = ours.provenance["energy_calls"]
    mean, error = ours.mean_energy
    print(
        f"samples: {mean:.2f} +- {error:.2f} kT, {ours.ess:.0f} effective of {n} (Pareto k {ours.pareto_k:.2f}), "
        f"{calls / n:.0f} energy calls each, {calls / ours.ess:.0f} an effective sample, "
        f"{(calls + training['energy_calls']) / ours.ess:.0f} with training"
    )
    print(ours.advice or "nothing to beware of")
    theirs = engine.run(dyn.system, chains or usual_chains, steps or usual_steps, seed=2)
    other, their_error = theirs.mean_energy
    print(
        f"chains: {other:.2f} +- {their_error:.2f} kT, {theirs.ess:.0f} effective of {len(theirs)}, "
        f"{theirs.provenance['energy_calls'] / theirs.ess:.0f} energy calls an effective sample"
    )
    apart = abs(mean - other) / np.hypot(error, their_error)
    print(f"{apart:.1f} standard errors apart; {time.perf_counter() - start:.0f} s in all")
    dyn.close()
    return ours.mean_energy, theirs.mean_energy


if __name__ == "__main__":
    main(*sys.argv[1:3])
