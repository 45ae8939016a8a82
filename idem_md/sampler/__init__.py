"""Trained samplers: load a checkpoint, draw weighted samples, here or spread over other processes."""

from .loading import load_sampler
from .routes import methods
from .sampler import Sampler

__all__ = ["Sampler", "load_sampler", "methods"]
