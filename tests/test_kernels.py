"""Native kernels against plain float64 references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from idem_md import native
from idem_md.energies import DoubleWell, Energy, Harmonic, LennardJones, lennard_jones_reference
from idem_md.errors import EnergyError, UsageError
from idem_md.geometry import centred, standard_normal
from idem_md.targets import dem_scores, dem_scores_reference
from idem_md.testing import check_energy, loose_lattice

PARAMETERS = dict(epsilon=2.0, r_min=1.0, trap=1.0)
OP = dict(epsilon=[2.0], r_min=[1.0], trap=1.0)  # the same, as the ops take them
ENERGY_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
FORCE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


SPECIES = dict(epsilon=[[1.7, 0.8], [0.8, 0.5]], r_min=[[1.2, 1.05], [1.05, 0.9]])


def assert_close_to_reference(u, f, x, dtype, parameters, closest):
    """Parity with the float64 reference for every configuration whose pairs are no closer than ``closest``."""
    u_ref, f_ref = lennard_jones_reference(x.double(), **parameters)
    # Pairs closer than this amplify the rounding of the positions themselves beyond any kernel's control.
    ok = torch.cdist(x.double(), x.double()).add(torch.eye(x.shape[1]) * 9).amin((1, 2)) > closest
    assert ok.sum() > 3
    assert ((u - u_ref).abs() / (1 + u_ref.abs()))[ok].max() < ENERGY_TOLERANCE[dtype]
    assert ((f - f_ref).abs() / f_ref.abs().amax((1, 2), keepdim=True))[ok].max() < FORCE_TOLERANCE[dtype]


@pytest.mark.parametrize("isa", native.instruction_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mixed", [False, True], ids=["one species", "two"])
@pytest.mark.parametrize("n_atoms,n_dims", [(2, 3), (5, 2), (13, 3), (55, 3)])
def test_energy_forces_match_the_reference(isa, dtype, mixed, n_atoms, n_dims):
    x = standard_normal((37, n_atoms, n_dims), generator()).mul(n_atoms ** (1 / 3)).to(dtype)
    energy = LennardJones(
        n_atoms,
        **(dict(SPECIES, species=[i % 2 for i in range(n_atoms)]) if mixed else dict(epsilon=1.7, r_min=1.2)),
        trap=0.6,
        n_dims=n_dims,
    )
    u, f = native.lj_energy_forces(x, **energy._op, isa=isa)
    assert_close_to_reference(u, f, x, dtype, energy.parameters, 0.36)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thousand_atoms_lose_no_digits(dtype):
    lattice = torch.cartesian_prod(*[torch.arange(10.0, dtype=torch.float64)] * 3)
    x = centred(1.05 * lattice + 0.05 * standard_normal((5, 1000, 3), generator())).to(dtype)
    for parameters in (PARAMETERS, dict(SPECIES, trap=1.0, species=[int(i < 300) for i in range(1000)])):
        u, f = LennardJones(1000, **parameters)(x)
        assert_close_to_reference(u, f, x, dtype, parameters, 0.3)


def test_equal_species_are_one_species():
    x = loose_lattice(LennardJones(13, **PARAMETERS))
    same = LennardJones(13, [[2.0, 2.0], [2.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], 1.0, species=[i % 2 for i in range(13)])
    for a, b in zip(same(x), LennardJones(13, **PARAMETERS)(x)):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(
    "arguments,name",
    [
        (dict(epsilon=[[1, 2], [2, 1]]), "epsilon"),
        (dict(species=[0, 1, 1]), "epsilon"),
        (dict(species=[0, 1], epsilon=[[1, 1], [1, 1]], r_min=[[1, 1], [1, 1]]), "species"),
        (dict(species=[0, 1, 2], epsilon=[[1, 1], [1, 1]], r_min=[[1, 1], [1, 1]]), "species"),
        (dict(species=[0, 1, 1], epsilon=[[1, 2], [1, 1]], r_min=[[1, 1], [1, 1]]), "epsilon"),
        (dict(species=[0, 1, 1], epsilon=[[1, 1], [1, 1]], r_min=[[1, 1], [1, -1]]), "r_min"),
    ],
)
def test_bad_species_name_the_argument(arguments, name):
    with pytest.raises(UsageError, match=f"{name}: expected"):
        LennardJones(3, **arguments)


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
    assert infinite or abs(u.double() / u_ref - 1).item() < 1e-5
    if not infinite:
        assert torch.allclose(u.double(), u_ref, rtol=1e-5)


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="sse9"):
        native.lj_energy_forces(torch.zeros(1, 2, 3), **OP, isa="sse9")


@pytest.mark.parametrize(
    "energy,scale",
    [
        (LennardJones(13, **PARAMETERS), 1.0),
        (DoubleWell(), 2.0),
        (Harmonic(5, 3, 2.0), 1.0),
        (LennardJones(6, n_dims=2), 1.0),
    ],
)
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


@pytest.mark.parametrize(
    "x", [torch.zeros(13, 3), torch.zeros(1, 12, 3), torch.zeros(1, 13, 3, dtype=torch.int64), None]
)
def test_bad_positions_name_the_argument(x):
    with pytest.raises(UsageError, match="x: expected"):
        LennardJones(13, **PARAMETERS)(x)


@pytest.mark.parametrize("isa", native.instruction_sets())
@pytest.mark.parametrize("n,n_dims", [(7, 2), (7, 3), (13, 3)])
@pytest.mark.parametrize("mixed", [False, True], ids=["one species", "two"])
def test_target_matches_the_reference_fed_the_same_noise(isa, n, n_dims, mixed):
    k, sigma = 301, torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0])
    energy = LennardJones(n, **(dict(SPECIES, species=[i % 3 % 2 for i in range(n)]) if mixed else {}), n_dims=n_dims)
    x = loose_lattice(energy, n=5).float()
    got = native.lj_dem_scores(x, sigma, k, 5, **energy._op, isa=isa)
    eps = native.noise(5 * k, n, n_dims, 5, isa=isa).reshape(5, k, n, n_dims)
    want = dem_scores_reference(energy, x.double(), sigma.double(), eps.double())
    scale = want[0].abs().amax((1, 2), keepdim=True)
    assert ((got[0] - want[0]).abs() / scale).max() < 1e-3
    assert ((got[1] - want[1]).abs() / want[1].abs().amax((1, 2), keepdim=True)).max() < 1e-3
    assert (got[2] - want[2]).abs().max() < 2e-3  # a ratio of differences
    assert ((got[3] - want[3]).abs() / (1 + want[3].abs())).max() < 1e-5
    assert ((got[4] - want[4]).abs() / want[4]).max() < 1e-3


@pytest.mark.parametrize("isa", native.instruction_sets())
@pytest.mark.parametrize("n", [5, 13])
def test_a_nan_is_never_taken_for_an_overlap(isa, n):
    x = torch.zeros(2, n, 3)
    x[0] = loose_lattice(LennardJones(n))[0].float()
    x[0, 1, 2] = torch.nan
    results = native.lj_dem_scores(x, torch.tensor([0.1, 1e-6]), 40, 0, **OP, isa=isa)
    assert all(torch.isnan(r[0]).any() for r in results)
    assert results[3][1] == -torch.inf and results[4][1] == 0 and not results[0][1].any() and not results[1][1].any()


@pytest.mark.parametrize("isa", native.instruction_sets())
@pytest.mark.parametrize("x", [torch.zeros(1, 3, 3), torch.tensor([[[0.0, 0, 0], [2e-3, 0, 0], [1, 1, 1]]])])
def test_deep_wells_keep_forces_finite_at_overlaps(isa, x):
    for energy in (
        LennardJones(3, 300.0, 0.4),
        LennardJones(3, [[300.0, 300], [300, 300]], [[0.4, 0.4], [0.4, 0.4]], species=[0, 1, 0]),
    ):
        u, f = native.lj_energy_forces(x, **energy._op, isa=isa)
        assert torch.isinf(u).all() or x.any()
        assert torch.isfinite(f).all()


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_noise_is_standard_normal_and_mean_free(isa):
    n = 40_000
    eps = native.noise(n, 5, 3, 11, isa=isa).double()
    assert eps.mean(1).abs().max() < 1e-5
    # On the mean-free subspace each coordinate has variance 1 - 1/N; kurtosis 3.
    z = eps * (5 / 4) ** 0.5
    assert (z.mean(0) * n**0.5).abs().max() < 4.5
    assert ((z**2).mean(0) - 1).abs().max() / (2 / n) ** 0.5 < 4.5
    assert ((z**4).mean(0) - 3).abs().max() / (96 / n) ** 0.5 < 4.5
    assert stats.kstest(z[:, 0, 0].numpy(), "norm").pvalue > 1e-5
    # Successive samples and neighbouring coordinates are not correlated beyond the projection.
    assert abs((z[1:, 0, 0] * z[:-1, 0, 0]).mean()) * n**0.5 < 4.5
    assert abs((z[:, 0, 0] * z[:, 0, 1]).mean()) * n**0.5 < 4.5
    # Rows depend on (seed, row) only.
    assert torch.equal(native.noise(100, 5, 3, 11, isa=isa), native.noise(n, 5, 3, 11, isa=isa)[:100])
    assert not torch.equal(native.noise(100, 5, 3, 12, isa=isa), native.noise(100, 5, 3, 11, isa=isa))


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_target_does_not_depend_on_threads_or_batch(isa, lj13_samples):
    x, sigma = lj13_samples[:9].float(), torch.linspace(0.02, 1.0, 9)
    one = native.lj_dem_scores(x, sigma, 100, 7, **OP, isa=isa)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = native.lj_dem_scores(x, sigma, 100, 7, **OP, isa=isa)
    finally:
        torch.set_num_threads(threads)
    first = native.lj_dem_scores(x[:1], sigma[:1], 100, 7, **OP, isa=isa)
    for a, b, c in zip(one, again, first):
        assert torch.equal(a, b) and torch.equal(a[:1], c)


def test_instruction_sets_draw_the_same_samples(lj13_samples):
    x, sigma = lj13_samples[:4].float(), torch.full((4,), 0.1)
    results = [native.lj_dem_scores(x, sigma, 64, 7, **OP, isa=isa) for isa in native.instruction_sets()[:-1]]
    for other in results[1:]:
        assert torch.allclose(results[0][3], other[3], rtol=1e-3, atol=1e-3)


def test_target_with_overlaps_only_is_zero_not_nan():
    s_tsi, s_dsi, _, log_mean_exp, ess = native.lj_dem_scores(torch.zeros(1, 2, 3), torch.tensor([1e-6]), 16, 0, **OP)
    assert not s_tsi.any() and not s_dsi.any() and ess.item() == 0 and log_mean_exp.item() == -torch.inf


@pytest.mark.parametrize(
    "op,args",
    [
        (native.lj_energy_forces, lambda: (torch.randn(3, 3, 4).mT, [2.0], [1.0], 1.0)),
        (
            native.lj_dem_scores,
            lambda: (torch.randn(3, 3, 4).mT, torch.tensor([0.1, 0.2, 0.3]), 8, 0, [2.0], [1.0], 1.0),
        ),
        (native.lj_energy_forces, lambda: (torch.randn(3, 4, 3), [2.0], [1.0], 1.0)),
        (
            native.lj_mala,
            lambda: (torch.randn(3, 4, 3), torch.tensor(1e-4), torch.tensor(1.0), 2, 0, [2.0], [1.0], 1.0),
        ),
        (
            native.lj_tempering,
            lambda: (
                torch.randn(2, 2, 4, 3),
                torch.tensor([1e-4, 2e-4]),
                torch.tensor([1.0, 0.5]),
                2,
                1,
                0,
                [2.0],
                [1.0],
                1.0,
            ),
        ),
        (native.lj_dem_scores, lambda: (torch.randn(3, 4, 3), torch.tensor([0.1, 0.2, 0.3]), 8, 0, [2.0], [1.0], 1.0)),
        (native.pair_splines, lambda: (torch.randn(3, 4, 3), 12, 1.0, 0.05, -1.9, 0.4)),
        (native.message, lambda: message_arguments(0)),
        (native.message, lambda: message_arguments(6)),
    ],
)
def test_custom_ops_are_well_formed(op, args):
    torch.library.opcheck(op, args())


def message_arguments(n_factors):
    """What `native.message` takes, for four atoms with 16 channels."""
    geometry = native.pair_splines(torch.randn(2, 4, 3), 12, 1.0, 0.05, -1.9, 0.4)
    return *geometry, torch.randn(2, 4, 48), torch.randn(2, 4, 3, 16), torch.randn(12, 48), torch.rand(n_factors, 48)


def of_two_atoms(knot, n_factors):
    """What `native.message` takes, for two atoms with 16 channels."""
    spline, unit, a, v = torch.ones(1, 1, 4), torch.ones(1, 1, 3), torch.ones(1, 2, 48), torch.ones(1, 2, 3, 16)
    return knot, spline, unit, a, v, torch.ones(12, 48), torch.ones(n_factors, 48)


def test_messages_do_not_depend_on_the_layout_of_memory():
    *geometry, a, v, filters, factors = message_arguments(6)
    turned = v.transpose(1, 2).contiguous().transpose(1, 2)
    a.requires_grad_(True)
    for one, other in zip(*(native.message(*geometry, a, k, filters, factors) for k in (v, turned))):
        assert torch.equal(one, other)
        by_one, by_other = (torch.autograd.grad(out.square().sum(), a, retain_graph=True)[0] for out in (one, other))
        assert torch.equal(by_one, by_other)


def test_an_overflowing_sample_does_not_spoil_the_mix():
    """Two atoms so close that squared forces overflow float32, then good samples: alpha stays that of the reference."""
    energy = LennardJones(3, **PARAMETERS)
    x = centred(torch.tensor([[[0.0, 0, 0], [0.02, 0, 0], [1.0, 1.0, 0]]], dtype=torch.float64)).expand(64, -1, -1)
    sigma = torch.full((64,), 0.2, dtype=torch.float64)
    _, _, alpha, _, ess = dem_scores(energy, x.float(), sigma, 200, seed=0)
    eps = standard_normal((64 * 200, 3, 3), generator(1)).reshape(64, 200, 3, 3)
    _, _, alpha_ref, _, _ = dem_scores_reference(energy, x, sigma, eps)
    assert abs(alpha.double().mean() - alpha_ref.mean()) < 4.5 * ((alpha.var() + alpha_ref.var()) / 64) ** 0.5 + 1e-6


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.lj_energy_forces(torch.randn(2, 4, 1), **OP),
        lambda: native.lj_energy_forces(torch.randn(2, 4, 3).half(), **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.ones(2), torch.ones(()), 2, 0, **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.tensor(-1.0), torch.ones(()), 2, 0, **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.tensor(torch.nan), torch.ones(()), 2, 0, **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.ones(()), torch.ones(()), -2, 0, **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.ones(()), torch.ones(()), 2, 0, [2.0, 1.0], [1.0], 1.0),
        lambda: native.lj_mala(
            torch.randn(3, 4, 3),
            torch.ones(()),
            torch.ones(()),
            2,
            0,
            [2.0] * 4,
            [1.0] * 4,
            1.0,
            torch.zeros(3, dtype=torch.uint8),
        ),
        lambda: native.lj_mala(
            torch.randn(3, 4, 3),
            torch.ones(()),
            torch.ones(()),
            2,
            0,
            [2.0] * 4,
            [1.0] * 4,
            1.0,
            torch.full((4,), 2, dtype=torch.uint8),
        ),
        lambda: native.lj_tempering(torch.randn(3, 2, 4, 3), torch.ones(2), torch.tensor([0.5, 1.0]), 2, 1, 0, **OP),
        lambda: native.lj_tempering(torch.randn(3, 1, 4, 3), torch.ones(1), torch.tensor([0.5]), 2, 1, 0, **OP),
        lambda: native.lj_tempering(torch.randn(3, 2, 4, 3), torch.ones(3), torch.tensor([1.0, 0.5]), 2, 1, 0, **OP),
        lambda: native.lj_energy_forces(torch.randn(3, 4, 3), **OP, isa="sse9"),
        lambda: native.noise(3, 4, 4, 0),
        lambda: native.count_flop(0, 3, **OP),
        lambda: native.count_flop(4, 7, **OP),
        lambda: native.lj_mala(torch.randn(3, 4, 3), torch.ones(()), torch.ones(()), 2**25, 0, **OP),
        lambda: native.check_device("device", None),
        lambda: LennardJones(3, species=5),
        lambda: native.lj_dem_scores(torch.randn(3, 4, 3), torch.ones(2), 4, 0, **OP),
        lambda: native.lj_dem_scores(torch.randn(3, 4, 3), torch.full((3,), torch.nan), 4, 0, **OP),
        lambda: native.lj_dem_scores(torch.randn(3, 4, 3), torch.ones(3), 0, 0, **OP),
        lambda: native.pair_splines(torch.randn(3, 4, 4), 12, 1.0, 0.05, -1.9, 0.4),
        lambda: native.message(*of_two_atoms(torch.full((1, 1), 9, dtype=torch.int32), 0)),
        lambda: native.message(*of_two_atoms(torch.zeros(1, 2, dtype=torch.int32), 0)),
        lambda: native.message(*of_two_atoms(torch.zeros(1, 1, dtype=torch.int32), 2)),
    ],
)
def test_ops_refuse_what_would_be_read_out_of_bounds(call):
    with pytest.raises(UsageError, match="expected"):
        call()
