"""Variance-exploding diffusion, x_t = x_0 + sigma eps: denoisers, proposals, last steps, and weighted paths."""

from .accuracy import DenoiserAccuracy
from .denoiser import Denoiser
from .elastic import Elastic, Precision
from .flow import Flow
from .gaussians import Gaussian, Isotropic
from .last_step import (
    LAST_STEPS,
    AnnealedLastStep,
    Ending,
    LastStep,
    MovedLastStep,
    NestedLastStep,
    PlainLastStep,
    register_last_step,
)
from .paths import Paths, forward_log_weights, forward_paths, raw_paths, sample_paths
from .plan import SamplingPlan, best_plan
from .proposals import PROPOSALS, Look, Proposal, register_proposal
from .schedule import noise_grid, stratified_log_uniform

__all__ = [
    "LAST_STEPS",
    "PROPOSALS",
    "AnnealedLastStep",
    "Denoiser",
    "DenoiserAccuracy",
    "Elastic",
    "Ending",
    "Flow",
    "Gaussian",
    "Isotropic",
    "LastStep",
    "Look",
    "MovedLastStep",
    "NestedLastStep",
    "Paths",
    "PlainLastStep",
    "Precision",
    "Proposal",
    "SamplingPlan",
    "best_plan",
    "forward_log_weights",
    "forward_paths",
    "noise_grid",
    "raw_paths",
    "register_last_step",
    "register_proposal",
    "sample_paths",
    "stratified_log_uniform",
]
