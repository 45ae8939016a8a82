"""What `idem-md analyse` finds: one function of an ensemble a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from ..ensemble import WeightedEnsemble
from ..errors import IdemError, MissingPackage, ResultError, UsageError
from ..registry import Registry
from .basins import FULL_TURN, Basin, basins
from .dihedrals import TORSIONS, is_torsion, torsion_values
from .distributions import (
    MIN_ESS_FOR_SHAPES,
    Curve,
    distribution,
    energy_distribution,
    free_energy_profile,
    mean_of,
    radial_distribution,
    require_ess,
)
from .observables import OBSERVABLES, POWERS
from .thermodynamics import heat_capacity, potential_energies

__all__ = ["ANALYSES", "Finding", "analyse", "find", "profile", "register_analysis"]


@dataclass(frozen=True)
class Finding:
    """One result of `analyse`: a mean, a distribution or both with errors, or why there is neither.

    Attributes
    ----------
    name, unit : str
    value, error : float or None
        A weighted mean with its standard error, if there is one.
    curve : Curve or None
        A distribution or a profile.
    basins : tuple of Basin
        Of a profile along a torsion.
    refused : str
        Why there is nothing; empty otherwise.
    """

    name: str
    unit: str = ""
    value: float | None = None
    error: float | None = None
    curve: Curve | None = None
    basins: tuple[Basin, ...] = ()
    refused: str = ""


# Ensemble to finding.
Analysis = Callable[[WeightedEnsemble], Finding]
ANALYSES: Registry[Analysis] = Registry("observable")

A = TypeVar("A", bound=Callable[..., Finding])


def register_analysis(name: str) -> Callable[[A], A]:
    """Decorator: makes a function of ensembles known to `analyse` under that name; functions of positions alone are
    better registered as observables."""
    return ANALYSES.register(name)


@register_analysis("energy")
def _energy(e: WeightedEnsemble) -> Finding:
    value, error = mean_of(e, e.energies[e.alive], "energy")
    curve = energy_distribution(e) if e.ess >= MIN_ESS_FOR_SHAPES else None
    return Finding("energy", "kT", value, error, curve)


@register_analysis("potential_energy")
def _potential_energy(e: WeightedEnsemble) -> Finding:
    """The energy in eV and without the trap, as calculators give it."""
    value, error = mean_of(e, potential_energies(e)[e.alive] * e.system.units.kT_eV, "potential_energy")
    return Finding("potential_energy", "eV", value, error)


@register_analysis("heat-capacity")
def _heat_capacity(e: WeightedEnsemble) -> Finding:
    require_ess(e, MIN_ESS_FOR_SHAPES, "heat-capacity")
    return Finding("heat-capacity", "k_B", *heat_capacity(e))


@register_analysis("rdf")
def _rdf(e: WeightedEnsemble) -> Finding:
    return Finding("rdf", curve=radial_distribution(e))


def _values(e: WeightedEnsemble, name: str):
    """Values of an observable of positions, in Å, and their unit."""
    if is_torsion(name):
        return torsion_values(e, name), "°"
    power = POWERS.get(name)
    values = OBSERVABLES[name](e.positions[e.alive])
    if not power:
        return values, ""
    return values * e.system.units.length_angstrom**power, "Å" if power == 1 else f"Å^{power}"


def _of_observable(name: str, e: WeightedEnsemble) -> Finding:
    """Mean and distribution; of several values a sample, those of all. An angle has no mean."""
    values, unit = _values(e, name)
    if is_torsion(name):
        return Finding(name, unit, curve=distribution(e, values, FULL_TURN, f"{name} (°)", "probability density (1/°)"))
    value, error = mean_of(e, values.reshape(len(values), -1).mean(1), name)
    label = f"{name} ({unit})" if unit else name
    of = f"probability density (1/{unit})" if unit else "probability density"
    curve = distribution(e, values, variable=label, quantity=of) if e.ess >= MIN_ESS_FOR_SHAPES else None
    return Finding(name, unit, value, error, curve)


def find(name: str) -> Analysis:
    """The analysis of that name, or one of an observable of that name.

    Raises
    ------
    UsageError
        There is none; lists those there are.
    """
    if name in ANALYSES:
        return ANALYSES[name]
    if name in OBSERVABLES or is_torsion(name):
        return partial(_of_observable, name)
    known = ", ".join([*ANALYSES, *OBSERVABLES, "dihedral:i,j,k,l", *TORSIONS])
    raise UsageError(f"observable: expected some of {known}, got {name!r}")


def observed(e: WeightedEnsemble, name: str) -> tuple[np.ndarray, str]:
    """Values of an observable, or the energy, of the samples of some weight, and what to call them.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name == "energy":
        return e.energies[e.alive], "energy (kT)"
    if not is_torsion(name):
        OBSERVABLES.find(name)
    values, unit = _values(e, name)
    return values, f"{name} ({unit})" if unit else name


def profile(e: WeightedEnsemble, name: str) -> Finding:
    """Free energy along an observable, or along the energy.

    Raises
    ------
    UsageError
        Unknown, or of several values a sample.
    ResultError
        Too few effective samples.
    """
    values, label = observed(e, name)
    if values.ndim != 1:
        raise UsageError(f"profile: expected an observable of one value a sample, got {name!r}")
    if is_torsion(name):
        curve = free_energy_profile(e, values, FULL_TURN, label)
        return Finding(f"free energy along {name}", curve=curve, basins=basins(e, values))
    return Finding(f"free energy along {name}", curve=free_energy_profile(e, values, variable=label))


def analyse(e: WeightedEnsemble, names: Sequence[str] = (), profiles: Sequence[str] = ()) -> list[Finding]:
    """Weighted averages and distributions with their errors, and a reason where there are too few samples for them.

    Parameters
    ----------
    names : sequence of str
        Of analyses and observables; by default all that the system has.
    profiles : sequence of str
        Observables along which to give the free energy.

    Raises
    ------
    UsageError
        Unknown names, or observables that the system does not have.
    """
    asked = [(name, find(name)) for name in names or (*ANALYSES, *OBSERVABLES)]
    asked += [(f"free energy along {name}", partial(profile, name=name)) for name in profiles]
    found = []
    for name, analysis in asked:
        try:
            found.append(analysis(e))
        except (ResultError, MissingPackage) as error:
            found.append(Finding(name, refused=str(error)))
        except IdemError:
            if names or name.startswith("free"):
                raise  # asked for by name: otherwise the system does not have it
    return found
