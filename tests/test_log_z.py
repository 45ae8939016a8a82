"""log Z and densities by routes other than paths, against closed forms and quadrature."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from harmonic import SCALE, K, exact

import idem_md
from idem_md import ResultError, UsageError
from idem_md.analysis import negative_log_likelihood
from idem_md.baselines.mbar import mbar_log_z
from idem_md.diffusion import Flow
from idem_md.diffusion.flow import _basis
from idem_md.energies import DoubleWell, Harmonic
from idem_md.geometry import gaussian_log_density, standard_normal
from idem_md.measurements import measure_log_z
from idem_md.measurements.log_z import double_well_log_z


@pytest.fixture(scope="module")
def dw4_sampler():
    return idem_md.load_sampler("dw4")


WIDTH = SCALE**2 + 0.3**2  # variance of a coordinate at the lower level of the flow


@pytest.mark.parametrize("n, d", [(1, 2), (2, 3), (5, 3), (4, 2)])
def test_basis_is_orthonormal_and_mean_free(n, d):
    basis = _basis(n, d)
    flat = basis.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(len(flat), dtype=torch.float64), atol=1e-12)
    assert len(flat) == max(n - 1, 1) * d and (n == 1 or basis.sum(1).abs().max() < 1e-12)


def test_flow_of_the_exact_denoiser_is_the_noised_density():
    generator = torch.Generator().manual_seed(0)
    x = WIDTH**0.5 * standard_normal((50, 4, 3), generator)
    flow = Flow(exact, SCALE, 0.3, 3.0, step=0.05)
    known = gaussian_log_density(x, torch.zeros_like(x), WIDTH)
    assert (flow.log_density(x) - known).abs().max() < 1e-4
    y, log_p = flow.sample(2000, 4, 3, generator)
    assert (log_p - gaussian_log_density(y, torch.zeros_like(y), WIDTH)).abs().max() < 1e-4
    assert (y.square().mean() / (0.75 * WIDTH)).item() == pytest.approx(1, abs=4.5 * (2 / (2000 * 9)) ** 0.5)
    nll, error = negative_log_likelihood(lambda a: flow.log_density(torch.from_numpy(a)).numpy(), y[:400].numpy())
    assert abs(nll - 4.5 * (1 + math.log(2 * math.pi * WIDTH))) < 4.5 * error


def test_hutchinson_is_unbiased_about_the_exact_trace():
    def lopsided(x, sigma):  # its Jacobian is not a multiple of one: the probes differ
        pull = torch.tensor([0.2, 0.9, 0.4], dtype=x.dtype)
        return pull * (x - x.mean(1, keepdim=True)) / (1 + sigma[:, None, None])

    x = standard_normal((1, 4, 3), torch.Generator().manual_seed(1)).expand(2000, -1, -1)
    settings = {"sigma_data": SCALE, "low": 0.3, "high": 1.0}
    known = Flow(lopsided, **settings).log_density(x[:1])
    noisy = Flow(lopsided, divergence="hutchinson", seed=2, **settings).log_density(x)
    quiet = Flow(lopsided, divergence="hutchinson", probes=8, seed=2, **settings).log_density(x)
    for values in (noisy, quiet):
        assert abs(values.mean() - known) < 4.5 * values.std() / 2000**0.5
    assert quiet.std() < 0.5 * noisy.std()


def test_flow_refuses_what_it_cannot_do():
    for bad in ({"low": 0.0}, {"high": 0.2}, {"divergence": "none"}, {"probes": 0}, {"probes": 2}, {"step": -1.0}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            Flow(exact, SCALE, **{"low": 0.3, "high": 3.0, **bad})
    with pytest.raises(UsageError, match="x: expected finite"):
        Flow(exact, SCALE, 0.3, 3.0).log_density(torch.full((1, 4, 3), torch.nan))


@pytest.mark.slow
def test_flow_of_a_network_needs_no_more_than_its_precision(dw4_sampler):
    """Halving the steps changes nothing that matters."""
    c = dw4_sampler.checkpoint
    x = torch.tensor(dw4_sampler.sample(20, 6, last_step_calls=200).positions)
    coarse, fine = (Flow(c.denoiser, c.system.sigma_data, 0.5, 8.0, step=h).log_density(x) for h in (0.2, 0.1))
    assert (coarse - fine).abs().max() < 0.05 and np.ptp(fine.numpy()) > 0.1


def test_mbar_of_a_harmonic_cluster():
    units = idem_md.get_system("lj13").units
    system = idem_md.System("springs", "", lambda: Harmonic(4, 3, K), ("Ar",) * 4, units, 0.5)
    value, error = mbar_log_z(system, n=400, rungs=8, n_steps=100, seed=3)
    assert abs(value - Harmonic(4, 3, K).log_z) < 4.5 * error < 0.5


@pytest.mark.slow
def test_mbar_that_was_not_solved_is_no_result(monkeypatch):
    from pymbar import MBAR

    weights = MBAR.weights
    monkeypatch.setattr(MBAR, "weights", lambda self: 1.01 * weights(self))
    with pytest.raises(ResultError, match="not solved"):
        mbar_log_z("lj13", n=10, rungs=2, n_steps=1)


def test_mbar_of_lj13():
    value, error = mbar_log_z("lj13", n=300, rungs=40, n_steps=500, seed=1)
    assert abs(value - 59.865) < 4.5 * error < 1.0


def test_quadrature_of_dw4(dw4_sampler):
    """Converged, and what weighted paths say."""
    value = double_well_log_z(DoubleWell())
    assert value == pytest.approx(double_well_log_z(DoubleWell(), 192), abs=1e-6) == pytest.approx(29.667232, abs=1e-5)
    paths = dw4_sampler.sample(1000, 8, seed=4)
    assert abs(paths.log_z - value) < 4.5 * paths.log_z_err < 0.2


@pytest.mark.slow
def test_routes_agree_on_the_mixture(monkeypatch):
    few_steps = partial(mbar_log_z, rungs=10, n_steps=50)
    monkeypatch.setattr("idem_md.measurements.log_z.mbar_log_z", few_steps)
    rows = {row["route"]: row for row in measure_log_z(idem_md.load_sampler("gmm40"), 12, 1000, 100, seed=2, mbar_n=20)}
    assert list(rows) == ["exact", "paths", "flow", "mbar"] and json.dumps(rows)
    for route in ("paths", "flow"):  # chains do not cross between the modes: no promise for mbar
        assert abs(rows[route]["log_z"]) < 4.5 * rows[route]["log_z_err"] < 0.5
