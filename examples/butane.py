"""United-atom butane, an OpenMM System: how much of it is trans, from energies alone.

    python examples/butane.py [folder]              # six minutes on one core, 500,000 energies

Relaxed noise is mostly gauche, and chains of some thousand steps stay where they begin. Samples that enter the training
by weight mend that. The exact share of trans is known by quadrature.
"""

import sys
from pathlib import Path

import numpy as np
import openmm

import idem_md
from idem_md.energies import OpenMM
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune

TEMPERATURE = 300.0  # K
BOND, ANGLE = 0.153, np.deg2rad(112.0)  # nm
# Ryckaert and Bellemans, Faraday Discuss. Chem. Soc. 66, 95 (1978); kJ/mol, powers of cos(phi - 180 degrees).
TORSION = (9.2789, 12.1557, -13.1202, -3.0597, 26.2403, -31.4950)


def force_field():
    """Harmonic bonds and angles, and the torsion: nothing else depends on it, so its distribution is exp(-V/kT)."""
    system, bonds, angles = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for _ in range(4):
        system.addParticle(12.011)
    for i in range(3):
        bonds.addBond(i, i + 1, BOND, 2.5e5)
    for i in range(2):
        angles.addAngle(i, i + 1, i + 2, ANGLE, 520.0)
    torsion = openmm.RBTorsionForce()
    torsion.addTorsion(0, 1, 2, 3, *TORSION)
    for force in (bonds, angles, torsion):
        system.addForce(force)
    return system


def all_trans():
    """Positions in angstrom."""
    along, across = 10 * BOND * np.cos(ANGLE), 10 * BOND * np.sin(ANGLE)
    return np.array([[along, across, 0], [0, 0, 0], [10 * BOND, 0, 0], [10 * BOND - along, -across, 0]])


def butane():
    """The system: potential, units, scale. No two of its atoms may be exchanged alone, so each has a label."""
    energy = OpenMM(force_field(), temperature=TEMPERATURE, length_angstrom=10 * BOND)
    return idem_md.System.of_energy(energy, all_trans(), name="butane", labels=range(4))


def is_trans(x):
    """Whether the torsion of positions (n, 4, 3) is beyond 120 degrees."""
    a, b, c = np.moveaxis(np.diff(x, axis=1), 1, 0)
    u, v = np.cross(a, b), np.cross(b, c)
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    return (cosine < -0.5).astype(float)


def exact_share():
    """The share of trans by quadrature."""
    phi = np.linspace(-np.pi, np.pi, 100_001)
    kT = 8.314462618e-3 * TEMPERATURE
    weight = np.exp(-sum(c * np.cos(phi - np.pi) ** k for k, c in enumerate(TORSION)) / kT)
    return weight[np.cos(phi) < -0.5].sum() / weight.sum()


def main(folder="runs/butane", n=2000, minutes=12, steps=2000, seed=0, config=None):
    """Train, tune, sample; returns shares of trans at 50 evaluations: raw, weighted with its error, exact."""
    system, path = butane(), Path(folder)
    config = config or idem_md.preset(system, "frugal", seed)
    resume = (path / "state.safetensors").exists()  # of an example that was stopped
    checkpoint = idem_md.train(config, path, system=system, resume=resume, minutes=minutes, max_energy_calls=500_000)
    p = checkpoint.provenance
    print(f"trained in {p['seconds']:.0f} s with {p['energy_calls']:,} energy calls")
    tune(checkpoint, run_samples(path), path / "model.safetensors", system=system, heads=HeadTraining(steps=steps))
    sampler, exact = idem_md.load_sampler(folder, system), exact_share()
    for nfe in (25, 50):
        e = sampler.sample(n, nfe=nfe, seed=100 + seed)
        raw, (share, error) = is_trans(e.positions).mean(), e.expectation(is_trans)
        print(
            f"{nfe} evaluations: {e.ess_fraction:.1%} effective of {n} (Pareto k {e.pareto_k:.2f}), "
            f"{e.provenance['energy_calls'] / n:.0f} energy call each; trans {raw:.3f} without weights, "
            f"{share:.3f} +- {error:.3f} with them, {exact:.3f} by quadrature"
        )
    return raw, (share, error), exact


if __name__ == "__main__":
    main(*sys.argv[1:2])
