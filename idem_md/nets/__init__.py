"""Networks: PaiNN for particles, EGNN as a yardstick, a perceptron for a single point; `register_network` adds
yours."""

from .egnn import EGNN
from .mlp import MLP
from .painn import PaiNN
from .registry import NETWORKS, LayeredOptions, Network, NetworkOptions, parse_network, register_network

__all__ = [
    "EGNN",
    "MLP",
    "NETWORKS",
    "LayeredOptions",
    "Network",
    "NetworkOptions",
    "PaiNN",
    "parse_network",
    "register_network",
]
