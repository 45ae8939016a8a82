"""The extension point of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import Field
from torch import Tensor

from ..registry import Registry
from ..systems import System
from ..tables import Table, parse_table

__all__ = [
    "NETWORKS",
    "Features",
    "HasFeatures",
    "TakesTemperature",
    "LayeredOptions",
    "Network",
    "NetworkOptions",
    "parse_network",
    "register_network",
]


class NetworkOptions(Table):
    """Settings of a network; each has a subclass with those that it uses.

    ``output`` is what the network predicts; see `idem_md.diffusion.Denoiser`.
    """

    name: str
    output: Literal["denoiser", "score"] = "denoiser"


class LayeredOptions(NetworkOptions):
    """Options of networks that have ``layers`` of ``channels``."""

    channels: int = Field(64, ge=8, le=512)
    layers: int = Field(4, ge=1, le=4096)


class Network(Protocol):
    """A vector field F(x_BND, log_sigma_B) -> (B, N, D); in practice a `torch.nn.Module`.

    Attributes
    ----------
    Options : type
        The settings, a subclass of `NetworkOptions`.
    """

    Options: ClassVar[type[NetworkOptions]]

    @classmethod
    def build(cls, options: Any, system: System) -> Network:
        """With fresh weights, drawn from torch's global generator; refuses a system that it does not suit."""
        ...

    def __call__(self, x_BND: Tensor, log_sigma_B: Tensor) -> Tensor: ...


class Features(NamedTuple):
    """A field, and what the last layer of its network knows of the atoms.

    Attributes
    ----------
    field : Tensor, shape (B, N, D)
    scalars : Tensor, shape (B, N, C)
        Invariant.
    vectors : Tensor, shape (B, N, D, C)
        Equivariant.
    """

    field: Tensor
    scalars: Tensor
    vectors: Tensor


@runtime_checkable
class HasFeatures(Protocol):
    """A network whose last layer has scalars and vectors on the atoms, for heads; see `nets.HEADS`."""

    n_scalars: int
    length: float

    def with_features(self, x_BND: Tensor, log_sigma_B: Tensor) -> Features:
        """The field, and the features beside it."""
        ...


@runtime_checkable
class TakesTemperature(Protocol):
    """A network that can have the temperature as an input."""

    def add_temperature(self) -> None:
        """Make ``log_beta_B``, the logarithm of the inverse temperature relative to the system's own, a keyword of what
        is called; at first it has no effect."""
        ...


NETWORKS: Registry[type[Network]] = Registry("network.name")


NetworkType = TypeVar("NetworkType", bound=type)


def register_network(name: str) -> Callable[[NetworkType], NetworkType]:
    """Class decorator: makes a `Network` known to configurations under ``network.name = name``."""
    return NETWORKS.register(name)


def parse_network(table: Mapping[str, Any], source: str) -> NetworkOptions:
    """Options of the network that ``table["name"]`` names; raises `ConfigError`."""
    return parse_table(NETWORKS.find(table["name"]).Options, table, source, "network")
