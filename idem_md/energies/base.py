"""The energy contract: ``energy(x) -> (u, f)``, forces included, calls counted."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ..checks import EnergyError, check_positions

__all__ = ["Energy"]


class Energy(ABC):
    """A reduced potential u = U/kT of N particles in D dimensions.

    Subclasses implement `evaluate`; callers call the object. Forces are part of the contract, so that native
    kernels, OpenMM and ASE are equals and no automatic differentiation ever runs through an energy.

    Attributes
    ----------
    n_atoms, n_dims : int
    calls : int
        Configurations evaluated so far, by whatever route. A reported cost.
    """

    def __init__(self, n_atoms: int, n_dims: int):
        self.n_atoms = n_atoms
        self.n_dims = n_dims
        self.calls = 0

    @abstractmethod
    def evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (B,) and forces (B, N, D) of checked positions, in their dtype."""

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        x : torch.Tensor, shape (B, N, D), float32 or float64
            Positions in reduced length; never modified.

        Returns
        -------
        u : torch.Tensor, shape (B,)
            Reduced energies; +inf is allowed (overlap).
        f : torch.Tensor, shape (B, N, D)
            -grad u, always finite.

        Raises
        ------
        UsageError
            Wrong shape or dtype.
        EnergyError
            NaN or infinite positions, NaN or -inf energies, forces that are not finite.
        """
        check_positions("x", x, self.n_atoms, self.n_dims)
        self.calls += x.shape[0]
        u, f = self.evaluate(x)
        bad = ~torch.isfinite(f).flatten(1).all(1) | torch.isnan(u) | (u == -torch.inf)
        if bool(bad.any()):
            b = int(bad.nonzero()[0])
            raise EnergyError(
                f"{type(self).__name__}: expected a number and finite forces, configuration {b} gave "
                f"u = {float(u[b])}, max |f| = {float(f[b].abs().max())}", b)
        return u, f
