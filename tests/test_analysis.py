"""Metrics on cases with known answers."""

import numpy as np
import pytest

from idem_md import UsageError
from idem_md.analysis import aligned_distance, aligned_w2, energy_w2, pair_distances, total_variation


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
