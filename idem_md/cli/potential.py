"""Potentials of one's own on the command line: an ASE calculator by a function, an OpenMM System by a file."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    import ase

    from ..checkpoint import Checkpoint
    from ..systems import System

__all__ = [
    "OWN",
    "CalculatorOption",
    "LabelsOption",
    "OwnPotential",
    "TrapOption",
    "TwinCalculatorOption",
    "XmlOption",
    "atoms_of",
    "cores",
    "explaining_potentials",
    "own_system",
    "system_of_network",
]

# After the name of a built-in system, for a potential of one's own by its network.
OWN = "-own"

CalculatorOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="Function that returns atoms with calculator.",
    ),
]
XmlOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="An OpenMM System; needs a PDB of that name."),
]

LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="0,1,1,...",
        help="Equal numbers for interchangeable atoms.",
    ),
]
TWIN_CALCULATOR_HELP = "A cheaper potential, on which paths end."
TwinCalculatorOption = Annotated[
    str | None,
    typer.Option("--twin-calculator", metavar="MODULE:FUNCTION", help=TWIN_CALCULATOR_HELP),
]

TrapOption = Annotated[
    float | None,
    typer.Option(
        metavar="K",
        help="Stiffness (kT/Å^2); 0.05, molecules: 0.005.",
    ),
]


def explaining_potentials(command: Callable) -> Callable:
    """Decorator: says in the help of a command what ``--calculator`` and ``--xml`` take."""
    command.__doc__ = f"""{inspect.cleandoc(command.__doc__ or "")}

--calculator MODULE:FUNCTION names a function without arguments that returns ase.Atoms with a calculator; MODULE may be
a file, ./my.py. --xml FILE names an OpenMM System, with atoms and a geometry in the PDB of the same name."""
    return command


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def atoms_of(where: str) -> ase.Atoms:
    """What the function ``MODULE:FUNCTION`` returns. The module is an importable one, looked for in the working folder
    as well, or the path of a file.

    Raises
    ------
    UsageError
        No such function, or it returns something else.
    """
    import ase

    from ..errors import UsageError

    module, colon, function = where.rpartition(":")
    if not colon or not module or not function:
        raise UsageError(f"calculator: expected MODULE:FUNCTION, got {where!r}; MODULE may be a .py file")
    try:
        atoms = getattr(_imported(module), function)()
    except Exception as error:  # whatever a module of the user's raises
        raise UsageError(f"calculator: {where!r} failed ({type(error).__name__}: {error})") from None
    if not isinstance(atoms, ase.Atoms) or atoms.calc is None:
        raise UsageError(f"calculator: expected ase.Atoms with a calculator from {where!r}, got {atoms!r}")
    return atoms


def _imported(module: str) -> ModuleType:
    """A module by its name, or by the path of its file, beside which it may import others."""
    path = Path(module)
    if path.suffix != ".py":
        _look_in(Path.cwd())
        return importlib.import_module(module)
    path = path.resolve()
    _look_in(path.parent)
    # Others of that name may be there: a file is known by where it is.
    name = f"idem_md_calculator_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # of a .py file there is one
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@dataclass(frozen=True)
class Factory:
    """A calculator of its own for every process."""

    where: str

    def __call__(self) -> Any:
        return atoms_of(self.where).calc


@dataclass(frozen=True)
class OwnPotential:
    """What a command that draws samples is told of a potential of the user's: an ASE calculator or an OpenMM System,
    and a cheaper potential of the same atoms, on which paths end."""

    calculator: str | None = None
    xml: Path | None = None
    twin_calculator: str | None = None

    def __str__(self) -> str:
        """The options, to be said again."""
        given = ("calculator", self.calculator), ("xml", self.xml), ("twin-calculator", self.twin_calculator)
        return "".join(f" --{name} {value}" for name, value in given if value is not None)

    def systems(self, network: Checkpoint, processes: int = 1) -> tuple[System, System | None]:
        """The system that a network shall sample, and that of the cheaper potential, if there is one.

        Raises
        ------
        UsageError
            A cheaper potential and none that is to be sampled.
        """
        from ..errors import UsageError

        if self.twin_calculator is None:
            return system_of_network(network, self.calculator, self.xml, processes), None
        if self.calculator is None and self.xml is None:
            raise UsageError(
                "twin-calculator: expected --calculator or --xml beside it, the potential to sample, got neither"
            )
        cheap = system_of_network(network, self.twin_calculator, None, processes)
        return system_of_network(network, self.calculator, self.xml, processes), cheap


def system_of_network(network: Checkpoint, calculator: str | None, xml: Path | None, processes: int = 1) -> System:
    """The system of a network, or a potential of the user's in its units, with the trap of the training."""
    from ..systems import SYSTEMS

    known, trap = network.system, network.provenance.get("trap_kT_per_angstrom2")
    name = known.name
    if name in SYSTEMS:  # of a built-in system, whose trap is another
        name, trap = f"{name}{OWN}", None
    return own_system(name, calculator, xml, None, known, processes, trap=trap) or known


def own_system(
    name: str,
    calculator: str | None,
    xml: Path | None,
    temperature: float | None,
    known: System | None = None,
    processes: int = 1,
    labels: str | None = None,
    trap: float | None = None,
) -> System | None:
    """The system of a potential that the command line names; None if it names none.

    Parameters
    ----------
    name : str
        For the new system.
    temperature : float, optional
        In kelvin.
    known : System, optional
        That of a network which has been trained for it: units, temperature and labels are the same. By default the unit
        of length is the distance of nearest neighbours.
    processes : int
        That evaluate it on this machine, among which its cores are shared out.
    labels : str, optional
        One whole number an atom, with commas; see `System`.
    trap : float, optional
        Stiffness in kT / Å^2 of the trap, all in all; by default that of the calculator, or else the usual weak one
        (see `energies.ForeignEnergy`), which for an OpenMM System is added to its own.

    Raises
    ------
    UsageError
        Both potentials, no temperature, or one that cannot be had.
    """
    from ..errors import UsageError
    from ..systems import System, nearest_neighbour_distance

    if calculator is None and xml is None:
        for option, value in (("labels", labels), ("trap", trap)):
            if value is not None and known is None:
                raise UsageError(f"{option}: expected none for a built-in system, got {value!r}")
        return None
    if calculator is not None and xml is not None:
        raise UsageError(f"xml: expected none beside --calculator {calculator}, got {xml}")
    alike = _labels(labels) if known is None else known.labels
    units = None if known is None else known.units
    if units is None and temperature is None:
        raise UsageError("temperature: expected one, in kelvin, for a potential of your own, got none")
    kelvin = units.temperature_kelvin if units is not None else cast(float, temperature)
    share = cores() // processes
    workers = share if share > 1 else None
    if calculator is not None:
        from ..energies import ASE
        from ..energies.native_ase import native_energy

        atoms = atoms_of(calculator)
        length = None if units is None else units.length_angstrom
        energy: Any = native_energy(atoms, kelvin, _added(atoms, kelvin, trap), length)
        if energy is None:
            length = nearest_neighbour_distance(atoms.positions) if length is None else length
            energy = ASE(
                atoms, Factory(calculator), temperature_K=kelvin, length_angstrom=length, trap=trap, workers=workers
            )
        return _with_labels_of(known, System.of_energy(energy, atoms.positions, name, alike))
    assert xml is not None
    from openmm import app, unit

    from ..energies import OpenMM

    try:
        text, pdb = xml.read_text(encoding="utf-8"), app.PDBFile(str(xml.with_suffix(".pdb")))
    except Exception as error:  # openmm's reader raises what it meets
        raise UsageError(f"xml: cannot read {xml} and {xml.with_suffix('.pdb').name} beside it ({error})") from None
    positions = pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    length = units.length_angstrom if units is not None else nearest_neighbour_distance(positions)
    options = {"length_angstrom": length, "trap": trap, "workers": workers, "reference": positions}
    energy = OpenMM(text, pdb.topology, temperature=kelvin, **options)
    return _with_labels_of(known, System.of_energy(energy, positions, name, alike))


def _with_labels_of(known: System | None, system: System) -> System:
    """The system with the labels of a network's, which may be of a version that did not know them by the bonds."""
    return system if known is None or known.labels is not None else replace(system, labels=None)


def _added(atoms: ase.Atoms, kelvin: float, trap: float | None) -> float:
    """The stiffness (kT / Å^2) to add to that of the calculator, for as much as ``trap`` in all."""
    from ..energies.native_ase import added_trap, native_potential
    from ..errors import UsageError
    from ..units import trap_stiffness

    if trap is None:
        return added_trap(atoms)
    known = native_potential(atoms)
    if known is None or not known.has_trap():
        return trap
    energy = known.reduced(atoms.get_chemical_symbols(), kelvin, 0.0, 1.0)
    own = trap_stiffness(energy.parameters, 1.0) or 0.0
    if trap < (1 - 1e-9) * own:
        raise UsageError(
            f"trap: expected at least that of the calculator, {own:.3g} kT/Å^2 at {kelvin:g} K, got {trap:g}"
        )
    return max(trap - own, 0.0)


def _labels(text: str | None) -> list[int] | None:
    from ..errors import UsageError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"labels: expected whole numbers with commas, one an atom, got {text!r}") from None
