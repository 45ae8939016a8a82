"""A harmonic cluster, for which everything about diffusion is known in closed form."""

import torch

from idem_md.diffusion import Precision

K = 25.0  # stiff enough that even four ddpm steps have weights of finite variance: v_q > v_p / 2 everywhere
SCALE = K**-0.5  # standard deviation of a coordinate


def exact(x, sigma):
    """E[x_0 | x_t]."""
    return x * SCALE**2 / (SCALE**2 + sigma[:, None, None] ** 2)


def mse(sigma):
    """Of the exact denoiser, per coordinate."""
    return SCALE**2 * sigma**2 / (SCALE**2 + sigma**2)


class SpringDenoiser:
    """A denoiser, by default the exact one, with the precision that fits it, P = 1 + K sigma^2, and stiffer pairs if
    pulled."""

    has_springs = True

    def __init__(self, denoise=exact, pull=0.0):
        self.denoise, self.pull = denoise, pull

    def __call__(self, x, sigma):
        return self.denoise(x, sigma)

    def with_precision(self, x, sigma):
        pairs = torch.full((len(x), x.shape[1] * (x.shape[1] - 1) // 2), self.pull, dtype=x.dtype)
        floor = (1 + K * sigma**2).to(x.dtype)
        return self.denoise(x, sigma), Precision.of(pairs, 0.5 * pairs, floor, x)
