"""Chains sample exactly: closed forms, published means from different starts, whole distributions."""

import numpy as np
import pytest
import torch
from ase.cluster import Icosahedron
from scipy import stats

from idem_md import native
from idem_md.chains import (
    MALA,
    Exchange,
    Restraint,
    Torsion,
    WithTrials,
    posterior_mean,
    relax,
    run_mala,
    run_tempering,
)
from idem_md.energies import Energy, Harmonic, LennardJones
from idem_md.errors import EnergyError, UsageError
from idem_md.geometry import centred, standard_normal
from idem_md.systems import torsions

PARAMETERS = dict(epsilon=2.0, r_min=1.0, trap=1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def icosahedron(n_shells, copies):
    """The ground state of 13 or 55 atoms, nearest neighbours at r_min."""
    x = torch.as_tensor(Icosahedron("Ar", n_shells, latticeconstant=1.0).positions)
    nearest = torch.pdist(x).min()
    return centred((x / nearest)[None]).float().expand(copies, -1, -1)


def relaxed_noise(energy, scale, copies, seed=5):
    x = (scale * standard_normal((copies, energy.n_atoms, energy.n_dims), generator(seed))).float()
    return relax(energy, x, 300).float()


def harmonic_lj(n_atoms, trap):
    """A cluster whose pair interaction is negligible: a Gaussian in closed form, through the native op."""
    return LennardJones(n_atoms, epsilon=1e-12, r_min=1e-3, trap=trap)


@pytest.mark.parametrize("energy", [harmonic_lj(5, 4.0), Harmonic(5, 3, 4.0)], ids=["native", "torch"])
@pytest.mark.parametrize("restraint", [None, 9.0])
def test_mala_samples_a_gaussian(energy, restraint):
    c = 1500
    x = standard_normal((c, 5, 3), generator(), torch.float32)
    centre = centred(torch.linspace(-1, 1, 15).reshape(1, 5, 3)).expand(c, -1, -1)
    extra = None if restraint is None else Restraint(centre, torch.tensor(restraint))
    x, u, f, acceptance, mean_x, _ = run_mala(energy, x, 0.05, 100, seed=11, averages=True, restraint=extra)
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
    a = run_mala(energy, points, 1e-4, 50, seed=1)
    assert energy.calls == 3 * 51
    b = run_mala(energy, points, 1e-4, 50, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a, b))
    assert not torch.equal(a[0], run_mala(energy, points, 1e-4, 50, seed=2)[0])


@pytest.mark.parametrize("energy", [harmonic_lj(5, 4.0), Harmonic(5, 3, 4.0)], ids=["native", "torch"])
@pytest.mark.parametrize("n_rungs", [2, 3])
def test_tempering_samples_a_gaussian_on_every_rung(energy, n_rungs):
    """beta u is chi-squared over two with (N-1) D degrees of freedom, on each rung."""
    c, d = 400, 12
    beta = torch.tensor([1.0, 0.6, 0.4][:n_rungs])
    x = standard_normal((c * n_rungs, 5, 3), generator(), torch.float32).reshape(c, n_rungs, 5, 3)
    start = energy.calls
    rounds = 41  # odd: even pairs are tried once more than odd ones
    x, u, f, acceptance, swaps, trips, trace = run_tempering(energy, x, 0.05 / beta, beta, rounds, 3, seed=2)
    assert energy.calls - start == c * n_rungs * (rounds * 3 + 1)
    for r in range(n_rungs):
        scaled = beta[r] * u[:, r].double()
        z = (scaled.mean() - d / 2) / (d / 2 / c) ** 0.5
        assert abs(z) < 4 and stats.kstest(scaled.numpy(), stats.gamma(d / 2).cdf).pvalue > 1e-4
    assert torch.allclose(u, 2.0 * (centred(x.reshape(-1, 5, 3)) ** 2).sum((1, 2)).reshape(c, n_rungs), rtol=1e-4)
    assert torch.equal(trace[:, -1], u)
    # Swap rate in closed form: with e = beta u, the mean of min(1, exp((b0 - b1)(u0 - u1))).
    g = torch.Generator().manual_seed(3)
    gamma = torch._standard_gamma(torch.full((2, 200_000), d / 2), generator=g)
    for r in range(n_rungs - 1):
        want = torch.exp((beta[r] - beta[r + 1]) * (gamma[0] / beta[r] - gamma[1] / beta[r + 1])).clamp(max=1).mean()
        got = swaps[:, r]
        assert abs(got.mean() - want) < 5 * got.std() / c**0.5 + 0.01  # the first rounds are not in equilibrium
    if n_rungs == 2:  # every swap but one in the very first round brings a replica from the hottest rung to the coldest
        early = (swaps[:, 0] * 21).round() - trips
        assert ((early == 0) | (early == 1)).all()
    assert 0.2 < acceptance.mean() < 0.99 and trips.mean() > 1


def test_tempering_without_rounds_is_the_start():
    energy = LennardJones(13, **PARAMETERS)
    x = icosahedron(2, 6).reshape(3, 2, 13, 3)
    for dtype in (torch.float32, torch.float64):  # native, plain
        x = x.to(dtype)
        x_end, u, f, acceptance, swaps, trips, trace = run_tempering(energy, x, 1e-4, torch.tensor([1.0, 0.5]), 0, 2, 1)
        assert torch.equal(x_end, x) and trace.shape == (3, 0, 2) and swaps.isnan().all() and acceptance.isnan().all()
        assert torch.allclose(u, energy(x.reshape(6, 13, 3))[0].reshape(3, 2))


def test_tempering_depends_on_seed_and_ladder_only():
    energy = LennardJones(13, **PARAMETERS)
    x, beta = icosahedron(2, 40).reshape(20, 2, 13, 3), torch.tensor([1.0, 0.7])
    run = lambda x, seed: run_tempering(energy, x, 4e-4, beta, 5, 2, seed)  # noqa: E731
    whole, part = run(x, 7), run(x[:3], 7)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = run(x, 7)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(whole, again))
    assert all(torch.equal(a[:3], b) for a, b in zip(whole, part))
    assert not torch.equal(whole[0], run(x, 8)[0])


def ladder_means(energy, x, rungs, beta, step, rounds, burn_in):
    """Cold energies of each ladder after burn-in: their means (C,) and every 50th value."""
    x = x.reshape(-1, rungs, *x.shape[1:])
    x, *_ = run_tempering(energy, x, step, beta, burn_in, 5, seed=1)
    *_, trace = run_tempering(energy, x, step, beta, rounds, 5, seed=2)
    cold = trace[:, :, 0].double()
    return cold.mean(1), cold[:, ::50]


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_atoms,shells,scale,beta,step,c,rounds,burn_in,exact,error",
    [
        (13, 2, 0.68, [1.0, 0.85, 0.72], 6e-4, 256, 9000, 1000, -42.92, 0.02),
        (55, 3, 1.0, [1.0, 0.92, 0.85, 0.78, 0.72], 2.4e-4, 40, 3500, 1500, -325.8, 0.3),
    ],
    ids=["lj13", "lj55"],
)
def test_tempering_gives_the_known_means_from_two_starts(
    n_atoms, shells, scale, beta, step, c, rounds, burn_in, exact, error
):
    energy = LennardJones(n_atoms, **PARAMETERS)
    beta = torch.tensor(beta)
    starts = icosahedron(shells, c * len(beta)), relaxed_noise(energy, scale, c * len(beta))
    runs = [ladder_means(energy, x.contiguous(), len(beta), beta, step / beta, rounds, burn_in) for x in starts]
    for means, _ in runs:
        sem = means.std() / c**0.5
        assert sem < 3 * error  # the test has teeth
        assert abs(means.mean() - exact) < 4 * (sem**2 + error**2) ** 0.5
    (a, thin_a), (b, thin_b) = runs
    assert abs(a.mean() - b.mean()) < 4.5 * ((a.var() + b.var()) / c) ** 0.5
    # Whole distributions, one value a ladder: these are independent.
    assert stats.ks_2samp(thin_a[:, -1].numpy(), thin_b[:, -1].numpy()).pvalue > 1e-4


def test_mala_and_tempering_draw_one_distribution(lj13_samples):
    """Kolmogorov-Smirnov on thinned chains: MALA's last states against a ladder's cold trace, 1000 rounds apart."""
    energy = LennardJones(13, **PARAMETERS)
    u, _ = energy(lj13_samples)
    beta = torch.tensor([1.0, 0.8])
    x, *_ = run_tempering(energy, icosahedron(2, 512).reshape(256, 2, 13, 3), 6e-4 / beta, beta, 800, 5, seed=3)
    *_, trace = run_tempering(energy, x, 6e-4 / beta, beta, 2001, 5, seed=4)
    thinned = trace[:, ::1000, 0].flatten()
    assert stats.ks_2samp(u.numpy(), thinned.numpy()).pvalue > 1e-4


def test_scalar_chains_are_exact_too():
    """The arithmetic and random numbers of a CUDA thread, on the CPU: a Gaussian, and swaps."""
    energy = harmonic_lj(5, 4.0)
    x = standard_normal((1000, 5, 3), generator(), torch.float32)
    _, u, *_ = native.lj_mala(x, torch.tensor(0.05), torch.tensor(1.0), 60, 3, **energy._op, isa="scalar")
    assert stats.kstest(u.numpy(), stats.gamma(6).cdf).pvalue > 1e-4
    beta = torch.tensor([1.0, 0.5])
    _, u, *_ = native.lj_tempering(x.reshape(500, 2, 5, 3), 0.05 / beta, beta, 20, 3, 4, **energy._op, isa="scalar")
    assert stats.kstest(u[:, 0].numpy(), stats.gamma(6).cdf).pvalue > 1e-4
    assert stats.kstest((0.5 * u[:, 1]).numpy(), stats.gamma(6).cdf).pvalue > 1e-4


def test_posterior_mean_of_a_gaussian():
    """For u = k/2 |x|^2 the posterior given x_t is Gaussian with mean x_t / (1 + k sigma^2); the spread says how
    well."""
    energy = harmonic_lj(4, 3.0)
    b, sigma = 200, torch.full((200,), 0.5)
    x_0 = 3**-0.5 * standard_normal((b, 4, 3), generator(), torch.float32)
    x_t = x_0 + 0.5 * standard_normal((b, 4, 3), generator(1), torch.float32)
    p = posterior_mean(energy, x_t, sigma, x_0, step=0.2, chains=4, n_steps=200, seed=1)
    error = p.mean - x_t / (1 + 3 * 0.25)
    # |error|^2 is the squared standard error of the mean over the chains, which is what `spread` estimates.
    ratio = (error**2).sum((1, 2)).mean() / p.spread.mean()
    assert 0.7 < ratio < 1.4
    assert torch.allclose(p.force, -3 * p.mean, rtol=1e-3, atol=1e-4)
    assert 0.2 < p.acceptance.mean() < 1 and p.acceptance.shape == (b,)
    one = posterior_mean(energy, x_t, sigma, x_0, step=0.2, chains=1, n_steps=4, seed=1)
    assert torch.isnan(one.spread).all()  # one chain says nothing about the spread


def test_posterior_mean_refuses_what_it_cannot_use():
    energy, x = harmonic_lj(4, 3.0), torch.zeros(2, 4, 3)
    with pytest.raises(UsageError, match="x_0: expected"):
        posterior_mean(energy, x, torch.ones(2), torch.zeros(3, 4, 3), 0.1, 2, 4, 0)
    with pytest.raises(UsageError, match="step: expected"):
        posterior_mean(energy, x, torch.ones(2), x, -1.0, 2, 4, 0)
    for energy in (harmonic_lj(4, 3.0), Harmonic(4, 3, 3.0)):
        with pytest.raises(EnergyError, match="centre: expected finite"):
            posterior_mean(energy, x * torch.nan, torch.ones(2), x, 0.1, 2, 4, 0)


@pytest.mark.parametrize("energy", [harmonic_lj(4, 3.0), Harmonic(4, 3, 3.0)], ids=["native", "torch"])
@pytest.mark.parametrize(
    "change",
    [
        dict(x=torch.zeros(4, 4, 3)),
        dict(x=torch.zeros(4, 1, 4, 3)),
        dict(n_rounds=-1),
        dict(step=torch.ones(3)),
        dict(beta=torch.tensor([0.5, 1.0])),
    ],
)
def test_bad_ladders_are_refused_and_cost_nothing(energy, change):
    good = dict(x=torch.zeros(4, 2, 4, 3), step=0.1, beta=torch.tensor([1.0, 0.5]), n_rounds=2, n_steps=1, seed=0)
    before = energy.calls
    with pytest.raises(UsageError, match="expected"):
        run_tempering(energy, **(good | change))
    assert energy.calls == before


class Sites(Energy):
    """Four atoms, the last two of which are drawn along x: only exchanges change the energy of atoms on sites."""

    users_code = False

    def __init__(self):
        super().__init__(4, 3)

    def evaluate(self, x):
        pull = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=x.dtype)
        f = torch.zeros_like(x)
        f[..., 0] = -pull
        return (pull * x[..., 0]).sum(1), f


def test_exchanges_find_the_shares_of_all_arrangements():
    """Six ways to put two atoms on four sites, at two temperatures at once, by exchanges alone."""
    places = torch.tensor([-0.9, -0.2, 0.3, 0.8], dtype=torch.float64)
    x = torch.zeros(8000, 4, 3, dtype=torch.float64)
    x[..., 0] = places
    beta = torch.tensor([0.5, 2.0], dtype=torch.float64).repeat_interleave(4000)
    move, energy = Exchange((0, 0, 1, 1), beta), Sites()
    state, run = move.step(energy, move.init(energy, x), 60, seed=1)
    assert energy.calls == 8000 * 62 and 0.2 < run.acceptance.mean() < 0.95
    assert torch.equal(state.x[..., 0].sort(1).values, places.expand(8000, -1))
    assert torch.equal(state.u, energy(state.x)[0])
    energies = torch.tensor([places[i] + places[j] for i in range(4) for j in range(i)])
    for half, b in ((slice(0, 4000), 0.5), (slice(4000, 8000), 2.0)):
        exact = torch.softmax(-b * energies, 0)
        seen = (state.u[half, None] - energies).abs().lt(1e-9).double().mean(0)
        assert ((seen - exact).abs() / (exact * (1 - exact) / 4000).sqrt()).max() < 4.5


class Turn(Energy):
    """Two kT times 1 + cos phi + cos 2 phi of the torsion of four atoms; without forces, which trials do not use."""

    def __init__(self):
        super().__init__(4, 3)

    def evaluate(self, x):
        phi = torch.deg2rad(torch.from_numpy(torsions(x.numpy(), range(4))))
        return 2 * (1 + torch.cos(phi) + torch.cos(2 * phi)), torch.zeros_like(x)


def test_rotations_about_a_bond_find_the_distribution_of_its_torsion():
    """From trans alone, at two temperatures at once; bonds and angles stay as they are."""
    x = torch.tensor([[0.0, 1, 0], [0, 0, 0], [1.1, 0, 0], [1.3, -0.9, 0]], dtype=torch.float64).repeat(6000, 1, 1)
    x = x - x.mean(1, keepdim=True)
    beta = torch.tensor([0.4, 1.5], dtype=torch.float64).repeat_interleave(3000)
    move, energy = Torsion([(1, 2, [3])], beta), Turn()
    state, run = move.step(energy, move.init(energy, x), 25, seed=1)
    assert 0.2 < run.acceptance.mean() < 0.95 and state.x.mean(1).abs().max() < 1e-12
    near, far = (torch.cdist(y, y)[:, [0, 1, 2, 0, 1], [1, 2, 3, 2, 3]] for y in (x, state.x))
    assert (near - far).abs().max() < 1e-12
    phi = np.linspace(-180, 180, 20_001)
    for half, b in ((slice(0, 3000), 0.4), (slice(3000, 6000), 1.5)):
        r = np.radians(phi)
        weight = np.exp(-2 * b * (1 + np.cos(r) + np.cos(2 * r)))
        exact = weight[np.abs(phi) > 120].sum() / weight.sum()
        share = (np.abs(torsions(state.x[half].numpy(), range(4))) > 120).mean()
        assert abs(share - exact) < 4.5 * (exact * (1 - exact) / 3000) ** 0.5
    with pytest.raises(UsageError, match="rotations: expected at least one bond"):
        Torsion([])


def test_exchanges_go_before_other_moves():
    energy, x = LennardJones(13, 2.0), Icosahedron("Ar", 2, 1.6).positions[None].repeat(5, 0)
    both = WithTrials(MALA(1e-4), Exchange((0,) * 6 + (1,) * 7), 3)
    state, run = both.step(energy, both.init(energy, torch.from_numpy(x)), 4, seed=0)
    assert energy.calls == 5 * (1 + 4 + 5) and run.acceptance.shape == (5,)
    for kinds in ((0, 0), ()):
        with pytest.raises(UsageError, match="kinds: expected atoms of at least two kinds"):
            Exchange(kinds)
