"""Weighted paths against closed forms: right whatever the denoiser."""

import pytest
import torch

from idem_md.diffusion import PROPOSALS, DenoiserAccuracy, Isotropic, PlainLastStep, noise_grid, sample_paths
from idem_md.energies import Harmonic
from idem_md.geometry import standard_normal, subspace_dimension

K = 25.0  # stiff enough that even four ddpm steps have weights of finite variance: v_q > v_p / 2 everywhere
SCALE = K**-0.5  # standard deviation of a coordinate


def exact(x, sigma):
    s = sigma[:, None, None]
    return x * SCALE**2 / (SCALE**2 + s**2)


def exact_error(levels):
    return DenoiserAccuracy(tuple(levels), tuple(SCALE**2 * s**2 / (SCALE**2 + s**2) for s in levels))


LEVELS = torch.logspace(-3, 1, 60).tolist()


def run(denoise, kernel, nfe, n=4000, energy=None, seed=0):
    energy = energy or Harmonic(4, 3, K)
    grid = noise_grid(0.3, 3.0, nfe)
    mse = exact_error(LEVELS)
    proposal, last = PROPOSALS[kernel](denoise, mse), PlainLastStep(mse)
    return energy, sample_paths(proposal, last, energy, grid, SCALE, n, torch.Generator().manual_seed(seed))


def estimates(paths):
    w = torch.exp(paths.log_weights - paths.log_weights.max())
    log_z = paths.log_weights.max() + torch.log(w.mean())
    log_z_err = w.std() / w.mean() / len(w) ** 0.5
    p = w / w.sum()
    mean = (p * paths.energies).sum()
    err = torch.sqrt((p**2 * (paths.energies - mean) ** 2).sum())
    return log_z, log_z_err, mean, err, 1 / (p**2).sum() / len(w)


@pytest.mark.parametrize("kernel", PROPOSALS)
@pytest.mark.parametrize("nfe", [4, 16, 64])
def test_harmonic_log_z(kernel, nfe):
    energy, paths = run(exact, kernel, nfe)
    log_z, err, mean, mean_err, ess = estimates(paths)
    assert abs(log_z - energy.log_z) < 4.5 * err + 1e-9
    assert abs(mean - subspace_dimension(4, 3) / 2) < 4.5 * mean_err
    if kernel == "analytic":
        assert ess > 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, s: 0.8 * exact(x, s),
        lambda x, s: exact(x, s) + 0.05 * standard_normal(x.shape, torch.Generator().manual_seed(9)),
        lambda x, s: exact(x, 1.3 * s),
    ],
    ids=["scaled", "shifted", "wrong noise"],
)
def test_a_wrong_denoiser_costs_ess_not_truth(wrong):
    energy, paths = run(wrong, "analytic", 16, n=20000)
    log_z, err, mean, mean_err, ess = estimates(paths)
    *_, best = estimates(run(exact, "analytic", 16)[1])
    assert ess < 0.97 * best
    assert abs(log_z - energy.log_z) < 4.5 * err
    assert abs(mean - subspace_dimension(4, 3) / 2) < 4.5 * mean_err


def test_failed_paths_stay_in_the_count():
    def sometimes(x, sigma):
        out = exact(x, sigma)
        out[3] = torch.nan
        return out

    _, paths = run(sometimes, "ddpm", 4, n=250)
    assert paths.failed == 1 and len(paths.log_weights) == 250
    assert paths.log_weights[3] == -torch.inf and paths.energies[3] == torch.inf
    assert torch.isfinite(paths.log_weights).sum() == 249


def test_same_seed_same_paths():
    a, b = run(exact, "ddpm", 8, n=300)[1], run(exact, "ddpm", 8, n=300)[1]
    assert torch.equal(a.positions, b.positions) and torch.equal(a.log_weights, b.log_weights)
    assert not torch.equal(a.positions, run(exact, "ddpm", 8, n=300, seed=1)[1].positions)


def test_transition_density_integrates_to_one():
    """Importance sampling of 1 = E_p[q/p] with p a wider Gaussian on the subspace."""
    x = standard_normal((1, 3, 2), torch.Generator().manual_seed(0)).expand(100_000, -1, -1)
    proposal = PROPOSALS["analytic"](lambda x, sigma: 0.5 * x, exact_error(LEVELS))
    down = proposal.down(proposal.look(x, 1.0), 0.5)
    wide = Isotropic(down.mean, 1.5 * down.variance)
    y = wide.sample(torch.Generator().manual_seed(1))
    ratio = torch.exp(down.log_density(y) - wide.log_density(y))
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / len(ratio) ** 0.5
