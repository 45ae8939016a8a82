"""Conversion between reduced quantities (lengths in the system's unit, energies in kT) and physical units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .errors import UsageError

__all__ = [
    "BOLTZMANN_EV",
    "GAS_CONSTANT",
    "Quantity",
    "Units",
    "as_numbers",
    "in_angstrom",
    "in_kelvin",
    "trap_stiffness",
    "without_unit",
]

# CODATA 2018; exact since the 2019 redefinition of the SI.
BOLTZMANN_EV = 8.617333262e-5  # eV/K
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K


@dataclass(frozen=True)
class Units:
    """Physical size of one reduced length and of one kT.

    Parameters
    ----------
    length_angstrom : float
        Length of 1 reduced unit, in Å.
    temperature_kelvin : float
        Temperature T whose kT is the reduced unit of energy.
    """

    length_angstrom: float = 1.0
    temperature_kelvin: float = 300.0

    @property
    def kT_eV(self) -> float:
        """kT in eV."""
        return BOLTZMANN_EV * self.temperature_kelvin

    @property
    def kT_kJ_per_mol(self) -> float:
        """kT in kJ/mol, OpenMM's unit of energy."""
        return GAS_CONSTANT * self.temperature_kelvin

    def to_angstrom(self, x):
        """Reduced length -> Å."""
        return x * self.length_angstrom


@runtime_checkable
class Quantity(Protocol):
    """A number or array with a unit, as OpenMM has them."""

    def value_in_unit(self, unit: Any) -> Any:
        """The bare value."""
        ...


@runtime_checkable
class _Foreign(Protocol):
    """A quantity of pint, unyt or astropy, which loses its unit without a word when it becomes an array."""

    @property
    def unit(self) -> Any: ...


@runtime_checkable
class _Pint(Protocol):
    @property
    def units(self) -> Any: ...


def _converted(name: str, value: Any, unit: str) -> Any:
    if isinstance(value, Quantity):
        from openmm import unit as openmm_unit

        try:
            return value.value_in_unit(getattr(openmm_unit, unit))
        except (TypeError, AttributeError):
            came = getattr(value, "unit", type(value).__name__)
            raise UsageError(f"{name}: expected a quantity that is one of {unit}, got {came}") from None
    return without_unit(name, value, unit)


def in_angstrom(name: str, value: Any) -> Any:
    """A length or array of lengths in Å; of OpenMM's quantities by conversion, anything else as it is.

    Raises
    ------
    UsageError
        Another quantity than a length, or one of a library that is not known here.
    """
    return _converted(name, value, "angstrom")


def in_kelvin(name: str, value: Any) -> Any:
    """The same for temperatures."""
    return _converted(name, value, "kelvin")


def without_unit(name: str, value: Any, wanted: str) -> Any:
    """The value itself; raises `UsageError` for one with a unit, ``wanted`` says what bare numbers are."""
    if isinstance(value, (Quantity, _Foreign, _Pint)):
        raise UsageError(f"{name}: expected bare numbers ({wanted}), got a quantity, {type(value).__name__}")
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """What lists and tuples hold, one of each type."""
    if not isinstance(value, (list, tuple)):
        yield value
        return
    seen = set()
    for item in value:
        for leaf in _leaves(item):
            if type(leaf) not in seen or isinstance(leaf, np.ma.MaskedArray):
                seen.add(type(leaf))
                yield leaf


def as_numbers(name: str, value: Any, wanted: str = "an array of numbers") -> np.ndarray:
    """An array in float64, of anything that holds nothing but real numbers.

    What would be lost on the way is refused: units, masks, missing values of pandas, imaginary parts, gradients.

    Parameters
    ----------
    name : str
        What to call the argument in the error.
    value : array_like
    wanted : str
        What bare numbers are.

    Raises
    ------
    UsageError
        Says what came.
    """
    for leaf in _leaves(value):
        without_unit(name, leaf, wanted)
        if isinstance(leaf, np.ma.MaskedArray) and leaf.mask is not np.ma.nomask:
            raise UsageError(
                f"{name}: expected {wanted}, got a masked array, whose mask would be lost; leave out what is masked"
            )
        if getattr(leaf, "requires_grad", False):
            raise UsageError(f"{name}: expected {wanted}, got a tensor that requires gradients; detach() it")
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, tensors of another device, and whatever else calls itself an array
        raise UsageError(f"{name}: expected {wanted}, got {type(value).__name__} ({error})") from None
    if array.dtype.kind not in "buif":
        what = "pandas' NA or other objects" if array.dtype.kind == "O" else str(array.dtype)
        raise UsageError(f"{name}: expected real numbers ({wanted}), got {type(value).__name__} of {what}")
    return array.astype(np.float64, copy=False)


def trap_stiffness(parameters: Mapping[str, Any], length_angstrom: float) -> float | None:
    """Stiffness of the harmonic trap (kT / Å^2) in an energy of such ``parameters``; None if they do not say."""
    k = parameters.get("trap_kT_per_angstrom2")
    if k is None and isinstance(reduced := parameters.get("trap"), int | float):
        k = reduced / length_angstrom**2
    # The potential may be at another temperature than it was made for.
    return None if k is None else float(k * parameters.get("factor", 1.0))
