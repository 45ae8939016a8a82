"""ASE's Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from typing import cast

import ase
import numpy as np
import torch
from ase import units as ase_units
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixCartesian
from ase.data import atomic_masses, atomic_numbers
from ase.md.langevin import Langevin

from .. import energies
from ..energies.ase import AseRecipe as AtomsRecipe
from ..systems import System
from ..units import Units
from .base import register_engine
from .dynamics import Dynamics, DynamicsEngine, Frames

__all__ = ["AseEngine", "Trap", "maker"]

# For atoms without an element.
DUMMY_MASS = 1.0


class Trap(Calculator):
    """stiffness/2 sum_i |x_i - centroid|^2, stiffness in eV/Å^2."""

    implemented_properties = ["energy", "free_energy", "forces"]
    nolabel = True

    def __init__(self, stiffness: float):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """See `ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        x = cast(ase.Atoms, self.atoms).positions
        y = x - x.mean(0)
        u = 0.5 * self.stiffness * float((y**2).sum())
        self.results = {"energy": u, "free_energy": u, "forces": -self.stiffness * y}


class Reduced(Calculator):
    """A reduced potential, in eV and Å; particles in the plane are in z = 0."""

    implemented_properties = ["energy", "free_energy", "forces"]
    nolabel = True

    def __init__(self, energy: energies.Energy, units: Units):
        super().__init__()
        self.energy, self.units = energy, units

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """See `ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        x = cast(ase.Atoms, self.atoms).positions[:, : self.energy.n_dims] / self.units.length_angstrom
        if len(x) > 1:
            x = x - x.mean(0)
        u, f = self.energy(torch.from_numpy(x[None].copy()))
        value, forces = float(u[0]) * self.units.kT_eV, np.zeros((len(x), 3))
        forces[:, : self.energy.n_dims] = f[0].numpy() * self.units.kT_eV / self.units.length_angstrom
        self.results = {"energy": value, "free_energy": value, "forces": forces}


# Atoms with a calculator, from what pickles.
Maker = Callable[[], ase.Atoms]


def _atoms(elements: tuple[str, ...], calculator: Callable[..., BaseCalculator], *arguments) -> ase.Atoms:
    known = [e for e in elements if e != "X"]
    atoms = ase.Atoms(elements, positions=np.zeros((len(elements), 3)))
    if len(known) < len(elements):
        atoms.set_masses([atomic_masses[atomic_numbers[e]] if e != "X" else DUMMY_MASS for e in elements])
    atoms.calc = calculator(*arguments)
    return atoms


def _lennard_jones(epsilon: float, sigma: float, trap: float) -> BaseCalculator:
    return SumCalculator([AseLennardJones(epsilon=epsilon, sigma=sigma, rc=1e4 * sigma), Trap(trap)])  # no cutoff


def _given(atoms: ase.Atoms, given, trap: float) -> ase.Atoms:
    atoms, own = atoms.copy(), given if isinstance(given, BaseCalculator) else given()
    atoms.calc = SumCalculator([own, Trap(trap)]) if trap else own
    return atoms


@singledispatch
def maker(energy: energies.Energy, system: System) -> Maker:
    """What a user of ASE would take for an energy; ways for other kinds of energies can be registered."""
    return partial(_atoms, system.elements, Reduced, energy, system.units)


@maker.register
def _(energy: energies.LennardJones, system: System) -> Maker:
    length, kT = system.units.length_angstrom, system.units.kT_eV
    if energy.species is not None:
        return partial(_atoms, system.elements, Reduced, energy, system.units)
    sigma = energy.r_min * length / 2 ** (1 / 6)
    return partial(_atoms, system.elements, _lennard_jones, energy.epsilon * kT, sigma, energy.trap * kT / length**2)


@maker.register
def _(energy: energies.Scaled, system: System) -> Maker:
    # The potential is the same at every temperature; it was made in kT of its own.
    units = replace(system.units, temperature_kelvin=system.units.temperature_kelvin * energy.factor)
    return maker(energy.energy, replace(system, units=units))


@maker.register
def _(energy: energies.ASE, system: System) -> Maker:
    recipe = cast(AtomsRecipe, energy.recipe)
    return partial(_given, recipe.atoms, recipe.calculator, energy.trap * energy.units.kT_eV)


@dataclass(frozen=True)
class AseRecipe:
    """Where the atoms come from, and how they are to move."""

    make: Maker
    units: Units
    n_dims: int
    timestep_fs: float
    friction_per_ps: float

    def build(self, x: np.ndarray, seed: int) -> Dynamics:
        """See `dynamics.Recipe`."""
        return AseDynamics(self, x, seed)


class AseDynamics:
    """Langevin dynamics (Vanden-Eijnden & Ciccotti, Chem. Phys. Lett. 429, 310, 2006), the centre of mass free."""

    def __init__(self, recipe: AseRecipe, x: np.ndarray, seed: int):
        self.units, self.n_dims = recipe.units, recipe.n_dims
        self.atoms = recipe.make()
        positions = np.tile(self.atoms.positions.mean(0), (len(x), 1))  # for codes that have a box
        positions[:, : self.n_dims] += x * self.units.length_angstrom
        self.atoms.positions = positions
        if self.n_dims == 2:
            self.atoms.set_constraint(FixCartesian(range(len(x)), mask=(False, False, True)))
        random = np.random.default_rng(seed)
        widths = np.sqrt(self.atoms.get_masses() * self.units.kT_eV)
        self.atoms.set_momenta(random.normal(size=positions.shape) * widths[:, None])
        self.dynamics = Langevin(
            self.atoms,
            recipe.timestep_fs * ase_units.fs,
            temperature_K=self.units.temperature_kelvin,
            friction=recipe.friction_per_ps / (1000 * ase_units.fs),
            fixcm=False,
            rng=random,
        )
        self.freedoms = len(x) * self.n_dims
        self.kT = self.units.kT_eV

    def potential_energy(self) -> float:
        """See `dynamics.Dynamics`."""
        return self.atoms.get_potential_energy() / self.kT

    def advance(self, frames: int, stride: int) -> Frames:
        """See `dynamics.Dynamics`."""
        x, kinetic = np.empty((frames, len(self.atoms), self.n_dims)), np.empty(frames)
        for k in range(frames):
            self.dynamics.run(stride)
            x[k] = self.atoms.positions[:, : self.n_dims] / self.units.length_angstrom
            kinetic[k] = 2 * self.atoms.get_kinetic_energy() / (self.kT * self.freedoms)
        return Frames(x, kinetic)


@register_engine("ase")
class AseEngine(DynamicsEngine):
    """ASE's Langevin on the calculator of an `energies.ASE`, on ASE's own Lennard-Jones calculator where the potential
    is that, and on any other energy of this package by way of a calculator around it."""

    def masses(self, system: System) -> np.ndarray:
        """See `DynamicsEngine`."""
        return maker(system.energy(), system)().get_masses()

    def recipe(self, system: System, timestep_fs: float) -> AseRecipe:
        """See `DynamicsEngine`."""
        make = maker(system.energy(), system)
        return AseRecipe(make, system.units, system.n_dims, timestep_fs, self.friction_per_ps)
