"""Networks: PaiNN for particles, EGNN as a yardstick, a perceptron for a single point; `register_network` adds
yours."""

from .egnn import EGNN
from .jump import JUMPS, Jump, JumpOptions, register_jump
from .layers import NoiseEmbedding
from .mlp import MLP
from .painn import PaiNN
from .point_jump import PointJump
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
from .stretch import Stretch

__all__ = [
    "EGNN",
    "JUMPS",
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
    "PointJump",
    "SpringConstants",
    "Springs",
    "SpringsOptions",
    "Stretch",
    "parse_network",
    "register_jump",
    "register_network",
]
