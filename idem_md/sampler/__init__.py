"""Trained samplers: load a checkpoint, choose a plan, draw weighted samples, here or spread over other processes."""

from .loading import expectation, load_sampler
from .planning import PlanOptions, methods, plan_of, read_plan_options
from .sampler import Sampler

__all__ = ["PlanOptions", "Sampler", "expectation", "load_sampler", "methods", "plan_of", "read_plan_options"]
