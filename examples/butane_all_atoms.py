"""All-atom butane in vacuum, an OpenMM System with OPLS-AA parameters: how much of it is trans, from energies alone.

    python examples/butane_all_atoms.py [folder] [minutes]       # 20 minutes on one core

The bonds of the topology say which atoms are alike. Training begins at the geometry, with rotations about bonds and a
ladder up to 900 K. Replica exchange by the same energies is the reference.
"""

import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import openmm
from ase.build import molecule
from openmm import app

import idem_md
from idem_md.analysis import departures
from idem_md.baselines import ENGINES
from idem_md.energies import OpenMM, Topology
from idem_md.systems import nearest_neighbour_distance, torsions
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune

TEMPERATURE = 300.0  # K
# Jorgensen, Maxwell and Tirado-Rives, J. Am. Chem. Soc. 118, 11225 (1996); kJ/mol, nm, rad. OpenMM takes arithmetic
# means of sizes, where OPLS has geometric ones.
BONDS = {"CC": (0.1529, 224262.4), "CH": (0.1090, 284512.0)}
ANGLES = {"CCC": (112.7, 488.273), "CCH": (110.7, 313.8), "HCH": (107.8, 276.144)}
TORSIONS = {"CCCC": (7.28016, -0.656888, 1.167336), "CCCH": (0.0, 0.0, 1.53135), "HCCH": (0.0, 0.0, 1.33051)}
CHARGE = {"CH3": -0.18, "CH2": -0.12, "H": 0.06}
SIZE = {"C": (0.35, 0.276144), "H": (0.25, 0.12552)}


def butane():
    """Topology, System and positions in angstrom; the carbon atoms come first, from end to end."""
    atoms = molecule("trans-butane")
    near = Topology.of_atoms(atoms).neighbours()
    carbons = {k for k, symbol in enumerate(atoms.symbols) if symbol == "C"}
    chain = [min(k for k in carbons if len(near[k] & carbons) == 1)]
    while len(chain) < 4:
        chain += near[chain[-1]] & carbons - set(chain)
    atoms = atoms[chain + [k for k in range(len(atoms)) if k not in carbons]]
    symbols, near = atoms.get_chemical_symbols(), Topology.of_atoms(atoms).neighbours()

    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("BUT", topology.addChain("A"))
    bonds, angles, turns = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    others = openmm.NonbondedForce()
    for i, symbol in enumerate(symbols):
        atom = topology.addAtom(f"{symbol}{i + 1}", app.Element.getBySymbol(symbol), residue)
        system.addParticle(atom.element.mass)
        hydrogens = sum(symbols[k] == "H" for k in near[i])
        others.addParticle(CHARGE[f"CH{hydrogens}" if symbol == "C" else "H"], *SIZE[symbol])
        for j, k in combinations(sorted(near[i]), 2):
            a, b = sorted((symbols[j], symbols[k]))
            degrees, stiffness = ANGLES[f"{a}{symbol}{b}"]
            angles.addAngle(j, i, k, np.deg2rad(degrees), stiffness)
    named = list(topology.atoms())
    for i, j in Topology.of_atoms(atoms).bonds:
        topology.addBond(named[i], named[j])
        bonds.addBond(i, j, *BONDS["".join(sorted(symbols[i] + symbols[j]))])
        for a, b in product(near[i] - {j}, near[j] - {i}):  # none but between two carbon atoms
            first, last = sorted((symbols[a], symbols[b]))
            for n, height in enumerate(TORSIONS[f"{first}CC{last}"], 1):
                turns.addTorsion(a, i, j, b, n, np.pi * (n == 2), height / 2)
    others.createExceptionsFromBonds(Topology.of_atoms(atoms).bonds, 0.5, 0.5)
    for force in (bonds, angles, turns, others):
        system.addForce(force)
    return topology, system, atoms.positions


def is_trans(x):
    """Whether the torsion of the carbon atoms of positions (n, 14, 3) is beyond 120 degrees."""
    return (np.abs(torsions(x, (0, 1, 2, 3))) > 120).astype(float)


def system():
    """Potential, names, labels by the bonds, and a unit of length."""
    topology, forces, x = butane()
    energy = OpenMM(forces, topology, temperature=TEMPERATURE, length_angstrom=nearest_neighbour_distance(x))
    return idem_md.System.of_energy(energy, x, name="butane14")


def main(folder="runs/butane14", minutes=14, n=2000, steps=2000, seed=0, config=None, reference_calls=3_000_000):
    """Train, tune, sample, compare; returns shares of trans: raw, weighted with its error, that of the reference."""
    own, path = system(), Path(folder)
    config = config or idem_md.preset(own, "classical", seed)  # with a ladder up to 900 K, as it is a molecule
    resume = (path / "state.safetensors").exists()  # of an example that was stopped
    checkpoint = idem_md.train(config, path, system=own, resume=resume, minutes=float(minutes))
    p = checkpoint.provenance
    print(f"trained in {p['seconds']:.0f} s with {p['energy_calls']:,} energy calls")
    heads = HeadTraining(steps=int(steps))
    tune(checkpoint, run_samples(path), path / "model.safetensors", system=own, heads=heads, nfes={})
    sampler = idem_md.load_sampler(folder, own)
    for nfe in (50, 100):
        e = sampler.sample(n, nfe=nfe, seed=100 + seed)
        raw, (share, error) = is_trans(e.positions).mean(), e.expectation(is_trans)
        gone = max((one.share for one in departures(e)), default=0.0)
        print(
            f"{nfe} evaluations: {e.ess_fraction:.1%} effective of {n} (Pareto k {e.pareto_k:.2f}); trans {raw:.3f} "
            f"without weights, {share:.3f} +- {error:.3f} with them; {gone:.1%} of the weight at most has broken a bond"
        )
    e.save(path / "butane.dcd")
    known = ENGINES["pt"].run(own, min(n, 400), energy_calls=int(reference_calls), seed=1)
    exact = known.expectation(is_trans)
    print(f"replica exchange: {exact[0]:.3f} +- {exact[1]:.3f} by {known.provenance['energy_calls']:,} energy calls")
    return raw, (share, error), exact


if __name__ == "__main__":
    main(*sys.argv[1:])
