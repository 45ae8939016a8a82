"""Weighted paths against closed forms: right whatever the denoiser, the kernel and the last step."""

import math

import pytest
import torch
from harmonic import SCALE, ElasticDenoiser, FlowMapDenoiser, K, exact, mse

import idem_md
from idem_md.baselines import ENGINES
from idem_md.chains import Schedule
from idem_md.diffusion import (
    KERNELS,
    LAST_STEPS,
    Isotropic,
    MovedLastStep,
    PathSampler,
    PlainLastStep,
    level_density,
    noise_grid,
)
from idem_md.diffusion.kernels import batch_size
from idem_md.energies import Harmonic, LennardJones
from idem_md.ensemble import ForwardWeights
from idem_md.errors import UsageError, WeightWarning
from idem_md.geometry import standard_normal, subspace_dimension

ENERGY = Harmonic(4, 3, K)
LAST = {
    "plain": {},
    "nested": {"candidates": 4},
    "annealed": {"schedule": Schedule(32, 2.0, 1, (0.02,)), "chains": 2},
}


def run(denoise, kernel, nfe, n=4000, last="plain", energy=ENERGY, seed=0):
    parts, last_step = (FlowMapDenoiser(denoise), mse), LAST_STEPS[last](**LAST[last])
    grid, generator = noise_grid(0.3, 3.0, nfe), torch.Generator().manual_seed(seed)
    samples = SCALE * standard_normal((500, 4, 3), torch.Generator().manual_seed(seed + 1))
    kernel = KERNELS[kernel](*parts, **KERNELS[kernel].fitted(*parts, grid, samples, generator))
    generator.manual_seed(seed)
    return PathSampler(kernel, last_step, grid, SCALE).sample([energy], n, generator)[0]


def estimates(paths):
    w = torch.exp(paths.log_weights - paths.log_weights.max())
    log_z = paths.log_weights.max() + torch.log(w.mean())
    log_z_err = w.std() / w.mean() / len(w) ** 0.5
    p = w / w.sum()
    mean = (p * paths.energies).sum()
    err = torch.sqrt((p**2 * (paths.energies - mean) ** 2).sum())
    return log_z, log_z_err, mean, err, 1 / (p**2).sum() / len(w)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("last", LAST_STEPS)
@pytest.mark.parametrize("nfe", [4, 16, 64])
def test_harmonic_log_z(kernel, last, nfe):
    paths = run(exact, kernel, nfe, last=last)
    log_z, err, mean, mean_err, ess = estimates(paths)
    assert abs(log_z - ENERGY.log_z) < 4.5 * err + 1e-9
    assert abs(mean - subspace_dimension(4, 3) / 2) < 4.5 * mean_err
    if kernel in ("analytic", "elastic") and last == "plain":
        assert ess > 0.99


WRONG = {
    "scaled": lambda x, s: 0.8 * exact(x, s),
    "shifted": lambda x, s: exact(x, s) + 0.05 * standard_normal(x.shape, torch.Generator().manual_seed(9)),
    "wrong noise": lambda x, s: exact(x, 1.3 * s),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kernel", ["analytic", "elastic"])
@pytest.mark.parametrize("last", LAST_STEPS)
def test_a_wrong_denoiser_costs_ess_not_truth(wrong, kernel, last):
    log_z, err, mean, mean_err, ess = estimates(run(WRONG[wrong], kernel, 16, n=20000, last=last))
    *_, best = estimates(run(exact, kernel, 16, last=last))
    assert ess < 0.97 * best
    assert abs(log_z - ENERGY.log_z) < 4.5 * err
    assert abs(mean - subspace_dimension(4, 3) / 2) < 4.5 * mean_err


@pytest.mark.parametrize("last", LAST_STEPS)
@pytest.mark.parametrize("moves", [0, 5])
def test_forward_paths_tell_the_same_weights(last, moves):
    """E over the system's paths of Z/w is one, the effective share that of sampling, and bounds are bounds."""
    native = LennardJones(4, 1e-12, 1e-3, K)
    for energy in (ENERGY, native):
        x = SCALE * standard_normal((4000, 4, 3), torch.Generator().manual_seed(1))
        kernel, last_step = KERNELS["analytic"](WRONG["scaled"], mse), LAST_STEPS[last](**LAST[last])
        if moves:
            last_step = MovedLastStep(last_step, moves, 0.02)
        g = torch.Generator().manual_seed(2)
        log_w = PathSampler(kernel, last_step, noise_grid(0.3, 3.0, 8), SCALE).forward(energy, x, g)
        assert log_w.shape == (4000,) and torch.isfinite(log_w).all()
        forward = ForwardWeights(log_w.numpy())
        (log_z, error), (upper, spread) = forward.log_z, forward.log_z_upper
        assert abs(log_z - ENERGY.log_z) < 4.5 * error < 0.3
        assert upper + 4.5 * spread > ENERGY.log_z
        back = run(WRONG["scaled"], "analytic", 8, last=last, energy=energy)
        assert back.log_weights.mean() < ENERGY.log_z < upper
        *_, ess = estimates(back)
        assert forward.ess_fraction == pytest.approx(float(ess), rel=0.25)


def test_moves_leave_weights_alone_and_samples_in_equilibrium():
    plain = PlainLastStep()
    for energy in (ENERGY, LennardJones(4, 1e-12, 1e-3, K)):
        evaluation = KERNELS["analytic"](WRONG["scaled"], mse).evaluate(
            SCALE * 1.5 * standard_normal((3000, 4, 3), torch.Generator().manual_seed(1)), 0.5
        )
        before, end = (
            last.finish(energy, evaluation, torch.Generator().manual_seed(2))
            for last in (plain, MovedLastStep(plain, 400, 0.02))
        )
        log_w = end.log_ratio - end.u
        assert torch.allclose(log_w, before.log_ratio - before.u, atol=1e-9)
        assert not torch.allclose(end.x, before.x, atol=0.1)
        # However poor the start, after so many steps every sample is one of the potential itself.
        assert abs(end.u.mean() - 4.5) < 4.5 * end.u.std() / 3000**0.5


def test_failed_paths_stay_in_the_count():
    def sometimes(x, sigma):
        out = exact(x, sigma)
        out[3] = torch.nan
        return out

    for last in LAST_STEPS:
        paths = run(sometimes, "ddpm", 4, n=250, last=last)
        assert paths.failed == 1 and len(paths.log_weights) == 250
        assert paths.log_weights[3] == -torch.inf and paths.energies[3] == torch.inf
        assert torch.isfinite(paths.log_weights).sum() == 249
    assert run(sometimes, "elastic", 4, n=250).failed == 1


@pytest.mark.parametrize("last", LAST_STEPS)
def test_same_seed_same_paths(last):
    a, b = (run(exact, "ddpm", 8, n=300, last=last) for _ in range(2))
    assert torch.equal(a.positions, b.positions) and torch.equal(a.log_weights, b.log_weights)
    assert not torch.equal(a.positions, run(exact, "ddpm", 8, n=300, last=last, seed=1).positions)


def test_transition_density_integrates_to_one():
    """Importance sampling of 1 = E_p[q/p] with p a wider Gaussian on the subspace."""
    x = standard_normal((1, 3, 2), torch.Generator().manual_seed(0)).expand(100_000, -1, -1)
    kernel = KERNELS["analytic"](lambda x, sigma: 0.5 * x, mse)
    down = kernel.down(kernel.evaluate(x, 1.0), 0.5)
    wide = Isotropic(down.mean, 1.5 * down.variance)
    y = wide.sample(torch.Generator().manual_seed(1))
    ratio = torch.exp(down.log_density(y) - wide.log_density(y))
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / len(ratio) ** 0.5


@pytest.mark.parametrize(
    "last, energy, n, block",
    [
        ("plain", LennardJones(4, 1e-12, 1e-3, K), 601, 250),
        ("annealed", LennardJones(4, 1e-12, 1e-3, K), 4097, 250),
        ("annealed", ENERGY, 1025, 1024),
    ],
    ids=["plain", "native", "torch"],
)
def test_blocks_and_chunks_are_all_there(last, energy, n, block):
    """More samples than a block of any last step: none is lost, none is there twice."""
    seen = []
    kernel, last_step = KERNELS["ddpm"](exact, mse), LAST_STEPS[last](**LAST[last])
    grid, g = noise_grid(0.3, 3.0, 3), torch.Generator().manual_seed(0)
    made = PathSampler(kernel, last_step, grid, SCALE)
    (paths,) = made.sample([energy], n, g, lambda w: seen.append(len(w)))
    assert max(seen) == made.block(energy) == block and sum(seen) == n
    assert n == len(paths.positions) == len(paths.energies.unique())


def test_batches_of_large_systems_are_small():
    """Memory stays where it is, and batches are those of the system, not of the machine."""
    assert [batch_size(n, 3) for n in (1, 13, 38, 55, 200, 1000)] == [250, 250, 161, 77, 5, 1]
    last = LAST_STEPS["annealed"](**LAST["annealed"])
    assert [last.block(LennardJones(n, 2.0)) for n in (4, 55)] == [250, 77]
    assert [last.block(Harmonic(n, 3, K)) for n in (4, 55, 5000)] == [1024, 924, 1]


def test_levels_of_a_density():
    """Equal densities are equal ratios; twice the density, twice the levels; the ends are what they should be."""
    flat = torch.tensor(noise_grid(0.03, 3.0, 9, density=(2.0, 2.0)), dtype=torch.float64)
    assert flat[0] == 3.0 and flat[-1] == 0.03
    assert torch.allclose(flat[1:] / flat[:-1], torch.tensor(0.01, dtype=torch.float64) ** 0.125)
    steps = (1.0,) * 50 + (2.0,) * 50
    grid = noise_grid(0.01, 1.0, 3001, density=steps)
    assert all(a > b for a, b in zip(grid, grid[1:]))
    assert sum(s > 0.1 for s in grid) / sum(s < 0.1 for s in grid) == pytest.approx(2, rel=0.02)
    for bad in ((1.0,), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(UsageError, match="density: expected"):
            noise_grid(0.01, 1.0, 5, density=bad)


def test_levels_are_dense_where_steps_lose_most():
    """Against the closed form of what a step of `ddpm` loses on Gaussian data; `analytic` loses nothing there."""
    lowest, highest, n = 0.05, 3.0, 4000
    x = standard_normal((n, 4, 3), torch.Generator().manual_seed(1)) * SCALE
    found = level_density(KERNELS["ddpm"](ElasticDenoiser(exact), mse), x, lowest, highest, 0)
    sigma = torch.logspace(math.log10(lowest), math.log10(highest), len(found), dtype=torch.float64).tolist()

    def lost(low, high):
        ratio = 1 + (1 - low**2 / high**2) * mse(high) / low**2
        return 0.5 * (ratio - 1 - math.log(ratio))

    short = [lost(*pair) for pair in zip(sigma, sigma[1:])]
    long = [lost(*pair) - sum(short[k : k + 4]) for k, pair in enumerate(zip(sigma, sigma[4:]))]
    closed = torch.tensor(long, dtype=torch.float64).sqrt()
    closed = (closed / closed.max()).clamp(min=0.1)
    assert torch.allclose(torch.tensor(found, dtype=torch.float64)[2:-2], closed, atol=0.04)
    assert set(level_density(KERNELS["analytic"](ElasticDenoiser(exact), mse), x[:500], 0.05, 3.0, 0)) == {1.0}


def test_warnings_are_at_the_line_of_the_user():
    """And say what helps."""
    sampler = idem_md.load_sampler("lj13")
    for work, remedy in (
        (lambda: sampler.sample(20, nfe=4, last_step="plain"), "the plan that is tuned"),
        (lambda: sampler.sample(20, seed=1), "ask for more samples (n)"),
        (lambda: sampler.scan(20, [59.0], nfe=6), "more samples (n)"),
        (lambda: ENGINES["mala"].run("lj13", 10, 300), "ask for more samples (n)"),
    ):
        with pytest.warns(WeightWarning) as caught:
            work()
        assert caught[0].filename == __file__ and remedy in str(caught[0].message), str(caught[0].message)
