"""Native kernels against plain float64 references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idem_md import kernels
from idem_md.checks import EnergyError, UsageError
from idem_md.energies import DoubleWell, Energy, Harmonic, LennardJones, dem_scores_reference, lennard_jones_reference
from idem_md.geometry import centred, standard_normal
from idem_md.testing import check_energy

PARAMETERS = dict(epsilon=2.0, r_min=1.0, trap=1.0)
ENERGY_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
FORCE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_atoms,n_dims", [(2, 3), (5, 2), (13, 3), (55, 3)])
def test_energy_forces_match_the_reference(isa, dtype, n_atoms, n_dims):
    parameters = dict(epsilon=1.7, r_min=1.2, trap=0.6)
    x = standard_normal((37, n_atoms, n_dims), generator()).mul(n_atoms ** (1 / 3)).to(dtype)
    u, f = kernels.lj_energy_forces(x, **parameters, isa=isa)
    u_ref, f_ref = lennard_jones_reference(x.double(), **parameters)
    # Pairs closer than this amplify the rounding of the positions themselves beyond any kernel's control.
    ok = torch.cdist(x.double(), x.double()).add(torch.eye(n_atoms) * 9).amin((1, 2)) > 0.3 * parameters["r_min"]
    assert ok.sum() > 3
    assert ((u - u_ref).abs() / (1 + u_ref.abs()))[ok].max() < ENERGY_TOLERANCE[dtype]
    assert ((f - f_ref).abs() / f_ref.abs().amax((1, 2), keepdim=True))[ok].max() < FORCE_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("separation,infinite", [(0.0, True), (1e-3, True), (4e-3, False), (0.3, False)])
def test_overlaps_are_infinite_and_never_nan(dtype, separation, infinite):
    x = torch.zeros(1, 3, 3, dtype=dtype)
    x[0, 1, 0], x[0, 2, 1] = separation, 2.0
    u, f = LennardJones(3, **PARAMETERS)(x)
    u_ref, f_ref = lennard_jones_reference(x.double(), **PARAMETERS)
    assert torch.isinf(u).item() is infinite and torch.isinf(u_ref).item() is infinite
    assert torch.isfinite(f).all()
    assert torch.allclose(f.double(), f_ref, rtol=1e-4)
    if not infinite:
        assert torch.allclose(u.double(), u_ref, rtol=1e-5)


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="sse9"):
        kernels.lj_energy_forces(torch.zeros(1, 2, 3), **PARAMETERS, isa="sse9")


@pytest.mark.parametrize("energy,scale", [
    (LennardJones(13, **PARAMETERS), 1.0), (DoubleWell(), 2.0), (Harmonic(5, 3, 2.0), 1.0), (LennardJones(6, n_dims=2), 1.0)])
def test_contract(energy, scale):
    shape = (6, energy.n_atoms, energy.n_dims)
    x = scale * standard_normal(shape, generator(2))
    if isinstance(energy, LennardJones):  # a loose lattice: no overlaps
        points = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * energy.n_dims)[: energy.n_atoms]
        x = 1.1 * points + 0.08 * standard_normal(shape, generator(2))
    check_energy(energy, x)
    check_energy(energy)


def test_contract_checker_finds_a_wrong_force():
    class Wrong(Harmonic):
        def evaluate(self, x):
            u, f = super().evaluate(x)
            return u, 1.01 * f

    with pytest.raises(AssertionError, match="central differences"):
        check_energy(Wrong(4), standard_normal((3, 4, 3), generator()))


class Sick(Energy):
    """NaN for the third configuration."""

    def evaluate(self, x):
        u = torch.zeros(len(x))
        u[2] = torch.nan
        return u, torch.zeros_like(x)


def test_nan_energy_names_the_configuration():
    with pytest.raises(EnergyError, match="configuration 2") as caught:
        Sick(2, 3)(torch.zeros(4, 2, 3))
    assert caught.value.index == 2


@given(bad=st.sampled_from([float("nan"), float("inf"), float("-inf")]), where=st.integers(0, 3 * 13 * 3 - 1))
@settings(max_examples=25, deadline=None)
def test_positions_that_are_not_numbers_are_refused(bad, where):
    x = standard_normal((3, 13, 3), generator())
    x.view(-1)[where] = bad
    with pytest.raises(EnergyError, match=f"configuration {where // 39}"):
        LennardJones(13, **PARAMETERS)(x)


@pytest.mark.parametrize("x", [torch.zeros(13, 3), torch.zeros(1, 12, 3), torch.zeros(1, 13, 3, dtype=torch.int64), None])
def test_bad_positions_name_the_argument(x):
    with pytest.raises(UsageError, match="x: expected"):
        LennardJones(13, **PARAMETERS)(x)


def test_target_matches_the_reference():
    """Native draws against the reference's own draws: same expectation, so the difference is noise."""
    energy = LennardJones(4, **PARAMETERS)
    x = centred(torch.tensor([[[0, 0, 0], [1.05, 0, 0], [0.5, 0.9, 0], [0.5, 0.3, 0.85]]], dtype=torch.float64))
    b, k = 40, 4000
    x = x.expand(b, -1, -1)
    sigma = torch.full((b,), 0.05, dtype=torch.float64)
    native = energy.dem_scores(x, sigma, k, seed=3)
    eps = standard_normal((b * k, 4, 3), generator(4)).reshape(b, k, 4, 3)
    reference = dem_scores_reference(energy, x, sigma, eps)
    for i, name in enumerate(("s_tsi", "s_dsi", "alpha", "log_mean_exp", "ess")):
        a, r = native[i].double(), reference[i]
        error = torch.sqrt((a.var(0) + r.var(0)) / b)
        z = (a.mean(0) - r.mean(0)) / error.clamp(min=1e-12)
        assert z.abs().max() < 4.5, (name, z)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_target_does_not_depend_on_threads_or_batch(isa, lj13_samples):
    x, sigma = lj13_samples[:9].float(), torch.linspace(0.02, 1.0, 9)
    one = kernels.dem_target(x, sigma, 100, 7, **PARAMETERS, isa=isa)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = kernels.dem_target(x, sigma, 100, 7, **PARAMETERS, isa=isa)
    finally:
        torch.set_num_threads(threads)
    first = kernels.dem_target(x[:1], sigma[:1], 100, 7, **PARAMETERS, isa=isa)
    for a, b, c in zip(one, again, first):
        assert torch.equal(a, b) and torch.equal(a[:1], c)


def test_instruction_sets_draw_the_same_samples(lj13_samples):
    x, sigma = lj13_samples[:4].float(), torch.full((4,), 0.1)
    results = [kernels.dem_target(x, sigma, 64, 7, **PARAMETERS, isa=isa) for isa in kernels.instruction_sets()]
    for other in results[1:]:
        assert torch.allclose(results[0][3], other[3], rtol=1e-3, atol=1e-3)


def test_target_with_overlaps_only_is_zero_not_nan():
    s_tsi, s_dsi, _, log_mean_exp, ess = kernels.dem_target(torch.zeros(1, 2, 3), torch.tensor([1e-6]), 16, 0, **PARAMETERS)
    assert not s_tsi.any() and not s_dsi.any() and ess.item() == 0 and log_mean_exp.item() == -torch.inf


def harmonic_lj(n_atoms, trap):
    """A cluster whose pair interaction is negligible: a Gaussian in closed form, through the native kernel."""
    return LennardJones(n_atoms, epsilon=1e-12, r_min=1e-3, trap=trap)


@pytest.mark.parametrize("energy", [harmonic_lj(5, 4.0), Harmonic(5, 3, 4.0)], ids=["native", "torch"])
@pytest.mark.parametrize("restraint", [None, 9.0])
def test_mala_samples_a_gaussian(energy, restraint):
    c = 1500
    x = standard_normal((c, 5, 3), generator(), torch.float32)
    centre = centred(torch.linspace(-1, 1, 15).reshape(1, 5, 3)).expand(c, -1, -1)
    extra = {} if restraint is None else dict(centre=centre, stiffness=torch.tensor(restraint))
    x, u, f, acceptance, mean_x, _ = energy.mala(x, 0.05, 100, seed=11, averages=True, **extra)
    total = 4.0 + (restraint or 0.0)
    mean = centre[0] * (restraint or 0.0) / total
    d = 12
    z_mean = (x - mean).mean(0) / ((1 / total) * 4 / 5 / c) ** 0.5
    chi2 = ((x - mean) ** 2).sum((1, 2)) * total
    z_var = (chi2.mean() - d) / (2 * d / c) ** 0.5
    assert z_mean.abs().max() < 4.5 and abs(z_var) < 4.5
    assert 0.2 < acceptance.mean() < 0.99
    assert (mean_x.mean(0) - mean).abs().max() < 0.1
    u_again, f_again = energy(x)
    assert torch.allclose(u, u_again, rtol=1e-4, atol=1e-4) and torch.allclose(f, f_again, rtol=1e-4, atol=1e-4)


def test_mala_gives_the_exact_mean_of_lj13(lj13_samples):
    """-42.92(2) by long MCMC; the chains here are independent, so the z-score is plain."""
    u, _ = LennardJones(13, **PARAMETERS)(lj13_samples)
    z = (u.mean() + 42.92) / (u.std() / len(u) ** 0.5)
    assert abs(z) < 4.5
    # Virial: <x . grad u> = (N-1) 3.
    _, f = LennardJones(13, **PARAMETERS)(lj13_samples)
    virial = -(lj13_samples * f).sum((1, 2))
    assert abs(virial.mean() - 36) / (virial.std() / len(u) ** 0.5) < 4.5


def test_mala_counts_calls_and_repeats():
    energy = LennardJones(13, **PARAMETERS)
    points = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:13].expand(3, -1, -1)
    a = energy.mala(points, 1e-4, 50, seed=1)
    assert energy.calls == 3 * 51
    b = energy.mala(points, 1e-4, 50, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a, b))
    assert not torch.equal(a[0], energy.mala(points, 1e-4, 50, seed=2)[0])


@pytest.mark.parametrize("op,args", [
    (kernels.lj_energy_forces, lambda: (torch.randn(3, 4, 3), 2.0, 1.0, 1.0)),
    (kernels.mala, lambda: (torch.randn(3, 4, 3), torch.tensor(1e-4), torch.tensor(1.0), 2, 0, 2.0, 1.0, 1.0)),
    (kernels.dem_target, lambda: (torch.randn(3, 4, 3), torch.tensor([0.1, 0.2, 0.3]), 8, 0, 2.0, 1.0, 1.0)),
    (kernels.pair_splines, lambda: (torch.randn(3, 4, 3), 12, 1.0, 0.05, -1.9, 0.4))])
def test_custom_ops_are_well_formed(op, args):
    torch.library.opcheck(op, args())


def test_an_overflowing_sample_does_not_spoil_the_mix():
    """Two atoms so close that squared forces overflow float32, then good samples: alpha stays that of the reference."""
    energy = LennardJones(3, **PARAMETERS)
    x = centred(torch.tensor([[[0.0, 0, 0], [0.02, 0, 0], [1.0, 1.0, 0]]], dtype=torch.float64)).expand(64, -1, -1)
    sigma = torch.full((64,), 0.2, dtype=torch.float64)
    _, _, alpha, _, ess = energy.dem_scores(x, sigma, 200, seed=0)
    eps = standard_normal((64 * 200, 3, 3), generator(1)).reshape(64, 200, 3, 3)
    _, _, alpha_ref, _, _ = dem_scores_reference(energy, x, sigma, eps)
    assert (alpha[ess > 1.5] != 0.5).all()
    assert abs(alpha.double().mean() - alpha_ref.mean()) < 4.5 * ((alpha.var() + alpha_ref.var()) / 64) ** 0.5 + 1e-6


@pytest.mark.parametrize("call", [
    lambda: kernels.lj_energy_forces(torch.randn(2, 4, 1), **PARAMETERS),
    lambda: kernels.lj_energy_forces(torch.randn(2, 4, 3).half(), **PARAMETERS),
    lambda: kernels.mala(torch.randn(3, 4, 3), torch.ones(2), torch.ones(()), 2, 0, **PARAMETERS),
    lambda: kernels.mala(torch.randn(3, 4, 3), torch.tensor(-1.0), torch.ones(()), 2, 0, **PARAMETERS),
    lambda: kernels.mala(torch.randn(3, 4, 3), torch.tensor(torch.nan), torch.ones(()), 2, 0, **PARAMETERS),
    lambda: kernels.mala(torch.randn(3, 4, 3), torch.ones(()), torch.ones(()), -2, 0, **PARAMETERS),
    lambda: kernels.dem_target(torch.randn(3, 4, 3), torch.ones(2), 4, 0, **PARAMETERS),
    lambda: kernels.dem_target(torch.randn(3, 4, 3), torch.full((3,), torch.nan), 4, 0, **PARAMETERS),
    lambda: kernels.dem_target(torch.randn(3, 4, 3), torch.ones(3), 0, 0, **PARAMETERS),
    lambda: kernels.pair_splines(torch.randn(3, 4, 4), 12, 1.0, 0.05, -1.9, 0.4),
    lambda: kernels.message(torch.full((1, 1), 9, dtype=torch.int32), torch.ones(1, 1, 4), torch.ones(1, 1, 3),
                            torch.ones(1, 2, 48), torch.ones(1, 2, 3, 16), torch.ones(12, 48)),
    lambda: kernels.message(torch.zeros(1, 2, dtype=torch.int32), torch.ones(1, 1, 4), torch.ones(1, 1, 3),
                            torch.ones(1, 2, 48), torch.ones(1, 2, 3, 16), torch.ones(12, 48))])
def test_ops_refuse_what_would_be_read_out_of_bounds(call):
    with pytest.raises(UsageError, match="expected"):
        call()
