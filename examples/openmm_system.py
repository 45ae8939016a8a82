"""An OpenMM System as the potential: weighted samples of it beside Langevin dynamics of it.

python examples/openmm_system.py
"""

import numpy as np
import openmm
from openmm import app, unit

import idem_md
from idem_md.energies import OpenMM

TEMPERATURE = 59.9


def langevin(system, positions_nm, steps, seed):
    """Potential energies in kT every 50 steps of LangevinMiddle dynamics, the first fifth left out."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 2.0, 0.02)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions_nm)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    kT = (unit.MOLAR_GAS_CONSTANT_R * TEMPERATURE * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
    energies = []
    for _ in range(steps // 50):
        integrator.step(50)
        energies.append(
            context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / kT
        )
    return np.array(energies[len(energies) // 5 :])


def main(n=400, steps=20_000):
    """Print both means; returns them with their standard errors."""
    topology = idem_md.get_system("lj13").openmm_topology()  # free atoms, a residue each
    system = app.ForceField("idem_md/lj13.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)

    # trap=0: this force field brings its own. A bare cluster would get a weak one.
    energy = OpenMM(system, topology, temperature=TEMPERATURE, length_angstrom=3.8220, trap=0)
    start = idem_md.testing.loose_lattice(energy, n=1)[0].numpy() * 3.8220
    named = idem_md.System.of_energy(energy, start, name="my-argon")
    ensemble = idem_md.load_sampler("lj13", system=named).sample(n, nfe=50, seed=0)
    mean, error = ensemble.mean_energy
    print(f"platform {energy.platform}; {ensemble.ess:.0f} effective samples of {n}, log Z = {ensemble.log_z:.2f}")
    print(
        f"weighted samples:  mean energy {mean:.2f} +- {error:.2f} kT, "
        f"{ensemble.provenance['energy_calls']} energy calls"
    )

    u = langevin(system, start / 10, steps, seed=1)
    blocks = u[: len(u) // 10 * 10].reshape(10, -1).mean(1)
    md_error = blocks.std(ddof=1) / 10**0.5
    print(f"Langevin dynamics: mean energy {u.mean():.2f} +- {md_error:.2f} kT, {steps} steps")
    return (mean, error), (u.mean(), md_error)


if __name__ == "__main__":
    main()
