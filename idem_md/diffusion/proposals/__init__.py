"""How paths step from one noise level to the next, one file a proposal; `register_proposal` adds yours."""

from .analytic import Analytic
from .base import PROPOSALS, Denoise, DiffusionProposal, Look, Proposal, register_proposal
from .ddpm import Ddpm

__all__ = [
    "PROPOSALS",
    "Analytic",
    "Ddpm",
    "Denoise",
    "DiffusionProposal",
    "Look",
    "Proposal",
    "register_proposal",
]
