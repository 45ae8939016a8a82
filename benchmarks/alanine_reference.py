"""Alanine dipeptide (amber14, vacuum) by replica exchange of OpenMM's own dynamics: what the example is compared with.

    python benchmarks/alanine_reference.py FOLDER [seed] [nanoseconds]

Eight replicas from 300 K to 900 K, by LangevinMiddle with steps of 1 fs on the Reference platform, neighbours swapped
every picosecond; ``nanoseconds`` is that of all replicas together. Writes the frames at 300 K, one a picosecond, to
FOLDER/md-SEED.dcd, with as many independent ones as the share of C7ax says.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import unit

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import alanine_dipeptide as example

import idem_md
from idem_md.baselines import ENGINES
from idem_md.baselines.correlation import statistical_inefficiency
from idem_md.ensemble.estimators import Source

RUNGS = np.geomspace(300.0, 900.0, 8)  # K
STEPS = 1000  # of 1 fs, between swaps
R = 0.00831446261815324  # kJ/mol/K


class Replica:
    """A chain whose temperature changes; its velocities go with it."""

    def __init__(self, system, positions, temperature, seed):
        self.temperature = temperature
        self.integrator = openmm.LangevinMiddleIntegrator(temperature, 1 / unit.picosecond, 0.001)
        self.integrator.setRandomNumberSeed(seed)
        platform = openmm.Platform.getPlatformByName("Reference")
        self.context = openmm.Context(system, self.integrator, platform)
        self.context.setPositions(positions)
        self.context.setVelocitiesToTemperature(temperature, seed)

    def advance(self):
        """One picosecond; energy in kJ/mol."""
        self.integrator.step(STEPS)
        return self.context.getState(energy=True).getPotentialEnergy()._value

    def positions(self):
        """In angstrom."""
        return 10 * self.context.getState(positions=True).getPositions(asNumpy=True)._value

    def move_to(self, temperature):
        """Take over another temperature."""
        velocities = self.context.getState(velocities=True).getVelocities(asNumpy=True)._value
        self.context.setVelocities(velocities * math.sqrt(temperature / self.temperature))
        self.integrator.setTemperature(temperature)
        self.temperature = temperature


def main(folder, seed=0, nanoseconds=50.0):
    """Run, save; returns the ensemble."""
    own, rng, begin = example.alanine(), np.random.default_rng(int(seed)), time.perf_counter()
    system = openmm.XmlSerializer.deserialize(ENGINES["openmm"].recipe(own, 1.0).xml)  # with the trap, if there is one
    start = np.array(own.geometry) * own.units.length_angstrom / 10
    replicas = [Replica(system, start, t, 1000 * int(seed) + k + 1) for k, t in enumerate(RUNGS)]
    frames, tried, swapped = [], 0, 0
    for round_ in range(round(1000 * float(nanoseconds) / len(RUNGS))):
        u = [replica.advance() for replica in replicas]
        for i in range(round_ % 2, len(RUNGS) - 1, 2):
            tried += 1
            if math.log(rng.random()) < (1 / RUNGS[i] - 1 / RUNGS[i + 1]) * (u[i] - u[i + 1]) / R:
                cold, hot = replicas[i], replicas[i + 1]
                cold.move_to(RUNGS[i + 1]), hot.move_to(RUNGS[i])
                replicas[i], replicas[i + 1] = hot, cold
                swapped += 1
        frames.append(replicas[0].positions())
        if round_ % 500 == 0:
            print(f"{len(frames) * len(RUNGS) / 1000:.1f} ns, {time.perf_counter() - begin:.0f} s", flush=True)
    x = np.array(frames[len(frames) // 50 :]) / own.units.length_angstrom
    x -= x.mean(1, keepdims=True)
    energies = own.energy()(torch.from_numpy(x))[0].numpy()
    independent = len(x) / statistical_inefficiency([example.is_axial(x)])
    e = idem_md.WeightedEnsemble(
        x, energies, np.zeros(len(x)), own, kind="chain", source=Source(len(x), independent, math.nan, math.nan)
    )
    e.save(Path(folder) / f"md-{seed}.dcd")
    share, error = e.expectation(example.is_axial)
    seconds = time.perf_counter() - begin
    print(
        f"{float(nanoseconds):g} ns, {swapped / tried:.2f} of swaps, {seconds:.0f} s, C7ax {share:.4f} +- {error:.4f}"
    )
    return e


if __name__ == "__main__":
    main(*sys.argv[1:])
