"""Networks: PaiNN for particles, EGNN as a yardstick, a perceptron for a single point."""

from .egnn import EGNN
from .mlp import MLP
from .painn import PaiNN

__all__ = ["EGNN", "MLP", "PaiNN"]
