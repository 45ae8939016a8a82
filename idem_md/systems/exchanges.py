"""Atoms that count as alike have to be: exchanging two of them may not change the energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import EnergyError, UsageError

if TYPE_CHECKING:
    from ..energies import Energy

__all__ = ["refuse_unlike"]

# By which the geometry is disturbed, in parts of the distance of nearest neighbours: in a symmetric one an exchange of
# unlike atoms may be one of the symmetries.
JITTER = 0.02
# Relative and absolute in kT: by how much rounding and electrons that have not quite converged may change an energy.
RELATIVE, LEAST = 1e-4, 0.05


def refuse_unlike(energy: Energy, x: np.ndarray, kinds: Sequence[int], elements: Sequence[str]) -> float:
    """The energy of a geometry (N, D) in kT, after trying whether atoms of one kind are alike.

    Two of each kind are exchanged, and all of a kind in turn: two energy calls, and up to two more a kind.

    Raises
    ------
    UsageError
        The geometry has no finite energy, or an exchange changes it; names the atoms.
    """
    import torch

    from ..checks import energies_agree

    def energy_of(y: np.ndarray) -> float:
        try:
            return float(energy(torch.from_numpy(y[None].copy()))[0][0])
        except EnergyError:  # what a code makes of bonds as long as the molecule
            return np.inf

    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    y = x + JITTER * d.min() * np.random.default_rng(0).standard_normal(x.shape)
    u, disturbed = energy_of(x), energy_of(y)
    if not np.isfinite([u, disturbed]).all():
        raise UsageError(f"positions: expected an ordinary geometry, the potential gives {u:g} kT there")

    def changed(order: np.ndarray) -> float | None:
        """The energy after a permutation, if it is another one."""
        after = energy_of(y[order])
        return None if energies_agree(disturbed, after, RELATIVE, LEAST) else after

    for kind in sorted(set(kinds)):
        atoms = [k for k, own in enumerate(kinds) if own == kind]
        if all(changed(order) is None for order in _trials(atoms, len(x), d)):
            continue
        for a, b in zip(atoms, atoms[1:]):
            after = changed(_exchange(len(x), a, b))
            if after is not None:
                raise UsageError(
                    "labels: expected the same label only for atoms that are interchangeable; exchanging atoms "
                    f"{a} and {b} ({elements[a]}) alone takes the energy from {disturbed:.6g} to {after:.6g} kT. Atoms "
                    "that are bonded differently need labels of their own: labels= in Python, --labels on the command "
                    f"line, one number an atom; labels=range({len(x)}) tells all of them apart"
                )
    return u


def _exchange(n: int, a: int, b: int) -> np.ndarray:
    order = np.arange(n)
    order[[a, b]] = b, a
    return order


def _trials(atoms: Sequence[int], n: int, distances: np.ndarray) -> Iterator[np.ndarray]:
    """Permutations of the atoms of one kind: the two that are farthest apart, and all in turn."""
    if len(atoms) < 2:
        return
    among = np.where(np.isinf(distances), 0.0, distances)[np.ix_(atoms, atoms)]
    a, b = divmod(int(among.argmax()), len(atoms))
    yield _exchange(n, atoms[a], atoms[b])
    if len(atoms) > 2:
        order = np.arange(n)
        order[atoms] = np.roll(atoms, 1)
        yield order
