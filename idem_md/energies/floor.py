"""Potentials without a floor: energies that run away as two atoms fall into each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..errors import EnergyError

__all__ = ["Floor", "FloorError"]

# kT an atom below an ordinary geometry from which on a configuration is looked at.
DEPTH = 20.0
# Configurations of a batch whose distances are looked at.
LOOKED_AT = 256


class FloorError(EnergyError):
    """Nothing keeps two atoms from falling into each other."""


@dataclass(frozen=True)
class Floor:
    """What an ordinary geometry says of how low energies may be.

    A configuration far below it is refused if two of its atoms are nearer to each other than any bond is long. Such
    potentials have no Boltzmann distribution: a charge without repulsion of its own, such as a hydrogen of TIP3P water,
    falls into another, and the deeper it falls the more weight it has.

    Attributes
    ----------
    energy : float
        Of the geometry, in kT.
    depth : float
        How far below it a configuration has to be, in kT.
    contact : tuple of float, N
        Radius of each atom, in reduced length: half a covalent one.
    elements : tuple of str
    length_angstrom : float
    """

    energy: float
    depth: float
    contact: tuple[float, ...]
    elements: tuple[str, ...]
    length_angstrom: float

    @classmethod
    def of(cls, energy: float, elements: tuple[str, ...], length_angstrom: float) -> Floor:
        """The floor that a geometry with this energy, in kT, stands for."""
        from ase.data import atomic_numbers, covalent_radii

        radii = (covalent_radii[atomic_numbers.get(symbol, 0)] for symbol in elements)
        contact = tuple(0.5 * float(r) / length_angstrom for r in radii)
        return cls(energy, DEPTH * len(elements), contact, elements, length_angstrom)

    def scaled(self, factor: float) -> Floor:
        """For ``factor`` times the energy."""
        return replace(self, energy=factor * self.energy, depth=factor * self.depth)

    def check(self, name: str, u: torch.Tensor, x: torch.Tensor) -> None:
        """Raise `EnergyError` if one of the energies (B,) of configurations (B, N, D) has run away; names the atoms."""
        low = (u < self.energy - self.depth).nonzero()[:, 0]
        if not len(low):
            return
        low = low[u[low].argsort()[:LOOKED_AT]]  # what runs away is soon below all else
        radii = torch.tensor(self.contact, dtype=torch.float64)
        y = x[low].detach().cpu().double()
        ratio = torch.cdist(y, y) / (radii[:, None] + radii).clamp(min=1e-12)
        ratio.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        worst = int(ratio.flatten(1).amin(1).argmin())
        i, j = divmod(int(ratio[worst].argmin()), ratio.shape[1])
        if ratio[worst, i, j] >= 1:
            return
        b, r = int(low[worst]), float((y[worst, i] - y[worst, j]).norm()) * self.length_angstrom
        raise FloorError(
            f"{name}: expected a potential with a floor, configuration {b} has {float(u[b]):.6g} kT, "
            f"{self.energy - float(u[b]):.3g} below the geometry that the system was made with, and atoms {i} "
            f"({self.elements[i]}) and {j} ({self.elements[j]}) are {r:.3g} Å apart: nothing keeps them from falling "
            "into each other; give the potential a repulsion between them",
            b,
        )
