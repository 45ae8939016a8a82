"""EGNN (Satorras, Hoogeboom & Welling, ICML 2021) as the iDEM paper uses it, for the faithful preset and as a
yardstick.

Two dense layers an edge: its cost grows with the square of the channels for every pair of atoms, where `PaiNN` pays
that only for every atom. All pairs exchange messages through torch-geometric. Shapes: M = B N atoms, E = B N (N-1)
directed edges, D dimensions, C channels.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UsageError
from ..geometry import centred
from ..systems import System
from .layers import dense
from .message_passing import MessagePassing
from .registry import LayeredOptions, register_network

__all__ = ["EGNN"]


class Layer(MessagePassing):
    """One EGNN layer with attention and bounded moves.

    m_ij = phi_e(h_i, h_j, r_ij^2, r0_ij^2) sigmoid(a . m_ij);  x_i += sum_j (x_i - x_j)/(r_ij + 1) R tanh(phi_x(m_ij));
    h_i += phi_h(h_i, sum_j m_ij), with r0 the distance before the first layer and R the range.
    """

    def __init__(self, channels: int, coordinate_range: float):
        super().__init__(aggr="add", node_dim=0)
        self.coordinate_range = coordinate_range
        c = channels
        self.edge = nn.Sequential(dense(2 * c + 2, c), nn.SiLU(), dense(c, c), nn.SiLU())
        self.attention = nn.Sequential(dense(c, 1), nn.Sigmoid())
        last = dense(c, 1, bias=False)
        nn.init.xavier_uniform_(last.weight, gain=0.001)
        self.coordinate = nn.Sequential(dense(c, c), nn.SiLU(), last, nn.Tanh())
        self.node = nn.Sequential(dense(2 * c, c), nn.SiLU(), dense(c, c))

    def forward(self, h, x, edge_index, r0_squared):
        """h (M, C), x (M, D), edge_index (2, E) as (j, i), r0_squared (E, 1)."""
        sums = self.propagate(edge_index, h=h, x=x, r0_squared=r0_squared)
        messages, move = sums.split([h.shape[1], x.shape[1]], -1)
        return h + self.node(torch.cat([h, messages], -1)), x + move

    def message(self, h_i, h_j, x_i, x_j, r0_squared):
        dx = x_i - x_j
        r_squared = (dx**2).sum(-1, keepdim=True)
        m = self.edge(torch.cat([h_i, h_j, r_squared, r0_squared], -1))
        m = m * self.attention(m)
        move = dx / (torch.sqrt(r_squared + 1e-8) + 1) * self.coordinate(m) * self.coordinate_range
        return torch.cat([m, move], -1)


@register_network("egnn")
class EGNN(nn.Module):
    """Vector field F(x, ln sigma), equivariant to rotations, reflections and permutations, translation invariant.

    Parameters
    ----------
    channels, layers : int
        The paper has 128 and 5 (3 for DW-4).
    """

    class Options(LayeredOptions):
        """Settings, as for `EGNN`."""

        name: str = "egnn"

    @classmethod
    def build(cls, options: Options, system: System) -> EGNN:
        """See `Network`."""
        if system.n_atoms < 2:
            raise UsageError(
                f"network.name: expected one for a single point, such as mlp, for {system.name!r}, got 'egnn'"
            )
        if len(set(system.kinds)) > 1:
            raise UsageError(
                f"network.name: expected painn for {system.name!r}, whose atoms are of several kinds, got 'egnn'"
            )
        return cls(options.channels, options.layers)

    def __init__(self, channels: int = 128, layers: int = 5):
        super().__init__()
        self.embedding = dense(1, channels)
        self.layers = nn.ModuleList(Layer(channels, 15 / layers) for _ in range(layers))

    def forward(self, x_BND: torch.Tensor, log_sigma_B: torch.Tensor) -> torch.Tensor:
        """The field, shape (B, N, D), mean-free, float32: what the layers moved the atoms by."""
        b, n, d = x_BND.shape
        i, j = (~torch.eye(n, dtype=torch.bool, device=x_BND.device)).nonzero(as_tuple=True)
        first = n * torch.arange(b, device=x_BND.device)[:, None]
        edge_index = torch.stack([(j + first).flatten(), (i + first).flatten()])
        x = start = x_BND.reshape(b * n, d)
        r0_squared = ((x[edge_index[0]] - x[edge_index[1]]) ** 2).sum(-1, keepdim=True)
        h = self.embedding(log_sigma_B.repeat_interleave(n)[:, None])
        for layer in self.layers:
            h, x = layer(h, x, edge_index, r0_squared)
        return centred((x - start).reshape(b, n, d))
