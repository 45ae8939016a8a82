"""Clusters that are nobody's benchmark, from an ASE script: sampled, and compared with long Markov chains.

    python examples/own_clusters.py ar19-warm [folder]    # argon, liquid-like
    python examples/own_clusters.py ar19-cold [folder]    # argon, a solid that shakes
    python examples/own_clusters.py cu8au5 [folder]       # a binary nanoparticle, ASE's EMT
    python examples/own_clusters.py all [folder] [seed]   # eight clusters, one after the other, and a table

The first use trains, ten minutes for noble gases and as long as a budget of energy calls takes for metals; the next
ones find the sampler in the folder.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ase import units as ase_units
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

from idem_md.ase import BoltzmannSampler, LennardJonesCluster
from idem_md.baselines import ENGINES

# Well depth (K) and sigma (Å) of Lennard-Jones potentials: Ar by Rahman (Phys. Rev. 136, A405, 1964), Ne and Xe by
# usual fits to the gas.
NOBLE = {"Ne": (35.6, 2.749), "Ar": (119.8, 3.405), "Xe": (221.0, 4.10)}


def noble(symbol, n_atoms):
    """Atoms around the centre of an icosahedron of 55, native Lennard-Jones."""
    kelvin, sigma = NOBLE[symbol]
    r_min = 2 ** (1 / 6) * sigma
    whole = Icosahedron(symbol, 3, latticeconstant=r_min * 2**0.5)
    order = np.argsort(np.linalg.norm(whole.positions - whole.positions[:13].mean(0), axis=1), kind="stable")
    atoms = whole[order[:n_atoms]]
    atoms.calc = LennardJonesCluster(epsilon=kelvin * ase_units.kB, r_min=r_min)
    return atoms


def copper():
    """Cu13, an icosahedron."""
    atoms = Icosahedron("Cu", 2)
    atoms.calc = EMT()
    return atoms


def alloy():
    """Cu8Au5, an icosahedron that is occupied at random."""
    atoms = Icosahedron("Cu", 2, latticeconstant=3.8)
    atoms.symbols[np.random.default_rng(0).permutation(13)[:5]] = "Au"
    atoms.calc = EMT()
    return atoms


def gold_inside(ensemble):
    """Share of configurations whose atom nearest to the centroid is gold, with its standard error."""
    gold = np.array([element == "Au" for element in ensemble.system.elements])
    return ensemble.expectation(lambda x: gold[np.linalg.norm(x, axis=-1).argmin(1)].astype(float))


# Rungs that reach from the solid to where atoms change places.
HOT = ENGINES["pt"].configured(betas=(1.0, 0.9, 0.81, 0.73, 0.66, 0.6, 0.54, 0.49))
# Atoms, temperature (K), budget of training, chains to compare with, how many and how long. EMT is an expensive
# potential here, for which there is no plan to choose the evaluations. Ladders of Ar19 start from noise and take some
# hundred thousand steps to come to equilibrium at 25 K.
EXPENSIVE = {"minutes": 15.0, "max_energy_calls": 500_000, "nfe": 50}
CLUSTERS = {
    "ar7": (lambda: noble("Ar", 7), 15.0, {"minutes": 10.0}, HOT, 1000, 40_000),
    "xe10": (lambda: noble("Xe", 10), 60.0, {"minutes": 10.0}, HOT, 1000, 40_000),
    "ar19-warm": (lambda: noble("Ar", 19), 45.0, {"minutes": 10.0}, ENGINES["pt"], 1000, 20_000),
    "ar19-cold": (lambda: noble("Ar", 19), 25.0, {"minutes": 10.0}, HOT, 1000, 400_000),
    "ar26": (lambda: noble("Ar", 26), 35.0, {"minutes": 10.0}, HOT, 1000, 40_000),
    "ne13": (lambda: noble("Ne", 13), 10.0, {"minutes": 10.0}, HOT, 1000, 40_000),
    "cu13": (copper, 1200.0, EXPENSIVE, ENGINES["mala"], 100, 1500),
    "cu8au5": (alloy, 1200.0, EXPENSIVE, ENGINES["mala"], 100, 1500),
}


def main(name="ar19-warm", folder="runs", seed=0, samples=None, budget=None, chains=None, steps=None):
    """Train or find the sampler, sample, run chains; returns mean energies with errors, ours and theirs, in kT, and a
    row of the table."""
    make, kelvin, usual, engine, usual_chains, usual_steps = CLUSTERS[name]
    n, start = samples or 1000, time.perf_counter()
    cache = Path(folder) / f"{name}-{seed}"
    dyn = BoltzmannSampler(make(), kelvin, cache=cache, batch=n, seed=seed, **(budget or usual))
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
    seconds = time.perf_counter() - start
    theirs = engine.run(dyn.system, chains or usual_chains, steps or usual_steps, seed=1000 + seed)
    other, their_error = theirs.mean_energy
    print(
        f"chains: {other:.2f} +- {their_error:.2f} kT, {theirs.ess:.0f} effective of {len(theirs)}, "
        f"{theirs.provenance['energy_calls'] / theirs.ess:.0f} energy calls an effective sample"
    )
    apart = abs(mean - other) / np.hypot(error, their_error)
    print(f"{apart:.1f} standard errors apart; {time.perf_counter() - start:.0f} s in all")
    if "Au" in dyn.system.elements:
        (gold, gold_error), (their_gold, their_gold_error) = gold_inside(ours), gold_inside(theirs)
        print(f"gold inside: {gold:.3f} +- {gold_error:.3f}, chains {their_gold:.3f} +- {their_gold_error:.3f}")
    dyn.close()
    theirs_calls, theirs_seconds = (theirs.provenance[key] for key in ("energy_calls", "seconds"))
    row = (
        f"| {name} | {kelvin:g} | {ours.ess_fraction:.2f} ({ours.pareto_k:.2f}) | {mean:.2f} ± {error:.2f} "
        f"| {other:.2f} ± {their_error:.2f} | {training['energy_calls']:,} + {calls:,} | {seconds:.0f} "
        f"| {theirs.ess:.0f} | {theirs_calls:,} | {theirs_seconds:.0f} |"
    )
    return ours.mean_energy, theirs.mean_energy, row


def table(folder="runs", seed=0):
    """Every cluster, one after the other."""
    rows = [main(name, folder, seed)[2] for name in CLUSTERS]
    print("| | K | effective (Pareto k) | kT | chains, kT | calls | s | effective, chains | calls | s |")
    print("|---|---|---|---|---|---|---|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    name, folder, seed = (*sys.argv[1:4], *("ar19-warm", "runs", "0")[len(sys.argv) - 1 :])
    if name == "all":
        table(folder, int(seed))
    else:
        main(name, folder, int(seed))
