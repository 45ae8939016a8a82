"""Networks: PaiNN for particles, EGNN as a yardstick, a perceptron for a single point; `register_network` adds
yours."""

from .egnn import EGNN
from .jump import Jump, JumpOptions
from .layers import NoiseEmbedding
from .mlp import MLP
from .painn import PaiNN
from .registry import (
    NETWORKS,
    Features,
    HasFeatures,
    LayeredOptions,
    Network,
    NetworkOptions,
    parse_network,
    register_network,
)
from .springs import SpringConstants, Springs, SpringsOptions

__all__ = [
    "EGNN",
    "MLP",
    "NETWORKS",
    "Features",
    "HasFeatures",
    "Jump",
    "JumpOptions",
    "LayeredOptions",
    "Network",
    "NetworkOptions",
    "NoiseEmbedding",
    "PaiNN",
    "SpringConstants",
    "Springs",
    "SpringsOptions",
    "parse_network",
    "register_network",
]
