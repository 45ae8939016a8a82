"""Native Lennard-Jones kernels as torch ops.

The C++ lives in ``src/``; it is built once per instruction set and chosen at run time. Each op here has a
plain torch reference elsewhere in the package, and the tests compare the two.
"""

from __future__ import annotations

import torch

from ..checks import UsageError, check_int

try:
    from . import _native
except ImportError as error:  # importing from a source tree that was never built
    raise ImportError(
        "idem_md: the native module is missing; install the package (pip install .) and import it from there, not "
        f"from the source folder ({error})"
    ) from error

__all__ = ["dem_target", "instruction_sets", "lj_energy_forces", "mala", "message", "pair_splines"]


def instruction_sets() -> list[str]:
    """Names of the instruction sets this processor can run, fastest first; the first is the default."""
    return _native.instruction_sets()


def _check(name: str, t: torch.Tensor, shape: tuple, dtypes=(torch.float32,)) -> None:
    """Refuse what the native code would read out of bounds; ``None`` in ``shape`` stands for any size."""
    if t.dim() != len(shape) or any(want is not None and want != got for want, got in zip(shape, t.shape)):
        raise UsageError(f"{name}: expected shape {shape}, got {tuple(t.shape)}")
    if t.dtype not in dtypes:
        raise UsageError(f"{name}: expected {' or '.join(map(str, dtypes))}, got {t.dtype}")


def _check_positions(x: torch.Tensor, dtypes=(torch.float32,)) -> None:
    _check("x", x, (None, None, None), dtypes)
    if x.shape[1] < 1 or x.shape[2] not in (2, 3):
        raise UsageError(f"x: expected at least one atom in 2 or 3 dimensions, got shape {tuple(x.shape)}")


def _check_geometry(knot, spline, unit, a, v, filter) -> None:
    b, n, d, c = v.shape if v.dim() == 4 else (None,) * 4
    _check("v", v, (b, n, d, c))
    pairs = n * (n - 1) // 2
    _check("a", a, (b, n, 3 * c))
    _check("filter", filter, (None, 3 * c))
    _check("knot", knot, (b, pairs), (torch.int32,))
    _check("spline", spline, (b, pairs, 4))
    _check("unit", unit, (b, pairs, d))
    if d not in (2, 3) or not 1 <= c <= 512:
        raise UsageError(f"v: expected 2 or 3 dimensions and at most 512 channels, got shape {tuple(v.shape)}")
    if knot.numel() and not 0 <= int(knot.min()) <= int(knot.max()) <= len(filter) - 4:
        raise UsageError(f"knot: expected values in [0, {len(filter) - 4}], got [{int(knot.min())}, {int(knot.max())}]")


@torch.library.custom_op("idem_md::lj_energy_forces", mutates_args=(), device_types="cpu")
def lj_energy_forces(x: torch.Tensor, epsilon: float, r_min: float, trap: float, isa: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Energies and forces of Lennard-Jones clusters in a harmonic trap about the centroid.

    u = epsilon * sum_{i<j} [(r_m/r)^12 - 2 (r_m/r)^6] + trap/2 * sum_i |x_i - mean(x)|^2

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D), float32 or float64, D = 2 or 3
    epsilon, r_min, trap : float
        Well depth in kT, distance of the minimum, trap stiffness in kT / length^2.
    isa : str
        Instruction set; empty picks the fastest available.

    Returns
    -------
    u : torch.Tensor, shape (B,)
        Energies in kT; +inf where a pair is closer than 0.00316 r_m.
    f : torch.Tensor, shape (B, N, D)
        Forces -grad u; finite for every finite input in the range of the dtype.
    """
    _check_positions(x, (torch.float32, torch.float64))
    x = x.contiguous()
    u, f = x.new_empty(x.shape[0]), torch.empty_like(x)
    call = _native.lj_energy_forces_f32 if x.dtype == torch.float32 else _native.lj_energy_forces_f64
    call(x.detach(), u, f, epsilon, r_min, trap, torch.get_num_threads(), isa)
    return u, f


@lj_energy_forces.register_fake
def _(x, epsilon, r_min, trap, isa=""):
    return x.new_empty(x.shape[0]), torch.empty_like(x)


@torch.library.custom_op("idem_md::lj_mala", mutates_args=(), device_types="cpu")
def mala(
    x: torch.Tensor, step: torch.Tensor, beta: torch.Tensor, n_steps: int, seed: int, epsilon: float, r_min: float,
    trap: float, centre: torch.Tensor | None = None, stiffness: torch.Tensor | None = None, averages: bool = False,
    isa: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Metropolis-adjusted Langevin chains on beta*u(x) + stiffness/2 |x - centre|^2, in the mean-free subspace.

    Proposal x' = x + h g + sqrt(2h) noise, with g the total force, each atom's part cut to the length
    sqrt(2 D / h) and the mean removed (MALTA; Roberts & Tweedie, Bernoulli 2, 341, 1996). The whole loop runs in
    native code, one chain a vector lane; a chain's random numbers depend on (seed, chain index) only.

    Parameters
    ----------
    x : torch.Tensor, shape (C, N, D), float32
        Starting positions, mean-free.
    step, beta : torch.Tensor, shape (C,), float32
        Langevin step h (length^2) and inverse temperature relative to kT = 1.
    n_steps, seed : int
    epsilon, r_min, trap : float
        As for `lj_energy_forces`.
    centre : torch.Tensor, shape (C, N, D), optional
    stiffness : torch.Tensor, shape (C,), optional
        Harmonic restraint; both or neither.
    averages : bool
        Also average positions and bare forces over the steps of each chain.

    Returns
    -------
    x, u, f : torch.Tensor
        Final positions (C, N, D), energies (C,) and forces (C, N, D) without the restraint.
    acceptance : torch.Tensor, shape (C,)
    mean_x, mean_f : torch.Tensor, shape (C, N, D), or (0, N, D) without ``averages``
    """
    if (centre is None) != (stiffness is None):
        raise UsageError("centre, stiffness: expected both or neither")
    _check_positions(x)
    check_int("n_steps", n_steps, 0)
    check_int("seed", seed, 0, 2**63 - 1)
    x = x.contiguous()
    c = x.shape[0]

    def per_chain(name, t):
        if t.numel() != 1:
            _check(name, t, (c,), (torch.float32, torch.float64))
        return t.to(torch.float32).reshape(-1).expand(c).contiguous()

    step, beta = per_chain("step", step), per_chain("beta", beta)
    if not bool((step > 0).all()):
        raise UsageError("step: expected positive numbers")
    if centre is not None:
        _check("centre", centre, tuple(x.shape), (torch.float32, torch.float64))
        centre, stiffness = centre.to(torch.float32).contiguous(), per_chain("stiffness", stiffness)
    out, f = torch.empty_like(x), torch.empty_like(x)
    u, acceptance = x.new_empty(c), x.new_empty(c)
    mean_x, mean_f = (torch.empty_like(x), torch.empty_like(x)) if averages else (x.new_empty(0, *x.shape[1:]),) * 2
    _native.lj_mala(
        x, step, beta, centre, stiffness, out, u, f, acceptance, mean_x if averages else None,
        mean_f if averages else None, n_steps, seed, epsilon, r_min, trap, torch.get_num_threads(), isa,
    )
    return out, u, f, acceptance, mean_x, mean_f if averages else mean_f.clone()


@mala.register_fake
def _(x, step, beta, n_steps, seed, epsilon, r_min, trap, centre=None, stiffness=None, averages=False, isa=""):
    c = x.shape[0]
    mean = (c if averages else 0, *x.shape[1:])
    return torch.empty_like(x), x.new_empty(c), torch.empty_like(x), x.new_empty(c), x.new_empty(mean), x.new_empty(mean)


@torch.library.custom_op("idem_md::lj_dem_target", mutates_args=(), device_types="cpu")
def dem_target(
    x: torch.Tensor, sigma: torch.Tensor, n_samples: int, seed: int, epsilon: float, r_min: float, trap: float,
    isa: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Importance-sampled scores of the noised Boltzmann density, streamed over the samples.

    x_k = x + sigma eps_k, w = softmax(-u(x_k)): S_T = sum_k w_k f(x_k) (Akhound-Sadegh et al., ICML 2024, the
    DEM estimator) and S_D = sum_k w_k eps_k / sigma. Memory is O(B N); K x N x D is never formed.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D), float32
        Noised positions x_t, mean-free.
    sigma : torch.Tensor, shape (B,), float32
    n_samples, seed : int
        K and the seed; a sample's numbers depend on (seed, b K + k) only.

    Returns
    -------
    s_tsi, s_dsi : torch.Tensor, shape (B, N, D)
    alpha : torch.Tensor, shape (B,)
        Weight of S_T in the mix of least variance, in [0, 1].
    log_mean_exp : torch.Tensor, shape (B,)
        log (1/K) sum_k exp(-u(x_k)); -inf where every sample overlaps (then the scores are 0).
    ess : torch.Tensor, shape (B,)
        (sum w)^2 / sum w^2; 0 where every sample overlaps.
    """
    _check_positions(x)
    check_int("n_samples", n_samples, 1)
    check_int("seed", seed, 0, 2**63 - 1)
    x = x.contiguous()
    b = x.shape[0]
    _check("sigma", sigma, (b,), (torch.float32, torch.float64))
    sigma = sigma.to(torch.float32).contiguous()
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise UsageError("sigma: expected finite positive numbers")
    s_tsi, s_dsi = torch.empty_like(x), torch.empty_like(x)
    alpha, log_mean_exp, ess = (x.new_empty(b) for _ in range(3))
    _native.lj_dem_target(
        x, sigma, s_tsi, s_dsi, alpha, log_mean_exp, ess, n_samples, seed, epsilon, r_min, trap,
        torch.get_num_threads(), isa,
    )
    return s_tsi, s_dsi, alpha, log_mean_exp, ess


@dem_target.register_fake
def _(x, sigma, n_samples, seed, epsilon, r_min, trap, isa=""):
    b = x.shape[0]
    return torch.empty_like(x), torch.empty_like(x), *(x.new_empty(b) for _ in range(3))


@torch.library.custom_op("idem_md::pair_splines", mutates_args=(), device_types="cpu")
def pair_splines(
    x: torch.Tensor, n_basis: int, length: float, shift: float, lo: float, width: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs i > j as cubic B-spline coordinates of the log distance, and their directions.

    t = (log(r/length + shift) - lo) / width, clamped to the range of the basis; the four basis functions
    knot .. knot+3 are the ones that do not vanish there.

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
    _check_positions(x)
    check_int("n_basis", n_basis, 4)
    x = x.contiguous()
    b, n, d = x.shape
    pairs = n * (n - 1) // 2
    knot = torch.empty(b, pairs, dtype=torch.int32)
    spline, unit = x.new_empty(b, pairs, 4), x.new_empty(b, pairs, d)
    _native.pair_splines(x, knot, spline, unit, n_basis, length, shift, lo, width, torch.get_num_threads())
    return knot, spline, unit


@pair_splines.register_fake
def _(x, n_basis, length, shift, lo, width):
    b, n, d = x.shape
    pairs = n * (n - 1) // 2
    return x.new_empty(b, pairs, dtype=torch.int32), x.new_empty(b, pairs, 4), x.new_empty(b, pairs, d)


@torch.library.custom_op("idem_md::message", mutates_args=(), device_types="cpu")
def message(
    knot: torch.Tensor, spline: torch.Tensor, unit: torch.Tensor, a: torch.Tensor, v: torch.Tensor, filter: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equivariant messages over all pairs; filters are splines of the distance and never stored.

    ds_i = sum_j a_j^(1) w1_ij;   dv_i = sum_j a_j^(2) w2_ij rhat_ij + v_j a_j^(3) w3_ij, with (w1, w2, w3)_ij the
    row ``spline @ filter[knot:knot+4]`` (the PaiNN message, Schütt et al., ICML 2021). Differentiable in ``a``,
    ``v`` and ``filter``, not in the geometry.

    Parameters
    ----------
    knot, spline, unit : torch.Tensor
        From `pair_splines`.
    a : torch.Tensor, shape (B, N, 3C), float32
    v : torch.Tensor, shape (B, N, D, C), float32
    filter : torch.Tensor, shape (K, 3C), float32

    Returns
    -------
    ds : torch.Tensor, shape (B, N, C)
    dv : torch.Tensor, shape (B, N, D, C)
    """
    _check_geometry(knot, spline, unit, a, v, filter)
    knot, spline, unit, a, v, filter = (t.detach().contiguous() for t in (knot, spline, unit, a, v, filter))
    ds, dv = a.new_empty(*a.shape[:2], v.shape[-1]), torch.empty_like(v)
    _native.message_forward(knot, spline, unit, a, v, filter, ds, dv, torch.get_num_threads())
    return ds, dv


@message.register_fake
def _(knot, spline, unit, a, v, filter):
    return a.new_empty(*a.shape[:2], v.shape[-1]), v.new_empty(v.shape)


@torch.library.custom_op("idem_md::message_backward", mutates_args=(), device_types="cpu")
def _message_backward(
    knot: torch.Tensor, spline: torch.Tensor, unit: torch.Tensor, a: torch.Tensor, v: torch.Tensor,
    filter: torch.Tensor, gs: torch.Tensor, gv: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_geometry(knot, spline, unit, a, v, filter)
    _check("gs", gs, (*a.shape[:2], v.shape[-1]))
    _check("gv", gv, tuple(v.shape))
    knot, spline, unit, a, v, filter, gs, gv = (t.detach().contiguous() for t in (knot, spline, unit, a, v, filter, gs, gv))
    ga, gvin, gfilter = torch.empty_like(a), torch.empty_like(v), torch.empty_like(filter)
    _native.message_backward(knot, spline, unit, a, v, filter, gs, gv, ga, gvin, gfilter, torch.get_num_threads())
    return ga, gvin, gfilter


@_message_backward.register_fake
def _(knot, spline, unit, a, v, filter, gs, gv):
    return a.new_empty(a.shape), v.new_empty(v.shape), filter.new_empty(filter.shape)


def _message_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _message_grad(ctx, gs, gv):
    return None, None, None, *_message_backward(*ctx.saved_tensors, gs, gv)


message.register_autograd(_message_grad, setup_context=_message_setup)
