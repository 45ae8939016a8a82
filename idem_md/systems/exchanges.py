"""Atoms that count as alike have to be: exchanging two of them may not change the energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EnergyError, UsageError

if TYPE_CHECKING:
    from ..energies import Energy

__all__ = ["mirrored_alike", "refuse_unlike"]

# How far atoms are moved before exchanges are tried, in parts of the distance of nearest neighbours: in a symmetric
# geometry an exchange of unlike atoms may be one of the symmetries.
JITTER = (0.02, 0.002)
# Relative and absolute in kT: by how much rounding and electrons that have not quite converged may change an energy.
RELATIVE, LEAST = 1e-4, 0.05
# The same for mirror images, and by how much atoms are moved before these are compared.
MIRROR_RELATIVE, MIRROR, DISTURBED = 1e-6, 5e-3, (0.03, 0.1, 0.15, 0.2)


def refuse_unlike(
    energy: Energy, x: np.ndarray, kinds: Sequence[int], elements: Sequence[str], device: Any = "cpu"
) -> float:
    """The energy of a geometry (N, D) in kT, after trying whether atoms of one kind are alike.

    Of each kind the two that are farthest apart and the two nearest ones are exchanged, and all in turn: two energy
    calls, and up to three more a kind; one call if no two atoms are of one kind.

    Raises
    ------
    UsageError
        The geometry has no finite energy, or an exchange changes it; names the atoms. Or large energies do not change
        as the forces say.
    """
    import torch

    from ..checks import energies_agree
    from ..energies.base import TOO_COARSE

    def evaluated(y: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            u, f = energy(torch.from_numpy(y[None].copy()).to(device))
            return float(u[0]), f[0].cpu().numpy()
        except EnergyError:  # what a code makes of bonds as long as the molecule
            return np.inf, np.zeros_like(y)

    u, f = evaluated(x)
    if not np.isfinite(u):
        raise UsageError(f"positions: expected an ordinary geometry, the potential gives {u:g} kT there")
    if len(set(kinds)) == len(kinds) and abs(u) <= TOO_COARSE:
        return u
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    noise, y, disturbed = d.min() * np.random.default_rng(0).standard_normal(x.shape), x, u
    for share in JITTER:
        there, pull = evaluated(x + share * noise)
        if np.isfinite(there):
            y, disturbed = x + share * noise, there
            if abs(u) > TOO_COARSE:
                _refuse_rounded(u, there, float((-0.5 * (f + pull) * share * noise).sum()))
            break

    def changed(order: np.ndarray) -> float | None:
        """The energy after a permutation, if it is another one."""
        after = evaluated(y[order])[0]
        return None if energies_agree(disturbed, after, RELATIVE, LEAST) else after

    for kind in sorted(set(kinds)):
        atoms = [k for k, own in enumerate(kinds) if own == kind]
        trial = next((order for order in _trials(atoms, len(x), d) if changed(order) is not None), None)
        if trial is None:
            continue
        exchanged = ((a, b, changed(_exchange(len(x), a, b))) for a, b in zip(atoms, atoms[1:]))
        a, b, after = next(
            (found for found in exchanged if found[2] is not None), (atoms[0], atoms[-1], changed(trial))
        )
        raise UsageError(
            f"labels: expected the same label only for atoms that are interchangeable; exchanging atoms {a} and {b} "
            f"({elements[a]}) alone takes the energy from {disturbed:.6g} to {after:.6g} kT. Atoms that are bonded "
            "differently need labels of their own: labels= in Python, --labels of train and baseline, one number an "
            f"atom; labels=range({len(x)}) tells all of them apart, and a network keeps those it was trained with"
        )
    return u


def mirrored_alike(energy: Energy, x: np.ndarray) -> bool:
    """Whether mirror images of configurations near a geometry (N, 3) have the energies of these, by up to two energy
    calls for each of `DISTURBED`: at the geometry itself a potential that tells them apart may not."""
    import torch

    from ..errors import EnergyError

    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    random, tried = np.random.default_rng(1), 0
    for share in DISTURBED:
        y = x + share * d.min() * random.standard_normal(x.shape)
        try:
            u = energy(torch.from_numpy(np.stack([y, -y])))[0].tolist()
        except EnergyError:
            continue
        if not np.isfinite(u).all():
            continue
        tried += 1
        if abs(u[0] - u[1]) > MIRROR + MIRROR_RELATIVE * abs(u[0]):
            return False
    return tried > 0


def _refuse_rounded(u: float, there: float, expected: float) -> None:
    """Total energies that a code keeps in single precision move in steps, whatever its forces say."""
    if abs(there - u - expected) > 1 + 0.5 * abs(expected):
        raise UsageError(
            f"energy: expected total energies in double precision, {u:.9g} kT changes by {there - u:.3g} where the "
            f"forces say {expected:.3g}; subtract the energy of a reference geometry, or compute in float64"
        )


def _exchange(n: int, a: int, b: int) -> np.ndarray:
    order = np.arange(n)
    order[[a, b]] = b, a
    return order


def _trials(atoms: Sequence[int], n: int, distances: np.ndarray) -> Iterator[np.ndarray]:
    """Permutations of the atoms of one kind: the two that are farthest apart, the two nearest ones, and all in turn."""
    if len(atoms) < 2:
        return
    among = np.where(np.isinf(distances), 0.0, distances)[np.ix_(atoms, atoms)]
    a, b = divmod(int(among.argmax()), len(atoms))
    yield _exchange(n, atoms[a], atoms[b])
    if len(atoms) > 2:
        a, b = divmod(int(distances[np.ix_(atoms, atoms)].argmin()), len(atoms))
        yield _exchange(n, atoms[a], atoms[b])
        order = np.arange(n)
        order[atoms] = np.roll(atoms, 1)
        yield order
