"""Any ASE calculator as a reduced potential."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase
import numpy as np
from ase.calculators.calculator import BaseCalculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from ..checks import check_float
from ..errors import UsageError
from ..units import Units, in_angstrom, in_kelvin
from .foreign import ForeignEnergy, Recipe, default_trap
from .topology import Topology

__all__ = ["ASE"]


FILE_BASED = (FileIOCalculator, GenericFileIOCalculator)


def _apart(calculator: BaseCalculator) -> BaseCalculator:
    """One that works with files in the current folder gets one for this process: several would read each other's
    results."""
    if isinstance(calculator, FILE_BASED) and Path(calculator.directory) == Path("."):
        calculator.directory = Path(tempfile.mkdtemp(prefix="idem-md-"))
        weakref.finalize(calculator, shutil.rmtree, calculator.directory, ignore_errors=True)
    return calculator


@dataclass(frozen=True)
class AseRecipe(Recipe):
    """Atoms without a calculator, and the calculator or a function that makes one."""

    atoms: ase.Atoms
    calculator: BaseCalculator | Callable[[], BaseCalculator]
    units: Units

    def build(self):
        """See `Recipe.build`."""
        atoms = self.atoms.copy()
        centre = atoms.positions.mean(0)  # where the user put the cluster, for codes that have a box
        atoms.calc = self.calculator if isinstance(self.calculator, BaseCalculator) else _apart(self.calculator())
        length, kT = self.units.length_angstrom, self.units.kT_eV

        def evaluate(x: np.ndarray):
            atoms.positions = x * length + centre
            return atoms.get_potential_energy() / kT, atoms.get_forces() * (length / kT)

        return evaluate


class ASE(ForeignEnergy):
    """u = U/kT (+ trap) of free clusters and molecules, U from an ASE calculator.

    Parameters
    ----------
    atoms : ase.Atoms
        Composition, and the calculator unless one is given; not periodic, no constraints.
    calculator : ase.calculators.calculator.Calculator or callable () -> Calculator, optional
        A factory is what other processes want: each worker calls it once. A calculator that works with files in the
        current folder is then given a temporary one, in which relative paths of its own mean nothing: give it absolute
        ones, or a ``directory`` for each process.
    temperature_K : float
    length_angstrom : float
        The unit of length of ``x``; 1 Å by default.
    trap, workers, executor, chunk_size
        See `ForeignEnergy`. The trap is reported in `parameters`.

    Raises
    ------
    UsageError
        No calculator, periodic boundary conditions, constraints, or what `ForeignEnergy` refuses.
    """

    def __init__(
        self,
        atoms: ase.Atoms,
        calculator: BaseCalculator | Callable | None = None,
        *,
        temperature_K: float,
        length_angstrom: float = 1.0,
        **options,
    ):
        if not isinstance(atoms, ase.Atoms) or len(atoms) < 2:
            raise UsageError(f"atoms: expected ase.Atoms of at least two atoms, got {atoms!r}")
        calculator = atoms.calc if calculator is None else calculator
        if not isinstance(calculator, BaseCalculator) and not callable(calculator):
            raise UsageError(f"calculator: expected an ASE calculator or a function that makes one, got {calculator!r}")
        if atoms.pbc.any():
            raise UsageError(f"atoms: expected no periodic boundary conditions, got pbc = {atoms.pbc.tolist()}")
        if atoms.constraints:
            raise UsageError(f"atoms: expected no constraints, they are not supported, got {atoms.constraints}")
        units = Units(
            check_float("length_angstrom", in_angstrom("length_angstrom", length_angstrom), above=0.0),
            check_float("temperature_K", in_kelvin("temperature_K", temperature_K), above=0.0),
        )
        shared = options.get("workers") is not None or options.get("executor") is not None
        if shared and isinstance(calculator, FILE_BASED):
            raise UsageError(
                "calculator: expected a factory that gives every process a directory of its own, got a calculator that "
                f"works with files, for {'workers' if options.get('workers') is not None else 'executor'}="
            )
        bare = atoms.copy()  # without the calculator
        named = calculator.name if isinstance(calculator, BaseCalculator) else getattr(calculator, "__name__", None)
        self.calculator_name = named if isinstance(named, str) else type(calculator).__name__
        topology = Topology.of_atoms(bare)
        if options.get("trap") is None:
            options["trap"] = default_trap(topology)
        super().__init__(len(atoms), 3, AseRecipe(bare, calculator, units), units, reference=atoms.positions, **options)
        self.elements, self.topology = tuple(atoms.get_chemical_symbols()), topology

    @property
    def parameters(self) -> dict:
        """Calculator, temperature, units, trap, and what `ForeignEnergy` knows the potential by."""
        return {"calculator": self.calculator_name, **super().parameters}
