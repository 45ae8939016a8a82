"""Muon (Jordan et al., 2024) for processors without units for matrices of bfloat16."""

from __future__ import annotations

import math

import torch

__all__ = ["Float32Muon", "has_bfloat16_units", "orthogonalised"]

# The quintic by which torch orthogonalises.
A, B, C = 3.4445, -4.7750, 2.0315
NEWTON_SCHULZ_STEPS = 5


def has_bfloat16_units() -> bool:
    """Whether the processor has units for matrices of bfloat16 (AMX); without them float32 is faster."""
    return torch.cpu._is_amx_tile_supported()


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (n, m) with singular values between about 0.7 and 1.2, by Newton and Schulz's iteration in its own
    precision."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x if wide is matrix else x.mT


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon`, with ``adjust_lr_fn="match_rms_adamw"`` and without weight decay, in float32.

    Torch orthogonalises in bfloat16 whatever the processor. Without AMX that takes 3.6 times as long, a fourth of the
    training of a small cluster. States of either can be loaded into the other.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step along the gradients that there are."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            momentum = group["momentum"]
            assert group["weight_decay"] == 0 and group["nesterov"] and group["adjust_lr_fn"] == "match_rms_adamw"
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
                buffer = self.state[p]["momentum_buffer"]
                buffer.lerp_(p.grad, 1 - momentum)
                update = orthogonalised(p.grad.lerp(buffer, momentum))
                p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))
        return loss
