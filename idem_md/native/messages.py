"""Messages of the equivariant network, fused over all pairs, as torch ops."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..checks import check_int
from ..errors import UsageError
from .module import check_batch, check_tensor, native

__all__ = ["SplineScale", "message", "pair_splines"]


class SplineScale(NamedTuple):
    """K cubic splines of t = (log(r / length + shift) - lo) / width, see `pair_splines`."""

    n_basis: int
    length: float
    shift: float
    lo: float
    width: float


def _check_geometry(knot, spline, unit, a, v, filter, factors) -> None:
    check_tensor("v", v, (None,) * 4)
    b, n, d, c = v.shape
    pairs = n * (n - 1) // 2
    check_tensor("a", a, (b, n, 3 * c))
    check_tensor("filter", filter, (None, 3 * c))
    check_tensor("factors", factors, (pairs if len(factors) else 0, 3 * c))
    check_tensor("knot", knot, (b, pairs), (torch.int32,))
    check_tensor("spline", spline, (b, pairs, 4))
    check_tensor("unit", unit, (b, pairs, d))
    if d not in (2, 3) or not 1 <= c <= 512:
        raise UsageError(f"v: expected 2 or 3 dimensions and at most 512 channels, got shape {tuple(v.shape)}")
    if knot.numel() and not 0 <= int(knot.min()) <= int(knot.max()) <= len(filter) - 4:
        raise UsageError(f"knot: expected values in [0, {len(filter) - 4}], got [{int(knot.min())}, {int(knot.max())}]")


@torch.library.custom_op("idem_md::pair_splines", mutates_args=(), device_types="cpu")
def pair_splines(
    x: torch.Tensor, n_basis: int, length: float, shift: float, lo: float, width: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs i > j as cubic B-spline coordinates of the log distance, and their directions.

    t = (log(r/length + shift) - lo) / width, clamped to the range of the basis; the four basis functions
    knot .. knot+3 are the ones that do not vanish there. Differentiable in ``x``, once.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D), float32
    n_basis : int
        K, at least 4.
    length, shift, lo, width : float

    Returns
    -------
    knot : torch.Tensor, shape (B, N(N-1)/2), int32
    spline : torch.Tensor, shape (B, N(N-1)/2, 4), float32
    unit : torch.Tensor, shape (B, N(N-1)/2, D), float32
        (x_i - x_j) / r. Pairs come as (1,0), (2,0), (2,1), ...
    """
    check_batch(x)
    check_int("n_basis", n_basis, 4)
    x = x.contiguous()
    b, n, d = x.shape
    pairs = n * (n - 1) // 2
    knot = torch.empty(b, pairs, dtype=torch.int32)
    spline, unit = x.new_empty(b, pairs, 4), x.new_empty(b, pairs, d)
    native.pair_splines(x, knot, spline, unit, n_basis, length, shift, lo, width, torch.get_num_threads())
    return knot, spline, unit


@pair_splines.register_fake
def _(x, n_basis, length, shift, lo, width):
    b, n, d = x.shape
    pairs = n * (n - 1) // 2
    return x.new_empty(b, pairs, dtype=torch.int32), x.new_empty(b, pairs, 4), x.new_empty(b, pairs, d)


@torch.library.custom_op("idem_md::pair_splines_backward", mutates_args=(), device_types="cpu")
def _pair_splines_backward(
    x: torch.Tensor,
    gspline: torch.Tensor,
    gunit: torch.Tensor,
    n_basis: int,
    length: float,
    shift: float,
    lo: float,
    width: float,
) -> torch.Tensor:
    check_batch(x)
    b, n, d = x.shape
    pairs = n * (n - 1) // 2
    check_tensor("gspline", gspline, (b, pairs, 4))
    check_tensor("gunit", gunit, (b, pairs, d))
    x, gspline, gunit = (t.detach().contiguous() for t in (x, gspline, gunit))
    gx = torch.empty_like(x)
    numbers = n_basis, length, shift, lo, width
    native.pair_splines_backward(x, gspline, gunit, gx, *numbers, torch.get_num_threads())
    return gx


@_pair_splines_backward.register_fake
def _(x, gspline, gunit, n_basis, length, shift, lo, width):
    return torch.empty_like(x)


def _pair_splines_setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.numbers = inputs[1:]


def _pair_splines_grad(ctx, _, gspline, gunit):
    return _pair_splines_backward(*ctx.saved_tensors, gspline, gunit, *ctx.numbers), *[None] * 5


pair_splines.register_autograd(_pair_splines_grad, setup_context=_pair_splines_setup)


@torch.library.custom_op("idem_md::message", mutates_args=(), device_types="cpu")
def message(
    knot: torch.Tensor,
    spline: torch.Tensor,
    unit: torch.Tensor,
    a: torch.Tensor,
    v: torch.Tensor,
    filter: torch.Tensor,
    factors: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equivariant messages over all pairs; filters are splines of the distance and never stored.

    ds_i = sum_j a_j^(1) w1_ij;   dv_i = sum_j a_j^(2) w2_ij rhat_ij + v_j a_j^(3) w3_ij, with (w1, w2, w3)_ij the
    row ``spline @ filter[knot:knot+4]``, times that of ``factors`` (the PaiNN message, Schütt et al., ICML 2021).
    Differentiable in all but ``knot``, once.

    Parameters
    ----------
    knot, spline, unit : torch.Tensor
        From `pair_splines`.
    a : torch.Tensor, shape (B, N, 3C), float32
    v : torch.Tensor, shape (B, N, D, C), float32
    filter : torch.Tensor, shape (K, 3C), float32
    factors : torch.Tensor, shape (N(N-1)/2, 3C) or (0, 3C), float32
        Factors of the filters of each pair; none at all if they are 1.

    Returns
    -------
    ds : torch.Tensor, shape (B, N, C)
    dv : torch.Tensor, shape (B, N, D, C)
    """
    given = knot, spline, unit, a, v, filter, factors
    _check_geometry(*given)
    ds, dv = a.new_empty(*a.shape[:2], v.shape[-1]), v.new_empty(v.shape)
    native.message_forward(*(t.detach().contiguous() for t in given), ds, dv, torch.get_num_threads())
    return ds, dv


@message.register_fake
def _(knot, spline, unit, a, v, filter, factors):
    return a.new_empty(*a.shape[:2], v.shape[-1]), v.new_empty(v.shape)


@torch.library.custom_op("idem_md::message_backward", mutates_args=(), device_types="cpu")
def _message_backward(
    knot: torch.Tensor,
    spline: torch.Tensor,
    unit: torch.Tensor,
    a: torch.Tensor,
    v: torch.Tensor,
    filter: torch.Tensor,
    factors: torch.Tensor,
    gs: torch.Tensor,
    gv: torch.Tensor,
    geometry: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of a, v, filter and factors, and those of spline and unit if they are asked for, else empty ones."""
    given = knot, spline, unit, a, v, filter, factors, gs, gv
    _check_geometry(*given[:7])
    check_tensor("gs", gs, (*a.shape[:2], v.shape[-1]))
    check_tensor("gv", gv, tuple(v.shape))
    ga, gvin, gfilter, gfactors = (t.new_empty(t.shape) for t in (a, v, filter, factors))
    gspline, gunit = (t.new_empty(t.shape if geometry else (0, *t.shape[1:])) for t in (spline, unit))
    own = ga, gvin, gfilter, gfactors, gspline, gunit
    native.message_backward(*(t.detach().contiguous() for t in given), *own, torch.get_num_threads())
    return own


@_message_backward.register_fake
def _(knot, spline, unit, a, v, filter, factors, gs, gv, geometry=False):
    rows = len(spline) if geometry else 0
    shapes = a.shape, v.shape, filter.shape, factors.shape, (rows, *spline.shape[1:]), (rows, *unit.shape[1:])
    return tuple(a.new_empty(shape) for shape in shapes)


def _message_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _message_grad(ctx, gs, gv):
    geometry = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ga, gvin, gfilter, gfactors, gspline, gunit = _message_backward(*ctx.saved_tensors, gs, gv, geometry)
    return None, *((gspline, gunit) if geometry else (None, None)), ga, gvin, gfilter, gfactors


message.register_autograd(_message_grad, setup_context=_message_setup)
