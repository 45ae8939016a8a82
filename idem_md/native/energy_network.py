"""Energies of an equivariant network and their gradients, fused over a few configurations at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..checks import check_int
from ..errors import UsageError
from .messages import SplineScale
from .module import check_tensor, native

__all__ = ["energy_network", "takes_energy_network"]

# Channels are a multiple of the one, up to the other.
LANES, MAX_CHANNELS, MAX_LAYERS = 16, 512, 16


def takes_energy_network(channels: int, layers: int) -> bool:
    """Whether `energy_network` serves networks of this size."""
    return channels % LANES == 0 and LANES <= channels <= MAX_CHANNELS and 1 <= layers <= MAX_LAYERS


def energy_network(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    channels: int,
    layers: int,
    splines: SplineScale,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over atoms of a readout of a PaiNN's scalars at one noise level, and its gradient; on the CPU.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, 3), float32
        At least two atoms.
    weights : sequence of torch.Tensor, float32
        Scalars (N, C) of each atom to begin with, the radial dense layer (K, C), the vectors (C) that positions are
        multiplied by; of each layer the two dense layers of its messages (C, C), (C), (3C, C), (3C), its filter
        (K, 3C), those of its update (2C, C), (C, 2C), (C), (3C, C), (3C); and the readout (C, C), (C), (C). Dense ones
        are (out, in), without bias or followed by it.
    channels, layers : int
        C, a multiple of 16.
    splines : SplineScale
        Those of the distance, K of them.

    Returns
    -------
    u : torch.Tensor, shape (B,), float64
    gradient : torch.Tensor, shape (B, N, 3), float32
    """
    check_tensor("x", x, (None, None, 3))
    n, c, k = x.shape[1], check_int("channels", channels, LANES), check_int("n_basis", splines.n_basis, 4)
    if not takes_energy_network(c, layers) or n < 2:
        raise UsageError(
            f"channels: expected a multiple of {LANES} up to {MAX_CHANNELS}, two atoms or more and 1 to {MAX_LAYERS} "
            f"layers, got {c}, {n} and {layers}"
        )
    each = (c, c), (c,), (3 * c, c), (3 * c,), (k, 3 * c), (2 * c, c), (c, 2 * c), (c,), (3 * c, c), (3 * c,)
    shapes = [(n, c), (k, c), (c,), *each * layers, (c, c), (c,), (c,)]
    if len(weights) != len(shapes):
        raise UsageError(f"weights: expected {len(shapes)} tensors, got {len(weights)}")
    for i, (weight, shape) in enumerate(zip(weights, shapes)):
        check_tensor(f"weights[{i}]", weight, shape)
    flat = torch.cat([weight.detach().flatten() for weight in weights])
    u, gradient = torch.empty(len(x), dtype=torch.float64), torch.empty_like(x, memory_format=torch.contiguous_format)
    native.energy_network(x.detach().contiguous(), flat, u, gradient, c, layers, *splines, torch.get_num_threads())
    return u, gradient
