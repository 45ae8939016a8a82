"""Seeds of native streams, drawn from the one generator that a computation owns."""

from __future__ import annotations

import torch

__all__ = ["draw_seed"]


def draw_seed(generator: torch.Generator) -> int:
    """A seed for a native stream."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
