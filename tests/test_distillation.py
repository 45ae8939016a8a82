"""Flow maps, their distillation, and consistency kernels."""

import copy
import inspect
import json
import math
from dataclasses import replace

import pytest
import torch
from command import run
from harmonic import SCALE, ElasticDenoiser, FlowMapDenoiser, K, mse

import idem_md
from idem_md import ConfigError, UsageError
from idem_md.checkpoint import load_checkpoint, save_checkpoint
from idem_md.diffusion import (
    KERNELS,
    PathSampler,
    PlainLastStep,
    Precision,
    SamplingPlan,
    best_plan,
    noise_grid,
)
from idem_md.diffusion.flow_gaussian import FlowGaussian
from idem_md.diffusion.kernels.consistency import Consistency
from idem_md.distillation.distill import Distillation, distill, flow_map_error
from idem_md.distillation.trajectories import draw_trajectories, follow
from idem_md.energies import Harmonic
from idem_md.errors import Interrupted, ResultError
from idem_md.geometry import centred, standard_normal, subspace_dimension
from idem_md.nets import build_flow_map
from idem_md.training.config import OptimizerConfig

SMALL = {"channels": 16, "layers": 1, "n_basis": 16}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def denoiser(lj13_sampler):
    """The denoiser of LJ-13 with a flow map of random weights."""
    denoiser = copy.deepcopy(lj13_sampler.checkpoint.denoiser)
    torch.manual_seed(0)
    head = build_flow_map({**SMALL, "lowest": 0.05}, denoiser.net, denoiser.sigma_data)
    denoiser.heads["flow_map"] = head.requires_grad_(False)
    return denoiser


def mapped(denoiser, x, t, s):
    t, s = (torch.full((len(x),), level, dtype=torch.float64) for level in (t, s))
    return denoiser.mapped(x, *denoiser.featured(x, t), t, s)


def test_a_fresh_head_takes_euler_steps(denoiser, lj13_samples):
    x = lj13_samples[:20] + 0.4 * standard_normal((20, 13, 3), generator())
    d = denoiser(x, torch.full((20,), 0.4))
    for s in (0.1, 0.4, 1.5):
        assert torch.allclose(mapped(denoiser, x, 0.4, s), d + (s / 0.4) * (x - d), atol=1e-5)


def test_flow_maps_keep_symmetries_and_boundaries(denoiser, lj13_samples):
    with torch.no_grad():
        denoiser.heads["flow_map"].vector_out.weight.normal_(generator=generator())
    x = centred(lj13_samples[:20] + 0.4 * standard_normal((20, 13, 3), generator()))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(1), dtype=torch.float64))[0]
    order = torch.randperm(13, generator=generator(2))
    for s in (0.05, 0.3, 2.0):
        y = mapped(denoiser, x, 0.4, s)
        assert (y - mapped(denoiser, x, 0.4, s * 1.01)).abs().max() > 1e-4
        turned = mapped(denoiser, (x @ turn)[:, order], 0.4, s)
        assert torch.allclose(turned, (y @ turn)[:, order], atol=1e-5 * (1 + s / 0.4))
        assert torch.allclose(y, centred(y), atol=1e-12)
    assert torch.allclose(mapped(denoiser, x, 0.4, 0.4), x, atol=1e-12)


def test_native_and_plain_heads_agree(denoiser, lj13_samples, monkeypatch):
    with torch.no_grad():
        denoiser.heads["flow_map"].vector_out.weight.normal_(generator=generator())
    x = lj13_samples[:8] + 0.4 * standard_normal((8, 13, 3), generator())
    native = mapped(denoiser, x, 0.4, 0.1)
    t, s = torch.full((8,), 0.4), torch.full((8,), 0.1)
    d, features = denoiser.featured(x, t)
    plain = denoiser.mapped(x.float().requires_grad_(), d, features, t, s)
    assert torch.allclose(native, plain.detach().double(), atol=1e-5)


@pytest.mark.parametrize("kernel", ["consistency", "isotropic-consistency"])
@pytest.mark.parametrize("elastic", [True, False], ids=["elastic", "analytic"])
@pytest.mark.parametrize("error", [0.0, 0.02], ids=["exact", "perturbed"])
@pytest.mark.parametrize("nfe", [4, 16])
@pytest.mark.parametrize("lowest", [0.1, 0.02], ids=["flow map", "mixed"])
def test_consistency_weights_are_unbiased(kernel, elastic, error, nfe, lowest):
    """log Z and the mean energy by flow maps, whatever their error, and by diffusion below their lowest level."""
    energy, grid = Harmonic(4, 3, K), noise_grid(lowest, 3.0, nfe)
    samples = SCALE * standard_normal((400, 4, 3), generator(5))
    denoiser, kind = FlowMapDenoiser(elastic=elastic, error=error), KERNELS[kernel]
    kernel = kind(denoiser, mse, **kind.fitted(denoiser, mse, grid, samples, generator(6)))
    assert kernel.maps_to(grid[1]) and kernel.maps_to(grid[-1]) == (lowest == 0.1)
    made = PathSampler(kernel, PlainLastStep(), grid, SCALE)
    (paths,) = made.sample([energy], 6000, generator())
    w = torch.exp(paths.log_weights - energy.log_z)
    assert abs(w.mean() - 1) < 4.5 * w.std() / len(w) ** 0.5
    error_of_mean = ((w / w.sum()) ** 2 * (paths.energies - 4.5) ** 2).sum().sqrt()
    assert abs((w * paths.energies).sum() / w.sum() - subspace_dimension(4, 3) / 2) < 4.5 * error_of_mean
    share = float(w.sum() ** 2 / (w**2).sum() / len(w))
    assert error or nfe == 4 or lowest == 0.02 or share > 0.9

    x_0 = SCALE * standard_normal((6000, 4, 3), generator(1))
    v = torch.exp(energy.log_z - made.forward(energy, x_0, generator(2)))
    assert abs(v.mean() - 1) < 4.5 * v.std() / len(v) ** 0.5


def test_steps_are_fitted_by_likelihood():
    """For an exact map c is one, or for the isotropic kernel the flow's own scaling; errors make eta small."""
    grid = noise_grid(0.1, 3.0, 6)
    samples = SCALE * standard_normal((2000, 4, 3), generator(5))
    exact = KERNELS["consistency"].fitted(FlowMapDenoiser(), mse, grid, samples, generator(6))
    assert exact["sigma"] == sorted(grid[1:]) and max(abs(c - 1) for c in exact["scale"]) < 0.1
    isotropic = KERNELS["isotropic-consistency"].fitted(FlowMapDenoiser(), mse, grid, samples, generator(6))
    for t, s, c in zip(grid[-2::-1], grid[:0:-1], isotropic["scale"]):
        assert c == pytest.approx((SCALE**2 + t**2) / (SCALE**2 + s**2), rel=0.1)
    wrong = KERNELS["consistency"].fitted(FlowMapDenoiser(error=0.2), mse, grid, samples, generator(6))
    assert set(wrong["eta"]) == {0.9} and set(exact["eta"]) != {0.9}
    with pytest.raises(ResultError, match="kernel: no step from .* has a likelihood"):
        KERNELS["consistency"].fitted(FlowMapDenoiser(error=math.nan), mse, grid, samples[:50], generator(6))


def test_raw_paths_do_without_weights():
    """Exact maps give exact samples, of one evaluation or of many."""
    energy, kernel = Harmonic(4, 3, K), KERNELS["consistency"](FlowMapDenoiser(), mse)
    for nfe in (5, 1):
        made = PathSampler(kernel, PlainLastStep(), noise_grid(0.1, 3.0, max(nfe, 2)), SCALE)
        paths = (made.raw if nfe > 1 else made.raw_by_one_evaluation)(energy, 6000, generator())
        assert paths.nfe == nfe and not paths.log_weights.any()
        if nfe > 1:
            assert abs(paths.energies.mean() - 4.5) < 4.5 * paths.energies.std() / 6000**0.5
    with pytest.raises(UsageError, match="nfe: expected at least 2"):
        analytic = KERNELS["analytic"](ElasticDenoiser().denoise, mse)
        PathSampler(analytic, PlainLastStep(), noise_grid(0.1, 3.0, 2), SCALE).raw_by_one_evaluation(
            energy, 10, generator()
        )


def covariances(n=5, d=3, b=2):
    """Elastic S with springs of all kinds, one of them contracting where nothing pulls."""
    x = standard_normal((b, n, d), generator())
    pairs = n * (n - 1) // 2
    along, across = (torch.rand(b, pairs, generator=generator(k), dtype=torch.float64) * 9 for k in (1, 2))
    return Precision.of(along, across, torch.tensor([1.3, -0.25], dtype=torch.float64), x)


def test_stretched_gaussians():
    """Density against the dense one on a basis of the subspace, covariance against samples."""
    n, d, r = 5, 3, 1.7
    p = covariances(n, d)
    q = FlowGaussian(torch.zeros(2, n, d, dtype=torch.float64), p, 0.3, r)
    ones = torch.kron(torch.ones(n, 1, dtype=torch.float64), torch.eye(d, dtype=torch.float64)) / n**0.5
    others = torch.randn(n * d, n * d - d, generator=generator(), dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, others], 1)).Q[:, d:]
    y = standard_normal((2, n, d), generator(3))
    eye = torch.eye(n * d, dtype=torch.float64)
    covariance = 0.3 * (eye + r**2 * p.matrix) @ torch.linalg.inv(eye + p.matrix)
    inside = basis.T @ covariance @ basis
    inside = (inside + inside.mT) / 2
    dense = torch.distributions.MultivariateNormal(torch.zeros(n * d - d, dtype=torch.float64), inside)
    assert torch.allclose(q.log_density(y), dense.log_prob(y.flatten(1) @ basis), atol=1e-9)
    # A ratio for each of the batch gives the same.
    each = FlowGaussian(q.mean, p, 0.3, torch.tensor([r, r], dtype=torch.float64))
    assert torch.equal(each.log_density(y), q.log_density(y))

    for k in range(2):
        many = Precision(p.matrix[k : k + 1].expand(40_000, -1, -1), p.floor[k : k + 1].expand(40_000))
        z = FlowGaussian(torch.zeros(40_000, n, d, dtype=torch.float64), many, 0.3, r).sample(generator())
        assert torch.allclose(z, centred(z), atol=1e-12)
        bound = 0.03 * float(inside[k].diagonal().max())
        assert torch.allclose(torch.cov((z.flatten(1) @ basis).T), inside[k], atol=bound)


def test_failed_paths_stay_failed():
    p = covariances()
    broken = Precision(p.matrix.clone(), p.floor)
    broken.matrix[0, 0, 0] = torch.nan
    q = FlowGaussian(torch.zeros(2, 5, 3, dtype=torch.float64), broken, 1.0, 1.7)
    density, y = q.log_density(torch.zeros(2, 5, 3, dtype=torch.float64)), q.sample(generator())
    assert torch.isnan(density[0]) and torch.isfinite(density[1])
    assert torch.isnan(y[0]).all() and torch.isfinite(y[1]).all()


def test_options_of_consistency_are_checked():
    for options, message in (
        ({"eta": (1.0,)}, "eta: expected"),
        ({"eta": (0.0,)}, "eta: expected"),
        ({"sigma": (1.0, 0.5), "scale": (1.0, 1.0), "eta": (0.9, 0.9)}, "sigma: expected ascending"),
        ({"scale": (1.0, 1.0)}, "sigma: expected ascending levels, one for each"),
        ({"scale": (0.0,)}, "scale: expected"),
    ):
        with pytest.raises(UsageError, match=message):
            Consistency(FlowMapDenoiser(), mse, **options)
    with pytest.raises(UsageError, match="the checkpoint has none"):
        Consistency(ElasticDenoiser(), mse)


def test_trajectories_follow_the_flow(lj13_sampler):
    """Halving the steps changes next to nothing, and levels are each path's own."""
    denoiser = lj13_sampler.checkpoint.denoiser
    paths = draw_trajectories(denoiser, (16, 13, 3), 12, 0.3, 3.0, generator())
    assert paths.x.shape == (16, 12, 13, 3) and (paths.sigma.diff(dim=1) < 0).all()
    assert (paths.sigma[:, 0] == 3.0).all() and torch.allclose(paths.sigma[:, -1], torch.tensor(0.3))
    assert len(paths.sigma[:, 5].unique()) == 16
    ends = [follow(denoiser, paths.x[:, 4], paths.sigma[:, 4], paths.sigma[:, 8], steps) for steps in (4, 8, 16)]
    errors = [(ends[k] - ends[2]).square().mean().sqrt() for k in (0, 1)]
    assert errors[1] < 0.4 * errors[0] and errors[0] < 0.01
    back = follow(denoiser, ends[2], paths.sigma[:, 8], paths.sigma[:, 4], 16)
    assert torch.allclose(back, paths.x[:, 4], atol=0.01)


FEW = Distillation(steps=300, batch=8, pool=32, renewed=16, lowest=0.5, covariance_steps=20, head=SMALL)


@pytest.mark.slow
def test_distillation_resumes_bit_for_bit(lj13_sampler, tmp_path, monkeypatch):
    monkeypatch.setattr("idem_md.distillation.flow_covariance.POOL_SIZE", 64)
    monkeypatch.setattr("idem_md.distillation.flow_covariance.RENEWED_TRAJECTORIES", 16)
    monkeypatch.setitem(inspect.unwrap(distill).__globals__, "ERROR_SAMPLES", 16)
    checkpoint = lj13_sampler.checkpoint
    whole = distill(checkpoint, tmp_path / "whole.safetensors", FEW)
    rounds = []
    with pytest.raises(Interrupted, match="stopped after 1 of 3 rounds"):
        distill(
            checkpoint,
            tmp_path / "part.safetensors",
            FEW,
            stop=lambda: len(rounds) > 0,
            on_round=lambda *seen: rounds.append(seen),
        )
    assert len(rounds) == 1
    steps = []
    with pytest.raises(Interrupted, match="stopped after 3 of 3 rounds"):
        distill(
            checkpoint,
            tmp_path / "part.safetensors",
            FEW,
            resume=True,
            stop=lambda: len(steps) > 3,
            on_step=steps.append,
        )
    resumed = distill(checkpoint, tmp_path / "part.safetensors", FEW, resume=True)
    assert resumed.provenance["heads"]["flow_map"]["losses"] == whole.provenance["heads"]["flow_map"]["losses"]
    a, b = (c.denoiser.state_dict() for c in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    # What was there is as it was.
    old = {k: v for k, v in checkpoint.denoiser.state_dict().items() if not k.startswith("heads.flow_")}
    assert all(torch.equal(a[k], old[k]) for k in old) and whole.plans == checkpoint.plans
    with pytest.raises(ConfigError, match="cannot resume: settings"):
        distill(checkpoint, tmp_path / "part.safetensors", replace(FEW, seed=1), resume=True)

    save_checkpoint(tmp_path / "model.safetensors", whole)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    x = standard_normal((4, 13, 3), generator())
    assert torch.equal(mapped(loaded.denoiser, x, 1.0, 0.6), mapped(whole.denoiser, x, 1.0, 0.6))

    # Three hundred steps are worth something: against the Euler steps of a fresh head.
    error = torch.tensor(whole.provenance["heads"]["flow_map"]["flow_map_error"])
    fresh = load_checkpoint(idem_md.checkpoint.checkpoint_path("lj13")).denoiser
    fresh.heads["flow_map"] = build_flow_map({**SMALL, "lowest": 0.5}, fresh.net, fresh.sigma_data)
    euler = torch.tensor(flow_map_error(fresh, (16, 13, 3), 0.5, 3.0, generator())["flow_map_error"])
    assert error.diagonal().abs().max() < 1e-5
    back = torch.tensor(whole.provenance["heads"]["flow_map"]["round_trip"])
    assert back.diagonal().abs().max() < 1e-5 and back.max() < 2 * error.max() and back[0, 1] > 0
    assert error[0, -1] < 0.5 * euler[0, -1] and error[-1, 0] < 0.7 * euler[-1, 0]
    assert whole.provenance["heads"]["flow_map"]["flow_error"] < 0.01


def test_bad_distillations_are_named(lj13_sampler, tmp_path):
    for options, message in (
        ({"steps": 150}, "steps: expected a multiple of 100"),
        ({"pool": 8, "renewed": 16}, "pool: expected"),
        ({"optimizer": OptimizerConfig(inner_steps=50)}, "optimizer: expected inner_steps 100"),
        ({"lowest": -1.0}, "lowest: expected"),
    ):
        with pytest.raises(UsageError, match=message):
            Distillation(**options)
    with pytest.raises(UsageError, match="lowest: expected between the lowest level of the training, 0.01, and half"):
        distill(lj13_sampler.checkpoint, tmp_path / "x", replace(FEW, lowest=5.0))
    with pytest.raises(ConfigError, match="flow_map: unknown key 'n_basis'"):
        distill(idem_md.load_sampler("gmm40").checkpoint, tmp_path / "x", replace(FEW, lowest=10.0))
    with pytest.raises(UsageError, match="network.name, for flow maps: expected one of painn, mlp, got 'Linear'"):
        build_flow_map({"lowest": 0.1}, torch.nn.Linear(1, 1), 1.0)


@pytest.mark.slow
def test_points_have_flow_maps_too(tmp_path):
    """A mixture of Gaussians by the command line: distilled, sampled, raw in one evaluation."""
    cli("distill", "gmm40", "--out", "made", "--steps", 300, "--no-plans", cwd=tmp_path)
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["model.safetensors"]
    (tmp_path / "made" / "distillation.safetensors").write_bytes(b"")
    again = ("distill", "gmm40", "--out", "made", "--steps", 300)
    assert "already has a distillation" in cli(*again, cwd=tmp_path, code=2)
    assert "expected a safetensors checkpoint" in cli(*again, "--resume", "--no-plans", cwd=tmp_path, code=2)
    assert "expected a distillation in" in cli("distill", "gmm40", "--out", "other", "--resume", cwd=tmp_path, code=2)
    sampler = idem_md.load_sampler(tmp_path / "made")
    record = sampler.checkpoint.provenance["heads"]["flow_map"]
    assert record["rounds"] == 3 and record["flow_map_error"][0][-1] < 0.3 and record["flow_error"] < 0.01

    plan = replace(sampler.checkpoint.plan(4), kernel="consistency", tuned=None).changed(last_step_calls=256)
    sampler = idem_md.Sampler(replace(sampler.checkpoint, plans={"consistency": {4: plan}}))
    e = sampler.sample(4000, 4, seed=1)
    assert e.provenance["method"] == "consistency" and e.provenance["nfe"] == 4
    assert e.provenance["energy_calls"] < 4000 * 260
    assert abs(e.log_z) < 4.5 * e.log_z_err and e.ess_fraction > 0.1
    mean, error = e.mean_energy
    exact = idem_md.baselines.reference_engine("gmm40").run("gmm40", 4000, seed=2).mean_energy
    assert abs(mean - exact[0]) < 4.5 * math.hypot(error, exact[1])

    raw = sampler.sample(500, 1, seed=1, weighted=False)
    assert raw.kind == "raw" and raw.provenance["nfe"] == 1 and raw.provenance["method"] == "consistency"
    assert math.isnan(raw.ess) and math.isnan(raw.log_z) and math.isnan(raw.mean_energy[1]) and "raw" in raw.advice
    with pytest.raises(ResultError, match="raw ones have none"):
        raw.resample()
    raw.save(tmp_path / "raw.dcd")
    assert idem_md.load_ensemble(tmp_path / "raw.dcd").kind == "raw"
    assert "file: expected samples with weights" in cli("check", "raw.dcd", cwd=tmp_path, code=2)
    e.save(tmp_path / "e.dcd")
    cli("compare", "raw.dcd", "e.dcd", "--out", "report", cwd=tmp_path)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["ensembles"]["raw"]["ess"] is None and summary["metrics"]["raw"]["weighted"] == {}
    assert "to be more than raw samples" in cli("compare", "e.dcd", "raw.dcd", "--out", "no", cwd=tmp_path, code=2)
    cli("info", "raw.dcd", "--json", cwd=tmp_path)
    with pytest.raises(UsageError, match="last_step: expected one of"):
        sampler.plan(last_step="magic")
    plan = sampler.plan(4, last_step="plain")
    with pytest.raises(UsageError, match="kernel: expected none beside a plan"):
        sampler.sample(10, plan=plan, kernel="ddpm")
    for call in (sampler.sample, sampler.forward):
        with pytest.raises(UsageError, match="plan: expected a SamplingPlan, see Sampler.plan, got 8"):
            call(10 if call == sampler.sample else e, plan=8)
    for nfe, weighted in ((1, True), (0, False)):
        with pytest.raises(UsageError, match="nfe: expected at least"):
            sampler.sample(10, nfe, weighted=weighted)


def test_methods_are_chosen_by_what_was_measured(lj13_sampler):
    """The plan with the most effective samples a second, of those with enough; a kernel decides its method."""
    slow = SamplingPlan("elastic", "plain", 0.5, ess_fraction=0.8, seconds=2e-3, nfe=25)
    fast = SamplingPlan("analytic", "plain", 0.5, ess_fraction=0.7, seconds=1e-3, nfe=12)
    poor = SamplingPlan("consistency", "plain", 0.5, ess_fraction=0.1, seconds=1e-5, nfe=6)
    checkpoint = lj13_sampler.checkpoint
    sampler = idem_md.Sampler(replace(checkpoint, plans={"diffusion": {25: slow, 12: fast}, "consistency": {6: poor}}))
    assert sampler.plan() == fast and sampler.plan(25) == slow and sampler.plan(7) == replace(fast, nfe=7)
    good = replace(poor, ess_fraction=0.75)
    plans = {"diffusion": {25: slow, 12: fast}, "consistency": {6: good}}
    assert idem_md.Sampler(replace(checkpoint, plans=plans)).plan() == good
    assert best_plan([slow, fast]) == fast
    bare = idem_md.Sampler(replace(checkpoint, plans={}))
    assert bare.plan() == replace(checkpoint.frugal_plan(), nfe=25)
    with pytest.raises(UsageError, match="kernel: expected one for the method 'consistency', got 'ddpm'"):
        sampler.sample(10, method="consistency", kernel="ddpm")
    without = replace(checkpoint, denoiser=load_checkpoint(idem_md.checkpoint.checkpoint_path("lj55")).denoiser)
    with pytest.raises(UsageError, match="method: expected another than 'consistency', .* lacks a flow map"):
        idem_md.Sampler(without).sample(10, method="consistency")
    with pytest.raises(UsageError, match="kernel: expected another than 'consistency', .* lacks a flow map"):
        idem_md.Sampler(without).sample(10, kernel="consistency")


def cli(*words, cwd, code=0):
    """stderr of a command."""
    return run(*words, cwd=cwd, code=code).stderr
