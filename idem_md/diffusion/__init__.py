"""Variance-exploding diffusion, x_t = x_0 + sigma eps: denoisers, kernels, last steps, and weighted paths."""

from .accuracy import DenoiserAccuracy
from .denoiser import Denoiser
from .elastic import Elastic, Precision
from .flow import Flow
from .gaussians import Gaussian, Isotropic
from .kernels import KERNELS, DiffusionKernel, Evaluation, TransitionKernel, best_kernel, methods, register_kernel
from .last_step import (
    LAST_STEPS,
    AnnealedLastStep,
    LastStep,
    LastStepResult,
    MovedLastStep,
    NestedLastStep,
    PlainLastStep,
    register_last_step,
)
from .levels import level_density
from .paths import Paths, PathSampler
from .plan import SamplingPlan, best_plan
from .schedule import noise_grid, stratified_log_uniform
from .twin_paths import TwinPaths

__all__ = [
    "LAST_STEPS",
    "KERNELS",
    "AnnealedLastStep",
    "Denoiser",
    "DiffusionKernel",
    "best_kernel",
    "methods",
    "DenoiserAccuracy",
    "Elastic",
    "LastStepResult",
    "Flow",
    "Gaussian",
    "Isotropic",
    "LastStep",
    "Evaluation",
    "MovedLastStep",
    "NestedLastStep",
    "PathSampler",
    "Paths",
    "PlainLastStep",
    "Precision",
    "TransitionKernel",
    "SamplingPlan",
    "TwinPaths",
    "best_plan",
    "level_density",
    "noise_grid",
    "register_last_step",
    "register_kernel",
    "stratified_log_uniform",
]
