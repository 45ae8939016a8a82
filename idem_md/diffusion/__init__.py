"""Variance-exploding diffusion: x_t = x_0 + sigma eps."""

from .denoiser import Denoiser
from .schedule import noise_grid, stratified_log_uniform
from .transitions import KERNELS, DenoiserError, Transition, forward_log_density

__all__ = ["KERNELS", "Denoiser", "DenoiserError", "Transition", "forward_log_density", "noise_grid",
           "stratified_log_uniform"]
