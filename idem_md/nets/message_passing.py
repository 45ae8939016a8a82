"""torch-geometric's `MessagePassing`, whose import warns of what users of this package can do nothing about."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they may have made errors of warnings
    from torch_geometric.nn import MessagePassing

__all__ = ["MessagePassing"]
