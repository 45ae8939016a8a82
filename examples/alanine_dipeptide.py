"""Alanine dipeptide in vacuum (amber14, 22 atoms, 300 K), from energies alone: phi and psi beside replica exchange.

    python examples/alanine_dipeptide.py [folder] [minutes]

Training begins at the geometry of the PDB beside this file, with rotations about bonds and a ladder of temperatures up
to 900 K. A call that was interrupted goes on when it is made again.
"""

import sys
from pathlib import Path

import numpy as np
from openmm import app, unit

import idem_md
from idem_md.analysis import departures, free_energy_map
from idem_md.baselines import ENGINES
from idem_md.energies import OpenMM
from idem_md.report import plot_map
from idem_md.systems import nearest_neighbour_distance, torsions
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune

TEMPERATURE = 300.0  # K
PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)


def alanine():
    """Potential, names, labels by the bonds, and a unit of length."""
    pdb = app.PDBFile(str(Path(__file__).with_suffix(".pdb")))
    forces = app.ForceField("amber14-all.xml").createSystem(pdb.topology, nonbondedMethod=app.NoCutoff)
    x = pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    energy = OpenMM(forces, pdb.topology, temperature=TEMPERATURE, length_angstrom=nearest_neighbour_distance(x))
    return idem_md.System.of_energy(energy, x, name="alanine")


def is_axial(x):
    """C7ax and what is beside it, phi between 0 and 120 degrees, in positions (n, 22, 3)."""
    phi = torsions(x, PHI)
    return ((phi > 0) & (phi < 120)).astype(float)


def is_equatorial(x):
    """C7eq, phi from -110 to -40 and psi from 0 to 110 degrees, in positions (n, 22, 3)."""
    phi, psi = torsions(x, PHI), torsions(x, PSI)
    return ((phi > -110) & (phi < -40) & (psi > 0) & (psi < 110)).astype(float)


def main(folder="runs/alanine", minutes=23, n=10_000, steps=2000, seed=0, config=None):
    """Train, tune, sample; returns the samples."""
    own, path = alanine(), Path(folder)
    if config is None:  # with a ladder up to 900 K, as it is a molecule; and more rotations about its bonds than usual
        config = idem_md.preset(own, "classical", seed)
        config = config.model_copy(update={"buffer": config.buffer.model_copy(update={"torsions": 8})})
    resume = (path / "state.safetensors").exists()
    checkpoint = idem_md.train(config, path, system=own, resume=resume, minutes=float(minutes))
    p = checkpoint.provenance
    print(f"trained in {p['seconds']:.0f} s with {p['energy_calls']:,} energy calls")
    heads = HeadTraining(steps=int(steps))
    tune(checkpoint, run_samples(path), path / "model.safetensors", system=own, heads=heads, nfes={})
    e = idem_md.load_sampler(folder, own).sample(int(n), nfe=100, seed=100 + seed)
    e.save(path / "alanine.dcd")
    share, error = e.expectation(is_axial)
    print(f"{e.ess_fraction:.1%} effective of {n} (Pareto k {e.pareto_k:.2f}), mean {e.mean_energy[0]:.2f} kT")
    print(f"C7ax: {is_axial(e.positions).mean():.4f} without weights, {share:.4f} +- {error:.4f} with them")
    for one in departures(e)[:5]:
        print(f"{one.what}: {one.samples} samples, {one.share:.2%} of the weight")
    return e


def reference(folder="runs/alanine", n=2000, calls=10_000_000, seed=1):
    """Replica exchange by the same energies, from the geometry."""
    e = ENGINES["pt"].run(alanine(), int(n), energy_calls=int(calls), seed=int(seed))
    e.save(Path(folder) / "pt.dcd")
    share, error = e.expectation(is_axial)
    print(f"replica exchange: C7ax {share:.4f} +- {error:.4f}, {e.provenance['energy_calls']:,} energy calls")
    return e


def compare(folder="runs/alanine", reference="pt.dcd"):
    """Maps of both, how far C7ax is above C7eq, and the Jensen-Shannon divergence of phi and psi, beside that of both
    halves of the reference."""
    ours, theirs = (idem_md.load_ensemble(Path(folder) / name) for name in ("alanine.dcd", reference))
    for e, name in ((ours, "alanine"), (theirs, "reference")):
        try:
            found = free_energy_map(e, "phi", "psi")
        except idem_md.ResultError as few:
            print(f"{name}: {few}")
        else:
            with open(Path(folder) / f"{name}.png", "wb") as file:
                plot_map(found, file)
        (axial, error), (equatorial, their_error) = e.expectation(is_axial), e.expectation(is_equatorial)
        if axial and equatorial:
            apart, error = np.log(equatorial / axial), np.hypot(error / axial, their_error / equatorial)
            print(f"{name}: C7ax {apart:.2f} +- {error:.2f} kT above C7eq")

    def shares(e, rows):
        edges = np.linspace(-180, 180, 31)
        phi, psi = (torsions(e.positions[rows], atoms) for atoms in (PHI, PSI))
        h = np.histogram2d(phi, psi, bins=(edges, edges), weights=e.weights[rows])[0]
        return h / h.sum()

    def divergence(p, q):
        m = (p + q) / 2
        return 0.5 * sum((a[a > 0] * np.log(a[a > 0] / m[a > 0])).sum() for a in (p, q))

    every = np.arange(len(theirs))
    ours_found = divergence(shares(ours, np.flatnonzero(ours.alive)), shares(theirs, every))
    halves = divergence(*(shares(theirs, part) for part in np.array_split(every, 2)))
    print(f"Jensen-Shannon divergence {ours_found:.4f}; of two halves of the reference {halves:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
    reference(*sys.argv[1:2])
    compare(*sys.argv[1:2])
