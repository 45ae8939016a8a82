"""Named systems: an energy, its physical scale, and what is known exactly about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .checks import UsageError
from .energies import DoubleWell, Energy, LennardJones
from .units import Units

__all__ = ["SYSTEMS", "System", "get_system"]


@dataclass(frozen=True)
class System:
    """One named target of sampling.

    Attributes
    ----------
    name, description : str
    make_energy : callable () -> Energy
    element : str
        Chemical symbol written to topology files.
    units : Units
    sigma_data : float
        Standard deviation of a coordinate under the target, in reduced length: the scale of the preconditioning.
    exact_mean_energy : tuple[float, float] or None
        Mean of u and its standard error by long MCMC, for reports; never used in training or sampling.
    """

    name: str
    description: str
    make_energy: Callable[[], Energy]
    element: str
    units: Units
    sigma_data: float
    exact_mean_energy: tuple[float, float] | None = None

    def energy(self) -> Energy:
        """A new energy with its call counter at zero."""
        return self.make_energy()


# Argon (Rahman's parameters): r_m = 3.8220 Å, epsilon/k_B = 119.8 K. The benchmarks have epsilon = 2 kT.
_ARGON = Units(length_angstrom=3.8220, temperature_kelvin=119.8 / 2.0)

SYSTEMS: dict[str, System] = {
    s.name: s
    for s in (
        System("lj13", "13 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
               lambda: LennardJones(n_atoms=13, epsilon=2.0, r_min=1.0, trap=1.0), "Ar", _ARGON, 0.68, (-42.92, 0.02)),
        System("lj55", "55 Lennard-Jones atoms, epsilon = 2 kT, trap 1 kT/r_m^2 (literature benchmark)",
               lambda: LennardJones(n_atoms=55, epsilon=2.0, r_min=1.0, trap=1.0), "Ar", _ARGON, 0.97, (-325.8, 0.3)),
        System("dw4", "4 particles in 2D with a pairwise double well (literature benchmark)",
               DoubleWell, "Ar", Units(), 1.8, (-22.536, 0.002)),
    )
}


def get_system(name: str) -> System:
    """The named system.

    Raises
    ------
    UsageError
        No such system; lists those there are.
    """
    if name not in SYSTEMS:
        raise UsageError(f"system: expected one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]
