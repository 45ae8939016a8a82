"""Networks: PaiNN for particles, EGNN as a yardstick, a perceptron for a single point; `register_network` adds
yours."""

from .egnn import EGNN
from .elastic_network import (
    ELASTIC_NETWORK,
    ElasticNetwork,
    ElasticNetworkOptions,
    SpringConstants,
    build_elastic_network,
)
from .energy_network import EnergyNetwork, build_energy_network
from .flow_covariance import FLOW_COVARIANCE, FlowCovariance, build_flow_covariance
from .flow_map import FLOW_MAP, FLOW_MAPS, FlowMap, FlowMapOptions, build_flow_map, register_flow_map
from .heads import HEADS, Head, network_name, register_head
from .layers import NoiseEmbedding
from .mlp import MLP
from .painn import PaiNN
from .point_flow_map import PointFlowMap
from .registry import (
    NETWORKS,
    Features,
    HasFeatures,
    LayeredOptions,
    Network,
    NetworkOptions,
    TakesTemperature,
    parse_network,
    register_network,
)

__all__ = [
    "ELASTIC_NETWORK",
    "FLOW_COVARIANCE",
    "FLOW_MAP",
    "HEADS",
    "Head",
    "register_head",
    "network_name",
    "build_elastic_network",
    "build_flow_covariance",
    "build_flow_map",
    "EGNN",
    "EnergyNetwork",
    "build_energy_network",
    "FLOW_MAPS",
    "MLP",
    "NETWORKS",
    "Features",
    "HasFeatures",
    "FlowMap",
    "FlowMapOptions",
    "LayeredOptions",
    "Network",
    "NetworkOptions",
    "NoiseEmbedding",
    "PaiNN",
    "PointFlowMap",
    "TakesTemperature",
    "SpringConstants",
    "ElasticNetwork",
    "ElasticNetworkOptions",
    "FlowCovariance",
    "parse_network",
    "register_flow_map",
    "register_network",
]
