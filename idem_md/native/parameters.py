"""What the Lennard-Jones ops are given: checked, and put where the native code is to run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from .module import check_tensor, native

__all__ = ["DEVICES", "FLOATS", "chain_numbers", "parameters", "run", "species_on"]

DEVICES = ("cpu", "cuda")
FLOATS = (torch.float32, torch.float64)


def species_on(species: Tensor | None, n_atoms: int, device: torch.device) -> Tensor | None:
    """Species of ``n_atoms`` atoms, 0 or 1, on a device."""
    if species is None:
        return None
    check_tensor("species", species, (n_atoms,), (torch.uint8,))
    if int(species.max()) > 1:
        raise UsageError(f"species: expected 0 or 1, got {int(species.max())}")
    return species.to(device).contiguous()


def parameters(n_atoms: int, n_dims: int, epsilon, r_min, trap: float, species: Tensor | None):
    """The native structure; it holds the address of ``species``, which must outlive it."""
    want = 1 if species is None else 4
    for name, values in (("epsilon", epsilon), ("r_min", r_min)):
        if len(values) != want or not all(0 < v < float("inf") for v in values):
            raise UsageError(f"{name}: expected {want} positive number(s), got {list(values)}")
        if want == 4 and values[1] != values[2]:
            raise UsageError(f"{name}: expected a symmetric matrix, got {list(values)}")
    return native.LennardJonesParams(
        n_atoms, n_dims, list(epsilon), list(r_min), trap, 0 if species is None else species.data_ptr()
    )


def chain_numbers(name: str, t: Tensor, n: int, like: Tensor) -> Tensor:
    """One positive float32 number for each of ``n`` chains, from one or ``n``."""
    if t.numel() != 1:
        check_tensor(name, t, (n,), FLOATS)
    t = t.to(like.device, torch.float32).reshape(-1).expand(n).contiguous()
    if not bool((torch.isfinite(t) & (t > 0)).all()):
        raise UsageError(f"{name}: expected finite positive numbers")
    return t


def run(call, where, like: Tensor, *args) -> None:
    """Run a native call, with the scratch memory it asks for on a CUDA device."""
    if where.cuda_device >= 0:
        work = torch.empty(max(call(*args, where), 1), dtype=torch.float32, device=like.device)
        where.work = work.data_ptr()
    call(*args, where)
