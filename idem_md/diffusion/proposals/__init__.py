"""How paths step from one noise level to the next, one file a proposal; `register_proposal` adds yours."""

from .analytic import Analytic
from .base import (
    PROPOSALS,
    Denoise,
    DiffusionProposal,
    Look,
    Proposal,
    batch_size,
    joined,
    look_in_chunks,
    register_proposal,
)
from .ddpm import Ddpm
from .elastic import ElasticLook, ElasticProposal

__all__ = [
    "PROPOSALS",
    "Analytic",
    "Ddpm",
    "Denoise",
    "DiffusionProposal",
    "ElasticLook",
    "ElasticProposal",
    "Look",
    "Proposal",
    "batch_size",
    "joined",
    "look_in_chunks",
    "register_proposal",
]
