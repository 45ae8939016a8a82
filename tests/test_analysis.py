"""Metrics on cases with known answers."""

import inspect

import numpy as np
import pytest
import torch

import idem_md
from idem_md import ResultError, UsageError
from idem_md.analysis import (
    aligned_distance,
    aligned_w2,
    coverage,
    energy_w2,
    heat_capacity,
    minima,
    pair_distances,
    total_variation,
)
from idem_md.baselines import ENGINES
from idem_md.chains import quench
from idem_md.energies import Harmonic
from idem_md.ensemble import WeightSums


def no_minimum(energy, x):
    return torch.full((len(x),), torch.nan)


def test_energy_w2_of_a_shift_is_the_shift():
    a = np.random.default_rng(0).normal(size=500)
    assert np.isclose(energy_w2(a, a + 3.0), 3.0)
    assert energy_w2(a, a) == 0


def test_energy_w2_respects_weights():
    assert np.isclose(energy_w2([0.0, 1.0], [0.0, 0.0, 1.0], weights_a=[2, 1]), 0.0)
    with pytest.raises(UsageError, match="finite"):
        energy_w2([0.0, np.inf], [0.0])
    with pytest.raises(UsageError, match="weights_a"):
        energy_w2([0.0, 1.0], [0.0], weights_a=[1.0])


def test_aligned_distance_ignores_rigid_motion():
    """Small angles, so that the assignment is not in doubt; then any permutation."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 6, 3))
    small = 0.02 * rng.normal(size=(3, 3))
    q, _ = np.linalg.qr(np.eye(3) + small - small.T)
    y = x @ (q @ np.diag(np.sign(np.diag(q)))) + 2.0
    assert np.allclose(np.diag(aligned_distance(x, y)), 0, atol=1e-6)
    perm = rng.permutation(6)
    assert np.allclose(np.diag(aligned_distance(x, x[:, perm] - 1.0)), 0, atol=1e-6)


def test_aligned_distance_matches_a_plain_loop():
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(4, 5, 3)), rng.normal(size=(3, 5, 3))
    got = aligned_distance(a, b)
    for i, x in enumerate(a - a.mean(1, keepdims=True)):
        for j, y in enumerate(b - b.mean(1, keepdims=True)):
            _, order = linear_sum_assignment(cdist(x, y) ** 2)
            best = min(Rotation.align_vectors(x, s * y[order])[1] for s in (1, -1))
            assert np.isclose(got[i, j], best, atol=1e-6)


def test_aligned_w2():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 4, 3))
    assert aligned_w2(x, x[::-1]) < 1e-6
    # Two points a distance d apart: W2 between (1,0) and (1/2,1/2) is d sqrt(1/2).
    d = aligned_distance(x[:1], x[1:2])[0, 0]
    assert np.isclose(aligned_w2(x[:1], x[:2]), d / np.sqrt(2), rtol=1e-6)
    assert aligned_w2(x[:2], x[:2], weights_a=[1, 0]) == pytest.approx(d / np.sqrt(2), rel=1e-6)


def test_total_variation():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 4, 3))
    assert total_variation(x, x) == 0
    assert total_variation(x, x + 100) == pytest.approx(0, abs=1e-12)
    assert total_variation(x, 50 * x) > 0.8
    assert pair_distances(x).shape == (200, 6)


def two_wells(share, n, weights=None):
    """Samples of two of the modes of GMM-40."""
    system = idem_md.get_system("gmm40")
    means = system.energy().means.double().numpy().reshape(-1, 1, 2)
    rng = np.random.default_rng(0)
    which = np.where(rng.random(n) < share, 0, 1)
    x = means[which] + rng.standard_normal((n, 1, 2))
    return idem_md.WeightedEnsemble(x, np.zeros(n), np.zeros(n) if weights is None else weights, system)


def test_coverage_finds_a_mode_that_is_missing():
    reference = two_wells(0.5, 4000)
    same, less = coverage(two_wells(0.5, 2000), reference), coverage(two_wells(0.2, 2000), reference)
    assert same.missing < 0.05 and abs(same.worst[1]) < 4
    assert less.missing == pytest.approx(0.3, abs=0.03) and abs(less.worst[1]) > 10
    assert less.missing_by_chance < 0.05


@pytest.mark.slow
def test_coverage_by_minima():
    """Two halves of one set share their minima; cold clusters near one minimum do not have those of a liquid."""
    system = idem_md.get_system("lj13")
    liquid = ENGINES["pt"].run("lj13", 120, 2000, seed=0)
    other = ENGINES["pt"].run("lj13", 120, 2000, seed=1)
    assert abs(coverage(other, liquid, n=30).worst[1]) < 4
    x = np.repeat(liquid.positions[:1], 50, 0) + 0.001 * np.random.default_rng(0).standard_normal((50, 13, 3))
    x -= x.mean(1, keepdims=True)
    u = system.energy()(torch.from_numpy(x))[0].numpy()
    assert coverage(idem_md.WeightedEnsemble(x, u, np.zeros(50), system), liquid, n=20).missing > 0.5
    with pytest.raises(idem_md.UsageError, match="reference: expected"):
        coverage(liquid, two_wells(0.5, 10))


def test_coverage_of_a_cluster_with_one_minimum(monkeypatch):
    """Nothing deviates, and nothing is divided by zero; a reference without minima is refused."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 30, 3, 3))
    x -= x.mean(2, keepdims=True)
    system = idem_md.System("springs", "", lambda: Harmonic(3), ("Ar",) * 3, idem_md.get_system("lj13").units, 1.0)
    one, two = (idem_md.WeightedEnsemble(a, 0.5 * (a**2).sum((1, 2)), np.zeros(30), system) for a in x)
    shares = coverage(one, two, n=20)
    assert shares.names == ("minimum of 0.000 kT",) and shares.missing == 0.0 and shares.worst[1] == 0.0

    monkeypatch.setitem(
        inspect.unwrap(coverage).__globals__, "quench", lambda energy, x: torch.full((len(x),), torch.nan)
    )
    with pytest.raises(ResultError, match="no minimisation"):
        coverage(one, two, n=3)


@pytest.mark.slow
def test_minima_without_a_reference(monkeypatch):
    """Liquid LJ-13 knows of the icosahedron (-88.65 kT and 5.56 of the trap), a set in another minimum does not."""
    system = idem_md.get_system("lj13")
    liquid = ENGINES["pt"].run("lj13", 100, 2000, seed=0)
    found = minima(liquid, n=40)
    assert found.energy[0] == pytest.approx(-83.09, abs=0.02) and found.share[0] > 0.01 and found.deeper == 0
    assert (np.diff(found.energy) > 0).all() and found.share.sum() <= 1 and found.from_noise.sum() <= 1

    lowest = quench(system.energy(), torch.tensor(liquid.positions[:20])).numpy()
    high = liquid.positions[:20][lowest > found.energy[0] + 1][:1]
    x = np.repeat(high, 20, 0) + 1e-4 * np.random.default_rng(0).standard_normal((20, 13, 3))
    x -= x.mean(1, keepdims=True)
    u = system.energy()(torch.from_numpy(x))[0].numpy()
    stuck = minima(idem_md.WeightedEnsemble(x, u, np.zeros(20), system), n=40)
    assert stuck.deeper >= 1 and stuck.share[0] == 0 and stuck.share[stuck.deeper] > 0.9

    monkeypatch.setitem(
        inspect.unwrap(minima).__globals__, "quench", lambda energy, x: torch.full((len(x),), torch.nan)
    )
    with pytest.raises(ResultError, match="no minimisation"):
        minima(liquid, n=3)


def test_heat_capacity_of_a_harmonic_cluster():
    """d (N - 1) / 2 from the momenta and as much from the springs, weights or not."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20_000, 5, 3))
    x -= x.mean(1, keepdims=True)
    system = idem_md.System("springs", "", lambda: None, ("Ar",) * 5, idem_md.get_system("lj13").units, 1.0)
    u = 0.5 * (x**2).sum((1, 2))
    value, error = heat_capacity(idem_md.WeightedEnsemble(x, u, np.zeros(len(x)), system))
    assert abs(value - 12) < 4.5 * error < 1
    # The same potential at beta = 1.2 by weights.
    value, error = heat_capacity(idem_md.WeightedEnsemble(x, 1.2 * u, -0.2 * u, system))
    assert abs(value - 12) < 4.5 * error < 1.5


def test_running_sums_are_the_effective_size():
    log_w = np.random.default_rng(0).normal(0, 3, 1000) - 5000
    log_w[::7] = -np.inf
    sums = WeightSums()
    for part in np.array_split(log_w, 13):
        sums.add(part)
    w = np.exp(log_w - log_w.max())
    assert sums.n == 1000 and sums.ess == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert WeightSums().ess == 0.0
