"""`check_energy`: does an implementation keep the energy contract? For our own tests and for yours."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .energies import Energy
from .errors import EnergyError, IdemError, UsageError
from .geometry import centred, cubic_lattice
from .torch_state import own_torch

__all__ = ["ContractError", "check_energy", "loose_lattice"]


class ContractError(IdemError, AssertionError):
    """An implementation does not keep the energy contract; says which property failed and by how much."""


def _require(condition: bool, message: str) -> None:
    """`assert`, but also under ``python -O``."""
    if not condition:
        raise ContractError(message)


@own_torch
def loose_lattice(energy: Energy, n: int = 6, seed: int = 0) -> torch.Tensor:
    """``n`` jittered cubic lattices of the spacing, among powers of 1.1, at which the energy pulls least.

    A guess at ordinary configurations of an energy about which nothing is known: near enough for every atom to feel
    its neighbours, without overlaps.

    Returns
    -------
    torch.Tensor, shape (n, N, D), float64
    """
    points = cubic_lattice(energy.n_atoms, energy.n_dims)
    noise = torch.randn(
        n, energy.n_atoms, energy.n_dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    unit = centred(points + 0.06 * noise)
    candidates = [unit * 1.1**k for k in range(-20, 31)]
    usable = [
        (float((f * x).abs().max()), k)
        for k, x in enumerate(candidates)
        for u, f in [energy(x)]
        if bool(torch.isfinite(u).all()) and bool((f != 0).any())
    ]
    if not usable:
        raise UsageError("x: expected positions; no spacing of a lattice gave finite energies and forces")
    return candidates[min(usable)[1]]


@own_torch
def check_energy(
    energy: Energy,
    x: torch.Tensor | None = None,
    *,
    symmetric: bool = True,
    force_tolerance: float = 1e-4,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64),
) -> None:
    """Check an energy on given positions; returns nothing or raises.

    Shapes and dtypes, forces against central differences, invariance to translation, rotation, reflection and
    permutation, a batch against its members one by one, untouched input, counted calls, NaN refused.

    Parameters
    ----------
    energy : Energy
    x : torch.Tensor, shape (B, N, D), float64, B >= 2, optional
        Ordinary configurations, with finite energies; by default those of `loose_lattice`.
    symmetric : bool
        Whether the invariances are claimed.
    force_tolerance : float
        Largest relative error of a force against central differences.
    dtypes : sequence of torch.dtype

    Raises
    ------
    ContractError
        Says which property failed and by how much.
    """
    x = loose_lattice(energy) if x is None else x
    _require(x.dim() == 3 and len(x) >= 2 and x.dtype == torch.float64, "x: expected (B >= 2, N, D) in float64")
    for dtype in dtypes:
        y = x.to(dtype)
        before, calls = y.clone(), energy.calls
        u, f = energy(y)
        _require(torch.equal(y, before), "the input was changed")
        _require(energy.calls == calls + len(y), f"calls: expected +{len(y)}, got +{energy.calls - calls}")
        _require(u.shape == (len(y),) and f.shape == y.shape, f"shapes: got u {tuple(u.shape)}, f {tuple(f.shape)}")
        right = u.dtype in (dtype, torch.float64) and f.dtype == dtype
        _require(right, f"dtypes: expected {dtype}, or for u float64, got u {u.dtype}, f {f.dtype}")
        _require(bool(torch.isfinite(u).all()), "energies of ordinary configurations must be finite")
        scale = 1 + u.abs().clamp(max=1e3)  # total energies are large, and no measure
        tol = 1e-4 if dtype == torch.float32 else 1e-9
        singles = torch.cat([energy(y[b : b + 1])[0] for b in range(len(y))])
        _require(bool(((singles - u).abs() <= tol * scale).all()), "a batch differs from its members one by one")
        if symmetric:
            generator = torch.Generator().manual_seed(0)
            q, _ = torch.linalg.qr(torch.randn(y.shape[2], y.shape[2], generator=generator, dtype=torch.float64))
            q = q * torch.linalg.det(q)  # a rotation in odd dimensions; either way one of the two below is
            order = torch.randperm(y.shape[1], generator=generator)
            mirror = torch.ones(y.shape[2], dtype=torch.float64)
            mirror[0] = -1
            moves = {
                "translation": x + 1.7,
                "rotation": x @ q.T,
                "reflection": (x @ q.T) * mirror,
                "permutation": x[:, order],
            }
            for name, moved in moves.items():
                worst = float(((energy(moved.to(dtype))[0] - u).abs() / scale).max())
                _require(worst <= 10 * tol, f"{name}: energy changed by {worst:.1e} relative")
    u, f = energy(x)
    h = 1e-5
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    direction = centred(direction) if symmetric else direction
    slope = (energy(x + h * direction)[0] - energy(x - h * direction)[0]) / (2 * h)
    expected = -(f * direction).sum((1, 2))
    size = f.flatten(1).norm(dim=1) * direction.flatten(1).norm(dim=1)
    worst = float(((slope - expected).abs() / size.clamp(min=1e-12)).max())
    _require(worst <= force_tolerance, f"forces differ from central differences by {worst:.1e} relative")
    for bad, error in ((x[:, :-1], UsageError), (x.long(), UsageError), (x * torch.nan, EnergyError)):
        try:
            energy(bad)
        except error:
            continue
        raise ContractError(f"expected {error.__name__} for bad input, got none")
