"""A foreign, expensive potential from end to end: a copper cluster with ASE's EMT at 1200 K.

    python examples/cu13_emt.py [folder]            # a sketch, in a minute or two
    python examples/cu13_emt.py folder full         # fewer than a million energies, half an hour on two cores

Energies only, those of training included. Markov chains finish the job: at this temperature the cluster is a liquid
drop, and they mix.
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
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune


def copper(workers):
    """The system: potential, units, scale."""
    atoms = Icosahedron("Cu", 2)
    energy = ASE(
        atoms, EMT, temperature_K=1200, length_angstrom=nearest_neighbour_distance(atoms.positions), workers=workers
    )
    return idem_md.System.of_energy(energy, atoms.positions, name="cu13")


SKETCH = {
    "buffer": {"size": 64, "fresh": 4, "relax_steps": 40, "warmup_steps": 300, "refine_steps": 6},
    "target": {"name": "buffer"},
    "optimizer": {"batch": 64, "iterations": 8},
    "network": {"channels": 32},
}


def main(folder="runs/cu13", full=False, workers=2, n=None, refine_steps=None, config=None, reference=None):
    """Train, sample, refine; returns the raw, weighted and refined energies in kT."""
    steps = 2000 if full else 20
    n, refine_steps = n or (1000 if full else 100), refine_steps or (300 if full else 100)
    system = copper(workers)
    if config is None:
        config = (
            idem_md.preset(system, "frugal")
            if full
            else idem_md.TrainingConfig.parse({"system": "cu13", **SKETCH}, "sketch")
        )
    path = Path(folder)
    resume = (path / "state.safetensors").exists()  # of an example that was stopped
    budget = {"minutes": 25 if full else 1.5, "max_energy_calls": 660_000}
    checkpoint = idem_md.train(config, path, system=system, resume=resume, **budget)
    print(
        f"trained in {checkpoint.provenance['seconds']:.0f} s with {checkpoint.provenance['energy_calls']} energy calls"
    )

    # An elastic network, learnt from the replay buffer without a call: weights of an expensive potential need it.
    heads = HeadTraining(steps=steps)
    tuned = tune(checkpoint, run_samples(path), path / "model.safetensors", system=system, heads=heads, candidates=16)

    sampler = idem_md.load_sampler(folder, system)
    weighted = sampler.sample(n, nfe=50, seed=0)
    raw = sampler.sample(n, nfe=50, seed=1, kernel="ddpm")
    refined = raw.refine(refine_steps, seed=0, resample=False)
    weighted.save(Path(folder) / "weighted.dcd")
    refined.save(Path(folder) / "refined.dcd")
    mean, error = weighted.mean_energy
    print(f"raw:      median {np.median(raw.energies):.2f} kT")
    print(
        f"weighted: mean {mean:.2f} +- {error:.2f} kT, {weighted.ess:.1f} effective samples of {n}, "
        f"all weights finite: {bool(np.isfinite(weighted.log_weights).all())}"
    )
    print(
        f"refined:  mean {refined.energies.mean():.2f} +- {refined.energies.std() / n**0.5:.2f} kT "
        f"after {refine_steps} Langevin steps a sample"
    )
    calls = [
        checkpoint.provenance["energy_calls"] + tuned.provenance["tuning_energy_calls"],
        weighted.provenance["energy_calls"],
        refined.provenance["energy_calls"],
    ]
    print(
        f"energy calls: training and tuning {calls[0]}, weighted {calls[1]}, raw and refined {calls[2]}, "
        f"in all {sum(calls)}"
    )
    if reference is not None:
        exact = idem_md.load_ensemble(reference).energies
        half = len(exact) // 2
        print(
            f"E-W2 to the reference: raw {energy_w2(raw.energies, exact):.2f}, "
            f"refined {energy_w2(refined.energies, exact):.2f}; "
            f"one half of the reference to the other {energy_w2(exact[:half], exact[half:]):.2f} kT"
        )
    system.make_energy().close()
    return raw.energies, weighted.energies, refined.energies


if __name__ == "__main__":
    main(*sys.argv[1:2], full=sys.argv[2:3] == ["full"])
