"""How paths step from one noise level to the next, one file a kernel; `register_kernel` adds yours."""

from .analytic import Analytic
from .base import (
    KERNELS,
    Denoise,
    DiffusionKernel,
    Evaluation,
    TransitionKernel,
    batch_size,
    best_kernel,
    evaluate_in_chunks,
    has_head,
    joined,
    methods,
    register_kernel,
)
from .consistency import Consistency, IsotropicConsistency
from .ddpm import Ddpm
from .elastic import ElasticEvaluation, ElasticKernel

__all__ = [
    "KERNELS",
    "Analytic",
    "Consistency",
    "Ddpm",
    "Denoise",
    "DiffusionKernel",
    "ElasticEvaluation",
    "ElasticKernel",
    "IsotropicConsistency",
    "Evaluation",
    "TransitionKernel",
    "batch_size",
    "best_kernel",
    "has_head",
    "methods",
    "joined",
    "evaluate_in_chunks",
    "register_kernel",
]
