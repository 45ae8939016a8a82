"""Equivariant networks."""

from .painn import PaiNN

__all__ = ["PaiNN"]
