"""A harmonic cluster, for which everything about diffusion is known in closed form."""

from types import SimpleNamespace

import torch

from idem_md.diffusion import Precision
from idem_md.geometry import centred

K = 25.0  # stiff enough that even four ddpm steps have weights of finite variance: v_q > v_p / 2 everywhere
SCALE = K**-0.5  # standard deviation of a coordinate


def exact(x, sigma):
    """E[x_0 | x_t]."""
    return x * SCALE**2 / (SCALE**2 + sigma[:, None, None] ** 2)


def mse(sigma):
    """Error of the exact denoiser, per coordinate."""
    return SCALE**2 * sigma**2 / (SCALE**2 + sigma**2)


class ElasticDenoiser:
    """A denoiser, by default the exact one, with the precision that fits it, P = 1 + K sigma^2, and stiffer pairs if
    pulled."""

    heads = {"elastic_network": None}

    def __init__(self, denoise=exact, pull=0.0):
        self.denoise, self.pull = denoise, pull

    def __call__(self, x, sigma):
        return self.denoise(x, sigma)

    def with_precision(self, x, sigma):
        pairs = torch.full((len(x), x.shape[1] * (x.shape[1] - 1) // 2), self.pull, dtype=x.dtype)
        floor = (1 + K * sigma**2).to(x.dtype)
        return self.denoise(x, sigma), Precision.of(pairs, 0.5 * pairs, floor, x)


class FlowMapDenoiser(ElasticDenoiser):
    """With its flow, by default the exact one, down to level 0.05, and the covariance that the flow makes of noise."""

    def __init__(self, denoise=exact, elastic=True, error=0.0, pull=0.0):
        super().__init__(denoise, pull)
        self.error = error
        self.heads = {"flow_map": SimpleNamespace(options=SimpleNamespace(lowest=0.05))}
        self.heads |= {"elastic_network": None} if elastic else {}

    def featured(self, x, sigma):
        return self.denoise(x, sigma), None

    def precision(self, x, denoised, features, sigma):
        return self.with_precision(x, sigma)[1]

    def covariance(self, x, denoised, features, target, s, t):
        # (1 + r^2 S) / (1 + S) with S = s^2 / V, all in the floor.
        b = (s**2 / SCALE**2).to(x.dtype)
        return Precision(b[:, None, None] * torch.eye(x[0].numel(), dtype=x.dtype), b)

    def mapped(self, x, denoised, features, t, s):
        y = x * torch.sqrt((SCALE**2 + s**2) / (SCALE**2 + t**2))[:, None, None]
        return y + self.error * (s - t)[:, None, None] * centred(torch.sin(7 * x))
