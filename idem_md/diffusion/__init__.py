"""Variance-exploding diffusion, x_t = x_0 + sigma eps: denoisers, proposals, last steps, and weighted paths."""

from .accuracy import DenoiserAccuracy
from .denoiser import Denoiser
from .gaussians import Gaussian, Isotropic
from .last_step import LAST_STEPS, Ending, LastStep, PlainLastStep, register_last_step
from .paths import Paths, sample_paths
from .proposals import PROPOSALS, Look, Proposal, register_proposal
from .schedule import noise_grid, stratified_log_uniform

__all__ = [
    "LAST_STEPS",
    "PROPOSALS",
    "Denoiser",
    "DenoiserAccuracy",
    "Ending",
    "Gaussian",
    "Isotropic",
    "LastStep",
    "Look",
    "Paths",
    "PlainLastStep",
    "Proposal",
    "noise_grid",
    "register_last_step",
    "register_proposal",
    "sample_paths",
    "stratified_log_uniform",
]
