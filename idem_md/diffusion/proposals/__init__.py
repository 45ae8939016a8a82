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
from .consistency import Consistency, IsotropicConsistency
from .ddpm import Ddpm
from .elastic import ElasticLook, ElasticProposal

__all__ = [
    "PROPOSALS",
    "Analytic",
    "Consistency",
    "Ddpm",
    "Denoise",
    "DiffusionProposal",
    "ElasticLook",
    "ElasticProposal",
    "IsotropicConsistency",
    "Look",
    "Proposal",
    "batch_size",
    "joined",
    "look_in_chunks",
    "register_proposal",
]
