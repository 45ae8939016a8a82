"""A cheap energy in the place of an expensive one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..checks import check_float
from ..geometry import centred
from ..units import Units
from .base import Energy

__all__ = ["Twin"]

# Configurations that the network takes at a time.
BATCH = 512
# kT by which energies may lie below the lowest that was seen before they are held up, and the width of that bend.
DEPTH, BEND = 3.0, 1.0
# kT that two atoms cost which are nearer to each other than any were seen, by a twentieth.
WALL, WALL_SHARE = 50.0, 0.05


class _EnergyNetwork(Protocol):
    def with_forces(self, x_BND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


class Twin(Energy):
    """u = reference + bend(network(x)) + wall(x) + trap(x), a fit to an expensive potential of the same atoms.

    Where the fit has no data it must not draw samples: it is never more than `DEPTH` below the lowest energy that was
    seen, and two atoms that are nearer than any two of their kinds were repel each other.

    Parameters
    ----------
    network : module with ``with_forces(x) -> (u, f)``
        Energies in kT relative to the reference, without trap; see `nets.EnergyNetwork`.
    units : Units
    elements : tuple of str
    reference : float
        Energy of the reference geometry, in kT, without trap.
    lowest : float
        Lowest energy that was seen, in kT relative to the reference.
    contacts : array, shape (N, N)
        Least distance of each two atoms, in reduced length, from which on the wall begins.
    trap : float
        Stiffness in kT / reduced length squared of the harmonic trap about the centroid.
    factor : float
        Of the whole: the same potential at 1 / ``factor`` times the temperature.

    Notes
    -----
    Weights correct for the difference from the expensive potential, so averages do not depend on how good the fit is;
    the share of effective samples does.
    """

    users_code = False

    def __init__(
        self,
        network: _EnergyNetwork,
        units: Units,
        elements: Sequence[str],
        *,
        reference: float = 0.0,
        lowest: float = -torch.inf,
        contacts=None,
        trap: float = 0.0,
        factor: float = 1.0,
    ):
        super().__init__(len(elements), 3)
        self.network, self.units, self.elements = network, units, tuple(elements)
        self.reference, self.lowest, self.trap = float(reference), float(lowest), check_float("trap", trap, minimum=0.0)
        self.factor = check_float("factor", factor, above=0.0)
        zeros = torch.zeros(self.n_atoms, self.n_atoms, dtype=torch.float64)
        self.contacts = zeros if contacts is None else torch.as_tensor(contacts, dtype=torch.float64)

    @property
    def parameters(self) -> dict[str, Any]:
        """All but the network, as JSON."""
        return {
            "reference_kT": self.reference,
            "lowest_kT": self.lowest,
            "trap": self.trap,
            "factor": self.factor,
            "temperature_kelvin": self.units.temperature_kelvin,
            "length_angstrom": self.units.length_angstrom,
        }

    def scaled(self, factor: float) -> Twin:
        """See `Scalable`."""
        return Twin(
            self.network,
            self.units,
            self.elements,
            reference=self.reference,
            lowest=self.lowest,
            contacts=self.contacts,
            trap=self.trap,
            factor=self.factor * factor,
        )

    def evaluate(self, x):
        """See `Energy.evaluate`. The network computes in float32; energies are in float64."""
        parts = [self._evaluate(part) for part in x.split(BATCH)]
        u, f = (torch.cat(column) for column in zip(*parts))
        return self.factor * u, self.factor * f

    def _evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, f = (a.to(x.device) for a in self.network.with_forces(x.float().to(self.contacts.device)))
        y = centred(x.double())
        # Without a bend where energies are as they were seen, and never far below.
        above = (u - (self.lowest - DEPTH)) / BEND
        u = self.lowest - DEPTH + BEND * torch.nn.functional.softplus(above) if self.lowest > -torch.inf else u
        f = torch.sigmoid(above)[:, None, None] * f.double() if self.lowest > -torch.inf else f.double()
        wall, push = self._wall(y)
        u = self.reference + u + wall + 0.5 * self.trap * (y**2).sum((1, 2))
        return u, (f + push - self.trap * y).to(x.dtype)

    def _wall(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """WALL ((r_0 - r) / (WALL_SHARE r_0))^2 of each two atoms nearer than r_0, and forces."""
        contacts = self.contacts.to(y.device)
        if not bool((torch.cdist(y, y) < contacts).any()):
            return y.new_zeros(len(y)), torch.zeros_like(y)
        i, j = torch.tril_indices(self.n_atoms, self.n_atoms, -1, device=y.device)
        least = contacts[i, j]
        apart = y[:, i] - y[:, j]
        r = apart.norm(dim=-1)
        short = torch.where(least > 0, (1 - r / least.clamp(min=1e-12)) / WALL_SHARE, 0.0).clamp(min=0.0)
        pull = 2 * WALL * short / (WALL_SHARE * least.clamp(min=1e-12)) / r.clamp(min=1e-12)
        force = pull[..., None] * apart
        push = torch.zeros_like(y).index_add_(1, i, force).index_add_(1, j, -force)
        return WALL * (short**2).sum(1), push
