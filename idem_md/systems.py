"""Named systems: an energy, its physical scale, and what is known exactly about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .checks import UsageError
from .energies import DoubleWell, Energy, GaussianMixture, LennardJones
from .units import Units

__all__ = ["SYSTEMS", "System", "get_system", "nearest_neighbour_distance"]


@dataclass(frozen=True)
class System:
    """One named target of sampling.

    Attributes
    ----------
    name, description : str
    make_energy : callable () -> Energy
    elements : tuple of str
        Chemical symbol of each atom, written to topology files.
    units : Units
    sigma_data : float
        Standard deviation of a coordinate under the target, in reduced length: the scale of the preconditioning.
    exact_mean_energy : tuple[float, float] or None
        Mean of u and its standard error by long MCMC, for reports; never used in training or sampling.
    labels : tuple of int, optional
        Which atoms are alike: the network treats those of one label as interchangeable. By default atoms of one element
        are; in a molecule whose atoms of one element are not equivalent, give them labels of their own.
    """

    name: str
    description: str
    make_energy: Callable[[], Energy]
    elements: tuple[str, ...]
    units: Units
    sigma_data: float
    exact_mean_energy: tuple[float, float] | None = None
    labels: tuple[int, ...] | None = None

    def energy(self) -> Energy:
        """The energy, with a call counter of its own at zero."""
        energy = copy.copy(self.make_energy())
        energy.calls, energy.max_calls = 0, None
        return energy

    @property
    def kinds(self) -> tuple[int, ...]:
        """For each atom the number of its kind, 0, 1, ...; from ``labels`` or else the elements."""
        labels = self.elements if self.labels is None else self.labels
        order = sorted(set(labels))
        return tuple(order.index(label) for label in labels)

    def describe(self) -> dict:
        """All but the energy, as JSON: what checkpoints and ensembles carry. The inverse is `System.described`."""
        return {"name": self.name, "description": self.description, "elements": list(self.elements),
                "length_angstrom": self.units.length_angstrom, "temperature_kelvin": self.units.temperature_kelvin,
                "sigma_data": self.sigma_data, "labels": None if self.labels is None else list(self.labels)}

    @classmethod
    def described(cls, table: dict) -> System:
        """A system from `describe`; asked for its energy it raises `UsageError`.

        Raises
        ------
        KeyError, TypeError, ValueError
            Not such a table.
        """
        name = str(table["name"])

        def unknown():
            raise UsageError(f"system: the potential of {name!r} is not part of this file; pass system=")

        labels = None if table["labels"] is None else tuple(map(int, table["labels"]))
        return cls(name, str(table["description"]), unknown, tuple(map(str, table["elements"])),
                   Units(float(table["length_angstrom"]), float(table["temperature_kelvin"])), float(table["sigma_data"]),
                   labels=labels)

    @classmethod
    def of_energy(cls, energy: Energy, positions, name: str = "custom", labels=None) -> System:
        """A system of a foreign potential, its scale taken from one ordinary configuration.

        Parameters
        ----------
        energy : Energy with the attributes ``units`` (Units) and ``elements`` (a symbol an atom)
            An `energies.ASE`, an `energies.OpenMM`, or one of your own. Its ``length_angstrom`` had best be near the distance of nearest neighbours, which is what the presets are
            written for; see `nearest_neighbour_distance`.
        positions : array, shape (N, 3), in Å
        name : str
            May not be that of a built-in system.
        labels : sequence of int, optional
            See the class.

        Raises
        ------
        UsageError
            Positions of another shape, or a name that is taken.
        """
        x = np.asarray(positions, dtype=np.float64)
        if x.shape != (energy.n_atoms, energy.n_dims) or not np.isfinite(x).all():
            raise UsageError(f"positions: expected finite numbers of shape ({energy.n_atoms}, {energy.n_dims}), got shape {x.shape}")
        if name in SYSTEMS:
            raise UsageError(f"name: expected one that is not taken by a built-in system, got {name!r}")
        if labels is not None and len(labels) != energy.n_atoms:
            raise UsageError(f"labels: expected one for each of {energy.n_atoms} atoms, got {len(labels)}")
        centred = (x - x.mean(0)) / energy.units.length_angstrom
        if not centred.any():
            raise UsageError("positions: expected an ordinary geometry, got all atoms in one place")
        sigma_data = float(np.sqrt((centred**2).sum() / ((energy.n_atoms - 1) * energy.n_dims)))
        return cls(name, f"{type(energy).__name__} potential", lambda: energy, energy.elements, energy.units, sigma_data,
                   labels=None if labels is None else tuple(map(int, labels)))


def nearest_neighbour_distance(positions) -> float:
    """Median over the atoms of the distance to the nearest other one; positions (N, D) in any unit."""
    x = np.asarray(positions, dtype=np.float64)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    return float(np.median(d.min(1)))


# Argon (Rahman's parameters): r_m = 3.8220 Å, epsilon/k_B = 119.8 K. The benchmarks have epsilon = 2 kT.
_ARGON = Units(length_angstrom=3.8220, temperature_kelvin=119.8 / 2.0)

SYSTEMS: dict[str, System] = {
    s.name: s
    for s in (
        System("lj13", "13 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
               lambda: LennardJones(n_atoms=13, epsilon=2.0, r_min=1.0, trap=1.0), ("Ar",) * 13, _ARGON, 0.68, (-42.92, 0.02)),
        System("lj55", "55 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
               lambda: LennardJones(n_atoms=55, epsilon=2.0, r_min=1.0, trap=1.0), ("Ar",) * 55, _ARGON, 0.97, (-325.8, 0.3)),
        System("argon", "13 argon atoms at 40 K in a trap of 0.1 kT/r_m^2",
               lambda: LennardJones(n_atoms=13, epsilon=119.8 / 40.0, r_min=1.0, trap=0.1), ("Ar",) * 13, Units(3.8220, 40.0),
               0.68, None),
        System("binary", "10 + 3 Lennard-Jones atoms with the ratios of Kob and Andersen, trap 1 kT/r_m^2",
               lambda: LennardJones(n_atoms=13, epsilon=[[2.0, 3.0], [3.0, 1.0]], r_min=[[1.0, 0.8], [0.8, 0.88]], trap=1.0,
                                    species=[0] * 10 + [1] * 3), ("Ar",) * 10 + ("Ne",) * 3, _ARGON, 0.64, None),
        System("dw4", "4 particles in 2D with a pairwise double well (literature benchmark)",
               DoubleWell, ("Ar",) * 4, Units(), 1.8, (-22.536, 0.002)),
        System("gmm40", "a point in a mixture of 40 Gaussians in the plane (literature benchmark)",
               GaussianMixture, ("Ar",), Units(), 23.0, (6.8594, 0.0002)),
    )
}


def get_system(name: str | System) -> System:
    """The named system; a system is returned as it is.

    Raises
    ------
    UsageError
        No such system; lists those there are.
    """
    if isinstance(name, System):
        return name
    if name not in SYSTEMS:
        raise UsageError(f"system: expected one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]
