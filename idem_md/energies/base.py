"""The energy contract: ``energy(x) -> (u, f)``, forces included, calls counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..checks import all_finite, check_positions
from ..errors import BudgetExhausted, EnergyError
from ..torch_state import default_torch
from .floor import Floor

__all__ = ["Energy"]

# Magnitude from which on single precision rounds an energy by more than 0.001 kT, and from which on by more than 0.1.
COARSE, TOO_COARSE = 2.0**14, 2.0**21


class Energy(ABC):
    """A reduced potential u = U/kT of N particles in D dimensions.

    Subclasses implement `evaluate`; callers call the object. Forces are part of the contract, so that native
    ops, OpenMM and ASE are equals and no automatic differentiation ever runs through an energy. What an energy can do
    beyond that is in `energies.capabilities`.

    Attributes
    ----------
    n_atoms, n_dims : int
    calls : int
        Configurations evaluated so far, energy with forces, by whatever route. A reported cost.
    max_calls : int or None
        Budget; an evaluation that would exceed it raises `BudgetExhausted` instead.
    seconds_a_call : float
        How long an evaluation takes in a full batch (of an executor: on one process), by those so far; 0 if unknown.
    """

    seconds_a_call = 0.0

    def __init__(self, n_atoms: int, n_dims: int):
        self.n_atoms = n_atoms
        self.n_dims = n_dims
        self.calls = 0
        self.max_calls: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What defines the energy, as JSON, for provenances."""
        return {}

    def afford(self, n: int) -> None:
        """Raise `BudgetExhausted` if the budget does not allow ``n`` more evaluations."""
        if self.max_calls is not None and self.calls + n > self.max_calls:
            raise BudgetExhausted(
                f"energy calls: {self.calls} made, {n} more would exceed the budget of {self.max_calls}"
            )

    def count(self, n: int) -> None:
        """Book ``n`` evaluations, before they are made; raises `BudgetExhausted` if the budget does not allow them."""
        self.afford(n)
        self.calls += n
        if self.on_count is not None:
            self.on_count(self.calls)

    # Told the number of calls whenever it grows.
    on_count: Callable[[int], None] | None = None
    # Whether evaluating runs code that is not of this package: it then finds torch as its user left it.
    users_code: ClassVar[bool] = True
    # What the energy of an ordinary geometry says of energies far below it; see `floor.Floor`.
    floor: Floor | None = None

    def _evaluate_as_written(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`evaluate`, with torch as whoever wrote it expects; energies of users' code in double precision."""
        with default_torch(self.users_code):
            u, f = self.evaluate(x)
            if not self.users_code or x.dtype == torch.float64:
                return u, f
            if u.dtype == torch.float32 and bool((large := torch.isfinite(u) & (u.abs() >= COARSE)).any()):
                # Total energies: what tells configurations apart would be lost in rounding.
                u = u.double()
                u[large] = self._precise(x[large])
            return u.double(), f

    def _precise(self, x: torch.Tensor) -> torch.Tensor:
        """Energies of configurations of large energies, evaluated in double precision."""
        u, _ = self.evaluate(x.double())
        u = u.double()
        size, spread = float(u.abs().min()), float(u.max() - u.min())
        if len(u) > 3 and size > TOO_COARSE and 0 < spread < 0.1 * size and bool((u == u.float()).all()):
            raise EnergyError(
                f"{type(self).__name__}: expected energies in double precision, got {float(u[0]):.9g} kT, which the "
                "code behind it has rounded to single precision; subtract the energy of a reference geometry there, or "
                "compute in float64"
            )
        return u

    @abstractmethod
    def evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (B,) and forces (B, N, D) of checked positions, in their dtype; energies may be in float64."""

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        x : torch.Tensor, shape (B, N, D), float32 or float64
            Positions in reduced length; never modified.

        Returns
        -------
        u : torch.Tensor, shape (B,)
            Reduced energies; +inf is allowed (overlap). In the dtype of ``x``, but float64 where users' code computes
            them: total energies of electrons are up to 10^9 kT, and in float32 nothing would be left of their
            differences. Rows of float32 positions whose energies are beyond 16,384 kT are evaluated once more in
            float64 by code that computes in float32; that counts as one call.
        f : torch.Tensor, shape (B, N, D)
            -grad u, always finite.

        Raises
        ------
        UsageError
            Wrong shape or dtype.
        EnergyError
            NaN or infinite positions, NaN or -inf energies, forces that are not finite; large energies that were
            rounded to single precision; energies that run away, see `System.of_energy`.
        BudgetExhausted
            See ``max_calls``.
        """
        check_positions("x", x, self.n_atoms, self.n_dims)
        self.count(x.shape[0])
        u, f = self._evaluate_as_written(x)
        if not (all_finite(u) and all_finite(f)) and bool(
            (bad := ~torch.isfinite(f).flatten(1).all(1) | torch.isnan(u) | (u == -torch.inf)).any()
        ):
            b = int(bad.nonzero()[0])
            raise EnergyError(
                f"{type(self).__name__}: expected a number and finite forces, configuration {b} gave "
                f"u = {float(u[b])}, max |f| = {float(f[b].abs().max())}",
                b,
            )
        if self.floor is not None:
            self.floor.check(type(self).__name__, u, x)
        return u, f
