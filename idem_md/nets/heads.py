"""The extension point of heads: small networks on the features of a frozen network, kept with it in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import nn

from ..errors import UsageError
from ..registry import Registry
from ..tables import Table
from .registry import HasFeatures

__all__ = ["HEADS", "BuildHead", "Head", "features_of", "network_name", "register_head"]


class Head(Protocol):
    """What a checkpoint asks of a head, which is a `torch.nn.Module` besides.

    Attributes
    ----------
    options : Table
        From which it can be built again.
    """

    options: Table


# (options, network, sigma_data, heads that are there by name) -> the head with fresh weights, drawn from torch's global
# generator.
BuildHead = Callable[[Mapping[str, Any], nn.Module, float, Any], nn.Module]

# In the order in which they are built: a head may ask for those before it.
HEADS: Registry[BuildHead] = Registry("head")

BuildHeadType = TypeVar("BuildHeadType", bound=BuildHead)


def register_head(name: str) -> Callable[[BuildHeadType], BuildHeadType]:
    """Decorator of a `BuildHead`: its heads are kept in checkpoints and found in ``Denoiser.heads`` under that name."""
    return HEADS.register(name)


def network_name(net: nn.Module) -> str:
    """The name that a network was built by, or that of its class."""
    return vars(net).get("registered_name", type(net).__name__)


def features_of(head: str, net: nn.Module) -> Any:
    """The network, if it has features for a head of that name.

    Raises
    ------
    UsageError
        It has none.
    """
    if not isinstance(net, HasFeatures):
        raise UsageError(
            f"{head}: expected a network with scalars on its atoms, such as painn, got {type(net).__name__}"
        )
    return net
