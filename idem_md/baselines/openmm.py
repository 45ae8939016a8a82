"""OpenMM's Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..forcefields import directory
from ..systems import System, built_in_name
from ..units import Units
from .base import register_engine
from .dynamics import Dynamics, DynamicsEngine, Frames

__all__ = ["OpenMMEngine"]


@dataclass(frozen=True)
class OpenMMRecipe:
    """A serialised System and how it is to move."""

    xml: str
    platform: str
    units: Units
    n_dims: int
    timestep_fs: float
    friction_per_ps: float

    def build(self, x: np.ndarray, seed: int) -> Dynamics:
        """See `dynamics.Recipe`."""
        return OpenMMDynamics(self, x, seed)


class OpenMMDynamics:
    """LangevinMiddle (Zhang et al., J. Phys. Chem. A 123, 6056, 2019)."""

    def __init__(self, recipe: OpenMMRecipe, x: np.ndarray, seed: int):
        import openmm

        system = openmm.XmlSerializer.deserialize(recipe.xml)
        t = recipe.units.temperature_kelvin
        self.integrator = openmm.LangevinMiddleIntegrator(t, recipe.friction_per_ps, recipe.timestep_fs / 1000)
        self.integrator.setRandomNumberSeed(seed)
        platform = openmm.Platform.getPlatformByName(recipe.platform)
        # A process a core.
        properties = {"Threads": "1"} if "Threads" in platform.getPropertyNames() else {}
        self.context = openmm.Context(system, self.integrator, platform, properties)
        self.nanometre, self.n_dims = recipe.units.length_angstrom / 10, recipe.n_dims
        self.kT, self.freedoms = recipe.units.kT_kJ_per_mol, 3 * len(x)
        positions = np.zeros((len(x), 3))
        positions[:, : self.n_dims] = x * self.nanometre
        self.context.setPositions(positions)
        self.context.setVelocitiesToTemperature(t, seed)

    def potential_energy(self) -> float:
        """See `dynamics.Dynamics`."""
        return self.context.getState(energy=True).getPotentialEnergy()._value / self.kT

    def advance(self, frames: int, stride: int) -> Frames:
        """See `dynamics.Dynamics`."""
        from openmm import unit

        x, kinetic = np.empty((frames, self.freedoms // 3, self.n_dims)), np.empty(frames)
        for k in range(frames):
            self.integrator.step(stride)
            state = self.context.getState(positions=True, energy=True)
            x[k] = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[:, : self.n_dims] / self.nanometre
            kinetic[k] = 2 * state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole) / (self.kT * self.freedoms)
        return Frames(x, kinetic)


@register_engine("openmm")
class OpenMMEngine(DynamicsEngine):
    """LangevinMiddle on the force field of a built-in system, or on an OpenMM System of your own.

    It runs on the platform that evaluates it fastest; a trial says which.
    """

    def masses(self, system: System) -> np.ndarray:
        """See `DynamicsEngine`."""
        import openmm

        found = openmm.XmlSerializer.deserialize(_xml(system))
        return np.array([found.getParticleMass(i)._value for i in range(system.n_atoms)])

    def recipe(self, system: System, timestep_fs: float) -> OpenMMRecipe:
        """See `DynamicsEngine`."""
        from ..energies import fastest_platform

        xml = _xml(system)
        platform = fastest_platform(xml, system.units)
        return OpenMMRecipe(xml, platform, system.units, system.n_dims, timestep_fs, self.friction_per_ps)


def _xml(system: System) -> str:
    """A serialised System with the potential of ``system``, trap included."""
    import openmm
    from openmm import app

    from ..energies import OpenMM

    name, energy = built_in_name(system), system.origin()
    field = Path(directory()) / "idem_md" / f"{name}.xml"
    if name is not None and field.exists():
        built = app.ForceField(str(field)).createSystem(
            system.openmm_topology(), nonbondedMethod=app.NoCutoff, removeCMMotion=False
        )
        return openmm.XmlSerializer.serialize(built)
    if not isinstance(energy, OpenMM):
        raise UsageError(f"engine: expected another than 'openmm' for {system.name!r}, which has no force field")
    if system.n_dims == 2:
        raise UsageError(
            f"engine: expected another than 'openmm' for {system.name!r}, which it would not keep in its plane"
        )
    built = openmm.XmlSerializer.deserialize(energy.xml)
    for k in reversed(range(built.getNumForces())):
        if isinstance(built.getForce(k), openmm.CMMotionRemover):  # the thermostat is for all degrees of freedom
            built.removeForce(k)
    if energy.trap:
        n = built.getNumParticles()
        # kT / A^2 to kJ/mol / nm^2; over pairs, sum_i |x_i - centroid|^2 = sum_(i<j) r^2 / n.
        trap, stiffness = openmm.HarmonicBondForce(), energy.trap * energy.units.kT_kJ_per_mol * 100 / n
        for i in range(n):
            for j in range(i):
                trap.addBond(i, j, 0.0, stiffness)
        built.addForce(trap)
    return openmm.XmlSerializer.serialize(built)
