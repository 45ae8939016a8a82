"""How paths step from one noise level to the next, one file a proposal; `register_proposal` adds yours."""

from .analytic import Analytic
from .base import (
    CHUNK,
    PROPOSALS,
    Denoise,
    DiffusionProposal,
    Look,
    Proposal,
    joined,
    look_in_chunks,
    register_proposal,
)
from .ddpm import Ddpm
from .elastic import ElasticLook, ElasticProposal

__all__ = [
    "CHUNK",
    "PROPOSALS",
    "Analytic",
    "Ddpm",
    "Denoise",
    "DiffusionProposal",
    "ElasticLook",
    "ElasticProposal",
    "Look",
    "Proposal",
    "joined",
    "look_in_chunks",
    "register_proposal",
]
