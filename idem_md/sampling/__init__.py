"""Samplers: noise in, weighted samples out."""

from .diffusion import Paths, sample_paths

__all__ = ["Paths", "sample_paths"]
