"""Distillation of a trained sampler into a consistency model, without energy calls."""

from .distill import Distillation, distill

__all__ = ["Distillation", "distill"]
