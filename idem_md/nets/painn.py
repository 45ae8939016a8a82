"""PaiNN-like E(n)-equivariant network (Schütt, Unke & Gastegger, ICML 2021) conditioned on the noise level.

Three routes through the same weights, compared by the tests: a native fused kernel over all pairs (training
and sampling on the CPU), the same in plain torch (any device, differentiable in the positions), and an edge
list through torch-geometric's message passing (cutoffs). Shape legend: B configurations, N atoms, D
dimensions, C channels, K radial functions, E edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from pydantic import Field
from torch import nn

from .. import native as ops
from ..errors import UsageError
from ..systems import System
from .layers import NoiseEmbedding, RadialSplines, dense, dense_layers, perceptron, silent_linear
from .message_passing import MessagePassing
from .registry import Features, LayeredOptions, register_network

__all__ = ["Message", "PaiNN", "Update"]

# Bound on the length of an atom's vector in a refinement, whose scale is one.
LONGEST = 3.0


class Message(MessagePassing):
    """PaiNN message: neighbours' scalars and vectors, filtered by distance, summed over neighbours.

    ds_i = sum_j a_j A(r_ij);   dv_i = sum_j b_j B(r_ij) rhat_ij + v_j c_j C(r_ij), filters linear in the radial basis.

    Parameters
    ----------
    channels, n_basis : int
    n_classes : int
        Classes of pairs of atoms, each with a factor for every filter; without classes there are no factors.
    """

    def __init__(self, channels: int, n_basis: int, n_classes: int = 0):
        super().__init__(aggr="add", node_dim=0)
        self.node = perceptron(channels, channels, 3 * channels)
        self.filter = nn.Parameter(torch.randn(n_basis, 3 * channels, dtype=torch.float32) * 0.5)
        self.factors = nn.Embedding(n_classes, 3 * channels, dtype=torch.float32) if n_classes else None
        if self.factors is not None:
            nn.init.ones_(self.factors.weight)

    def fused(self, s, v, geometry, classes=None):
        """Increments of s (B,N,C) and v (B,N,D,C) by the native op; ``geometry`` from `native.pair_splines`, and the
        classes (P) of the same pairs."""
        factors = self.filter.new_empty(0, self.filter.shape[1]) if self.factors is None else self.factors(classes)
        return ops.message(*geometry, self.node(s).float(), v, self.filter, factors)

    def dense(self, s, v, basis, unit, classes=None):
        """The same in plain torch; basis (B,N,N,K), zero on the diagonal, unit (B,N,N,D) from j to i, classes (N,N)."""
        ws, wu, wv = (self._filters(basis, classes) * self.node(s).float()[:, None]).chunk(3, -1)
        dv = [(wu * unit[..., d, None] + wv * v[:, None, :, d]).sum(2) for d in range(unit.shape[-1])]
        return ws.sum(2), torch.stack(dv, 2)

    def forward(self, s, v, basis, unit, edge_index, classes=None):
        """The same over edges (j, i): s (M,C), v (M,D,C), basis (E,K), unit (E,D), edge_index (2,E), classes (E)."""
        return self.propagate(edge_index, a=self.node(s).float(), v=v, w=self._filters(basis, classes), unit=unit)

    def _filters(self, basis, classes):
        """Filters (..., 3C) of pairs with a basis (..., K)."""
        filters = basis @ self.filter
        return filters if self.factors is None else filters * self.factors(classes)

    def message(self, a_j, v_j, w, unit):
        ws, wu, wv = (w * a_j).chunk(3, -1)
        return torch.cat([ws[:, None], wu[:, None] * unit[..., None] + wv[:, None] * v_j], 1)

    def update(self, aggregated):
        return aggregated[:, 0], aggregated[:, 1:]


class Refinement(nn.Module):
    """A first estimate of the denoised positions, between two layers.

    Where noise is larger than the distances of neighbours those in x say little; those of the estimate show the
    structure that the layers before have found (as AlphaFold recycles positions; Jumper et al., Nature 596, 583, 2021).
    It is preconditioned as that of `diffusion.Denoiser`. Each atom's vector in it has a length of at most `LONGEST`, or
    refinements could let each other grow without limit.
    """

    def __init__(self, channels: int, sigma_data: float):
        super().__init__()
        self.sigma_data = sigma_data
        self.gate = perceptron(channels, channels, channels)
        self.vector_out = dense(channels, 1, bias=False)
        nn.init.zeros_(self.vector_out.weight)
        self.vector_in = nn.Parameter(torch.randn(channels, dtype=torch.float32) / math.sqrt(channels))

    def forward(self, x, log_sigma, s, v):
        """The estimate z (B,N,D), mean-free, and the vectors with z added; from noised positions x (B,N,D), scalars
        s (B,N,C) and vectors v (B,N,D,C)."""
        sigma = log_sigma.exp()[:, None, None]
        field = self.vector_out(self.gate(s).float()[..., None, :] * v)[..., 0].float()
        field = field / torch.sqrt(1 + (field**2).sum(-1, keepdim=True) / LONGEST**2)
        total = sigma**2 + self.sigma_data**2
        z = self.sigma_data**2 / total * x + self.sigma_data * sigma / torch.sqrt(total) * field
        z = z - z.mean(1, keepdim=True)
        return z, v + (z / self.sigma_data)[..., None] * self.vector_in


class Update(nn.Module):
    """PaiNN update: mixes channels atom by atom, scalars and vectors exchanging invariants."""

    def __init__(self, channels: int, normalised: bool = False):
        super().__init__()
        self.normal = _normal(2 * channels, normalised)
        self.mix = dense(channels, 2 * channels, bias=False)
        self.gate = perceptron(2 * channels, channels, 3 * channels)

    def forward(self, s, v):
        left, right = self.mix(v).float().chunk(2, -1)
        norm = torch.sqrt((right**2).sum(-2) + 1e-8)
        gs, gv, gd = self.gate(self.normal(torch.cat([s, norm], -1))).float().chunk(3, -1)
        return s + gs + gd * (left * right).sum(-2), v + gv[..., None, :] * left


def _normal(channels: int, normalised: bool) -> nn.Module:
    """What scalars (..., C) go through before dense layers, without weights of its own."""
    return nn.RMSNorm(channels, eps=1e-3, elementwise_affine=False) if normalised else nn.Identity()


def _pair_classes(kinds: Sequence[int]) -> torch.Tensor:
    """The class of each two atoms by their kinds, 0, 1, ..., shape (N, N), int64."""
    k = torch.tensor(kinds)
    return torch.unique(torch.minimum(k[:, None], k) * len(k) + torch.maximum(k[:, None], k), return_inverse=True)[1]


@register_network("painn")
class PaiNN(nn.Module):
    """Vector field F(x, ln sigma), equivariant to rotations, reflections and permutations, translation invariant.

    Parameters
    ----------
    channels, layers, n_basis : int
    length : float
        Natural length of the system, in the unit of ``x``.
    sigma_data : float
        Scale of the data; the positions enter the vector channels as x / sqrt(sigma^2 + sigma_data^2).
    cutoff : float or None
        With a cutoff only pairs closer than it exchange messages, over an edge list.
    kinds : tuple of int, optional
        The kind of each atom, 0, 1, ...; where there are several each has an embedding, added to its atoms' scalars,
        and permutations are a symmetry among atoms of one kind only. Such a network takes just this many atoms.
    pair_factors : bool
        Each two ``kinds`` of atoms have a factor of their own for every filter, so that a bonded pair differs from two
        atoms that noise has brought as near.
    normalised : bool
        Scalars are divided by their root mean square wherever they enter dense layers (Zhang & Sennrich, NeurIPS 2019).
        Without it those of an unusual configuration grow from layer to layer, faster than exponentially.
    refinements : int
        How many times, evenly over the layers, the network estimates the denoised positions. The layers after it use
        distances and directions of that estimate; see `Refinement`.

    Raises
    ------
    UsageError
        As many refinements as layers, or ``pair_factors`` where no two kinds are known.
    """

    kinds: torch.Tensor
    classes: torch.Tensor
    pair_classes: torch.Tensor

    class Options(LayeredOptions):
        """``length`` is the natural length of the system in its own unit; the rest as in `PaiNN`."""

        name: str = "painn"
        n_basis: int = Field(48, ge=4, le=4096)
        length: float = Field(1.0, gt=0)
        cutoff: float | None = Field(None, gt=0)
        pair_factors: bool = False
        normalised: bool = False
        refinements: int = Field(0, ge=0)

    @classmethod
    def build(cls, options: Options, system: System) -> PaiNN:
        """See `Network`."""
        if system.n_atoms < 2:
            raise UsageError(
                f"network.name: expected one for a single point, such as mlp, for {system.name!r}, got 'painn'"
            )
        return cls(
            options.channels,
            options.layers,
            options.n_basis,
            options.length,
            system.sigma_data,
            options.cutoff,
            system.kinds,
            options.pair_factors,
            options.normalised,
            options.refinements,
        )

    def __init__(
        self,
        channels: int = 64,
        layers: int = 4,
        n_basis: int = 48,
        length: float = 1.0,
        sigma_data: float = 1.0,
        cutoff: float | None = None,
        kinds: tuple[int, ...] = (),
        pair_factors: bool = False,
        normalised: bool = False,
        refinements: int = 0,
    ):
        super().__init__()
        several = len(set(kinds)) > 1
        if refinements >= layers:
            raise UsageError(f"network.refinements: expected fewer than layers = {layers}, got {refinements}")
        if pair_factors and not several:
            raise UsageError("network.pair_factors: expected false where all atoms are alike, got true")
        self.sigma_data = sigma_data
        self.cutoff = cutoff
        self.normalised, self.normal = normalised, _normal(channels, normalised)
        self.n_scalars, self.length = channels, length
        self.noise = NoiseEmbedding(channels)
        self.temperature: NoiseEmbedding | None = None
        self.radial = RadialSplines(n_basis, length)
        self.scalar_in = dense(n_basis, channels)
        self.vector_in = nn.Parameter(torch.randn(channels, dtype=torch.float32) / math.sqrt(channels))
        self.film = nn.ModuleList(silent_linear(channels, 2 * channels) for _ in range(layers))
        classes = _pair_classes(kinds) if pair_factors else torch.zeros(0, 0, dtype=torch.int64)
        self.register_buffer("classes", classes, persistent=False)
        i, j = torch.tril_indices(len(classes), len(classes), -1)
        self.register_buffer("pair_classes", classes[i, j], persistent=False)
        n_classes = int(classes.max()) + 1 if pair_factors else 0
        self.messages = nn.ModuleList(Message(channels, n_basis, n_classes) for _ in range(layers))
        self.updates = nn.ModuleList(Update(channels, normalised) for _ in range(layers))
        self.gate_out = perceptron(channels, channels, channels)
        self.vector_out = dense(channels, 1, bias=False)
        places = [round(k * layers / (refinements + 1)) for k in range(1, refinements + 1)]
        self.refinements = nn.ModuleDict({str(k): Refinement(channels, sigma_data) for k in places})
        self.kind = nn.Embedding(max(kinds) + 1, channels, dtype=torch.float32) if several else None
        self.register_buffer("kinds", torch.tensor(kinds) if several else None, persistent=False)

    def add_temperature(self) -> None:
        """See `TakesTemperature`."""
        self.temperature = NoiseEmbedding(self.n_scalars, 2)
        self.temperature.mlp[-1] = silent_linear(self.n_scalars, self.n_scalars)

    def has_native_energy(self, x_BND: torch.Tensor) -> bool:
        """Whether `native.energy_network` takes this network and these positions."""
        more = self.normalised or self.temperature is not None or len(self.classes) > 0 or len(self.refinements) > 0
        suits = self.cutoff is None and not more and x_BND.device.type == "cpu" and x_BND.shape[2] == 3
        return suits and ops.takes_energy_network(self.n_scalars, len(self.messages))

    def weights_at(self, log_sigma: float, n_atoms: int) -> tuple[torch.Tensor, ...]:
        """The weights at one noise level, which is folded into them, but for the field; see `native.energy_network`."""
        h = self.noise(torch.full((1,), log_sigma, dtype=torch.float32))[0]
        start = (self.scalar_in.bias + h).expand(n_atoms, -1)
        if self.kind is not None:
            start = start + self.kind(self.kinds)
        along = self.vector_in / math.sqrt(math.exp(2 * log_sigma) + self.sigma_data**2)
        weights = [start, self.scalar_in.weight.T, along]
        messages, updates = cast(Iterable[Message], self.messages), cast(Iterable[Update], self.updates)
        for film, message, update in zip(self.film, messages, updates):
            scale, shift = (1 + film(h)).chunk(2)
            (inner, outer), (opened, closed) = dense_layers(message.node), dense_layers(update.gate)
            weights += [inner.weight * scale, inner.bias + inner.weight @ (shift - 1), outer.weight, outer.bias]
            weights += [message.filter, update.mix.weight]
            weights += [opened.weight, opened.bias, closed.weight, closed.bias]
        return tuple(weights)

    def forward(
        self,
        x_BND: torch.Tensor,
        log_sigma_B: torch.Tensor,
        native: bool | None = None,
        log_beta_B: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The field, shape (B, N, D), mean-free, float32.

        Parameters
        ----------
        x_BND : torch.Tensor, float32
        log_sigma_B : torch.Tensor, float32
        native : bool, optional
            Use the fused kernel. By default wherever it serves (all pairs, CPU, 2 or 3 dimensions) and no gradient with
            respect to the positions is wanted, of which it has first derivatives only.
        log_beta_B : torch.Tensor, float32, optional
            See `TakesTemperature`; by default zeros.

        Raises
        ------
        UsageError
            ``native`` where it does not serve.
        """
        return self.with_features(x_BND, log_sigma_B, native, log_beta_B).field

    def with_features(
        self,
        x_BND: torch.Tensor,
        log_sigma_B: torch.Tensor,
        native: bool | None = None,
        log_beta_B: torch.Tensor | None = None,
    ) -> Features:
        """The field of `forward`, and what the last layer knows; see `HasFeatures`."""
        b, n, d = x_BND.shape
        serves = self.cutoff is None and x_BND.device.type == "cpu" and d in (2, 3)
        if native and not serves:
            raise UsageError("native: the fused kernel takes all pairs on the CPU, 2 or 3 dimensions")
        native = serves and not x_BND.requires_grad if native is None else native
        x = x_BND - x_BND.mean(1, keepdim=True)
        y = x / torch.sqrt((2 * log_sigma_B).exp() + self.sigma_data**2)[:, None, None]
        h = self.noise(log_sigma_B).float()
        if self.temperature is not None:
            log_beta_B = torch.zeros_like(log_sigma_B) if log_beta_B is None else log_beta_B
            h = h + self.temperature(log_sigma_B, log_beta_B).float()
        s = self.scalar_in(self.radial(torch.sqrt((x**2).sum(-1) + 1e-12))).float() + h[:, None]
        if self.kind is not None:
            if n != len(self.kinds):
                raise UsageError(f"x_BND: expected the {len(self.kinds)} atoms whose kinds are known, got {n}")
            s = s + self.kind(self.kinds)
        v = y[..., None] * self.vector_in
        gains = [1 + layer(h).float()[:, None] for layer in self.film]
        geometry, classes = self._geometry(x, native)
        messages, updates = cast(Iterable[Message], self.messages), cast(Iterable[Update], self.updates)
        for k, (gain, message, update) in enumerate(zip(gains, messages, updates)):
            normal = self.normal(s)
            if str(k) in self.refinements:
                z, v = self.refinements[str(k)](x, log_sigma_B, normal, v)
                geometry, classes = self._geometry(z, native)
            scale, shift = gain.chunk(2, -1)
            inner = normal * scale + shift - 1
            if self.cutoff is not None:
                ds, dv = message(inner.flatten(0, 1), v.flatten(0, 1), *geometry, classes=classes)
                ds, dv = ds.reshape(s.shape), dv.reshape(v.shape)
            elif native:
                ds, dv = message.fused(inner, v, geometry, classes)
            else:
                basis, unit = geometry
                ds, dv = message.dense(inner, v, basis, unit, classes)
            s, v = update(s + ds, v + dv)
        s = self.normal(s)
        out = self.vector_out(self.gate_out(s).float()[..., None, :] * v)[..., 0].float()
        return Features(out - out.mean(1, keepdim=True), s, v)

    def _geometry(self, x: torch.Tensor, native: bool) -> tuple[Any, torch.Tensor | None]:
        """The geometry that the messages need, in the form of the chosen route, and the classes of the pairs."""
        if self.cutoff is not None:
            basis, unit, edges = self._edges(x, self.cutoff)
            n = x.shape[1]
            return (basis, unit, edges), self.classes[tuple(edges % n)] if len(self.classes) else None
        if native:
            return self.radial.pairs(x), self.pair_classes
        return self.radial.all_pairs(x), self.classes

    def _edges(self, x: torch.Tensor, cutoff: float):
        """Basis (E,K), directions (E,D) and indices (2,E) of the directed pairs (j, i) closer than the cutoff."""
        n = x.shape[1]
        close = (x[:, :, None] - x[:, None]).norm(dim=-1) < cutoff
        b, i, j = (close & ~torch.eye(n, dtype=torch.bool, device=x.device)).nonzero(as_tuple=True)
        dx = x[b, i] - x[b, j]
        r = torch.sqrt((dx**2).sum(-1) + 1e-12)
        # Smooth to zero at the cutoff, so the field has no jump when a pair crosses it.
        envelope = 0.5 * (1 + torch.cos(math.pi * r / cutoff))
        return self.radial(r) * envelope[:, None], dx / r[:, None], torch.stack([b * n + j, b * n + i])
