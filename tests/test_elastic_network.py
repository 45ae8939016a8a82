"""Elastic Gaussians, the head that learns them, plans, and annealing in native code against plain torch."""

import inspect
import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

import idem_md
from idem_md import UsageError, native
from idem_md.analysis import bootstrap
from idem_md.baselines import ENGINES
from idem_md.chains import Schedule, paced_schedule, run_annealing, run_mala, tuned_schedule
from idem_md.checkpoint import load_checkpoint, save_checkpoint
from idem_md.diffusion import Elastic, Isotropic, MovedLastStep, Precision, SamplingPlan
from idem_md.energies import Harmonic, LennardJones
from idem_md.errors import TrainingWarning
from idem_md.geometry import centred, standard_normal, subspace_dimension
from idem_md.nets import ElasticNetwork, ElasticNetworkOptions, build_elastic_network
from idem_md.tuning import HeadTraining, add_elastic_network, tune, tune_expensive_plan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def precision(b=6, n=5, d=3, stiff=3.0):
    pairs = n * (n - 1) // 2
    along, across = (torch.rand(b, pairs, generator=generator(k), dtype=torch.float64) * stiff for k in (1, 2))
    x = standard_normal((b, n, d), generator(3))
    return Precision.of(along, across, torch.linspace(0.5, 2.0, b, dtype=torch.float64), x), (along, across, x)


@pytest.mark.parametrize("n,d", [(5, 3), (4, 2), (2, 3)])
def test_the_precision_is_its_formula(n, d):
    p, (along, across, x) = precision(3, n, d)
    i, j = torch.tril_indices(n, n, -1)
    for b in range(3):
        want = p.floor[b] * torch.eye(n * d, dtype=torch.float64)
        for k in range(len(i)):
            e = torch.zeros(n, dtype=torch.float64)
            e[i[k]], e[j[k]] = 1.0, -1.0
            r = (x[b, i[k]] - x[b, j[k]]) / (x[b, i[k]] - x[b, j[k]]).norm()
            block = along[b, k] * torch.outer(r, r) + across[b, k] * torch.eye(d, dtype=torch.float64)
            want += torch.kron(torch.outer(e, e), block)
        assert torch.allclose(p.matrix[b], want)
        translation = torch.ones(n, 1, dtype=torch.float64).kron(torch.eye(d, dtype=torch.float64))
        assert torch.allclose(p.matrix[b] @ translation, p.floor[b] * translation)


@pytest.mark.parametrize("n,d", [(5, 3), (4, 2)])
@pytest.mark.parametrize("v", [0.0, 0.3])
def test_elastic_gaussians(n, d, v):
    """Against the dense Gaussian on an orthonormal basis of the subspace; samples have its covariance; it is
    normalised."""
    p, _ = precision(2, n, d)
    mean = standard_normal((2, n, d), generator(4))
    gaussian = Elastic(mean, p, 0.7, v)
    q = torch.linalg.qr(
        torch.cat([torch.ones(n, 1, dtype=torch.float64), torch.eye(n, dtype=torch.float64)[:, 1:]], 1)
    )[0]
    basis = torch.kron(q[:, 1:].contiguous(), torch.eye(d, dtype=torch.float64))
    covariance = basis.T @ (v * torch.eye(n * d, dtype=torch.float64) + 0.7 * torch.linalg.inv(p.matrix)) @ basis
    y = standard_normal((2, n, d), generator(5))
    want = torch.distributions.MultivariateNormal(mean.flatten(1) @ basis, covariance).log_prob(y.flatten(1) @ basis)
    assert torch.allclose(gaussian.log_density(y), want)
    many = Precision(p.matrix[:1].expand(20_000, -1, -1), p.floor[:1].expand(20_000))
    draws = Elastic(mean[:1].expand(20_000, -1, -1), many, 0.7, v)
    z = draws.sample(generator(6))
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance[0]), ((z - mean[0]).flatten(1) @ basis).T, upper=False
    )
    assert z.mean(1).abs().max() < 1e-12
    assert (white @ white.T / 20_000 - torch.eye(len(white))).abs().max() < 5 * (2 / 20_000) ** 0.5
    wide = Elastic(mean[:1].expand(20_000, -1, -1), many, 1.2 * 0.7, 1.2 * v)
    x = wide.sample(generator(7))
    ratio = torch.exp(draws.log_density(x) - wide.log_density(x))
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / 20_000**0.5


def test_without_pairs_it_is_isotropic():
    b, x = 4, standard_normal((4, 5, 3), generator())
    zero = torch.zeros(b, 10, dtype=torch.float64)
    p = Precision.of(zero, zero, torch.full((b,), 2.0, dtype=torch.float64), x)
    y = standard_normal((4, 5, 3), generator(1))
    assert torch.allclose(Elastic(x, p, 0.6, 0.1).log_density(y), Isotropic(x, 0.1 + 0.3).log_density(y))


@pytest.fixture(scope="module")
def head():
    network = ElasticNetwork(ElasticNetworkOptions(hidden=16), 8, 1.0, 0.7)
    with torch.no_grad():
        for p in network.parameters():  # as after some training
            p.add_(0.3 * torch.randn(p.shape, generator=generator(p.numel())))
    return network


def test_elastic_networks_are_positive_and_equivariant(head):
    n = 10_000
    x, d = (0.7 * standard_normal((n, 4, 3), generator(k), torch.float32) for k in (0, 1))
    scalars, log_sigma = torch.randn(n, 4, 8, generator=generator(2)), torch.linspace(-4, 1, n)
    with torch.no_grad():
        constants = head(scalars, x, d, log_sigma)
        p = Precision.of(*(c.double() for c in constants), d.double())
        assert torch.linalg.eigvalsh(p.matrix).min() > 0
        q = torch.linalg.qr(torch.randn(3, 3, generator=generator(3)))[0]
        turned = head(scalars, x @ q.T, d @ q.T, log_sigma)
        again = Precision.of(*(c.double() for c in turned), (d @ q.T).double())
        big = torch.kron(torch.eye(4), q.contiguous()).double()
        size = p.matrix.abs().amax((1, 2), keepdim=True)
        assert ((again.matrix - big @ p.matrix @ big.T) / size).abs().max() < 1e-5
        order = torch.tensor([2, 0, 3, 1])
        swapped = Precision.of(
            *(c.double() for c in head(scalars[:, order], x[:, order], d[:, order], log_sigma)), d[:, order].double()
        )
        blocks = p.matrix.reshape(n, 4, 3, 4, 3)[:, order][:, :, :, order].reshape(n, 12, 12)
        assert ((swapped.matrix - blocks) / size).abs().max() < 1e-5


@pytest.mark.slow
def test_elastic_networks_learn_and_are_kept(lj13_sampler, lj13_samples, tmp_path):
    """A minute's training in seconds: likelier x_0 at middle levels; weights stay unbiased; the file has it all."""
    bare = replace(lj13_sampler.checkpoint, denoiser=lj13_sampler.checkpoint.denoiser, plans={})
    settings = HeadTraining(steps=60, batch=64, learning_rate=1e-2)
    checkpoint = add_elastic_network(bare, lj13_samples.float(), settings)
    gain = checkpoint.provenance["heads"]["elastic_network"]["gain_nats"]
    assert max(gain) > 1.0 and checkpoint.denoiser.has("elastic_network")
    again = add_elastic_network(bare, lj13_samples.float(), settings)
    ours, theirs = checkpoint.denoiser.state_dict(), again.denoiser.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    plans = {"diffusion": {6: SamplingPlan("elastic", "nested", 0.03, {"candidates": 2}, 0.5, 0.001, nfe=6)}}
    save_checkpoint(tmp_path / "model.safetensors", replace(checkpoint, plans=plans))
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.plans == plans and loaded.plan(8) == replace(plans["diffusion"][6], nfe=8)
    assert json.dumps(loaded.plan(8).table())
    e = idem_md.Sampler(loaded).sample(20, nfe=6)
    assert (
        e.provenance["kernel"] == "elastic"
        and e.provenance["last_step"] == "nested"
        and e.provenance["energy_calls"] == 40
    )
    with pytest.raises(UsageError, match="elastic_network: expected a network with scalars"):
        build_elastic_network({}, torch.nn.Linear(1, 1), 1.0)


# Annealing

K = 4.0
CASES = {"native": LennardJones(5, 1e-12, 1e-3, K), "plain": Harmonic(5, 3, K)}


def restrained(b=3000, sigma=0.3):
    """x_t, an off denoiser and its wrong width, and the exact log density of the noised cluster at x_t."""
    x = 0.5 * standard_normal((1, 5, 3), generator()).float().expand(b, -1, -1).contiguous()
    mean, variance = 0.9 * x / (1 + K * sigma**2), 1.3 / (K + sigma**-2)
    d = subspace_dimension(5, 3)
    spread = 1 / K + sigma**2
    exact = -0.5 * float((x[0] ** 2).sum()) / spread - 0.5 * d * math.log(spread) + 0.5 * d * math.log(1 / K)
    return x, mean, variance, exact


@pytest.mark.parametrize("leapfrogs", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_annealing_the_way_back(name, leapfrogs):
    """From draws of the end density: exp(-log_w) estimates the inverse, and log_w is above where it else is below."""
    x, mean, variance, exact = restrained()
    energy, schedule = CASES[name], Schedule(24, 2.0, 2, (0.03, 0.04), leapfrogs)
    width = 1 / (K + 1 / 0.09)
    noise = standard_normal(x.shape, torch.Generator().manual_seed(7), x.dtype)
    start = x / 0.09 * width + width**0.5 * noise
    calls = energy.calls
    back = run_annealing(energy, mean, x, variance, 0.3, schedule, 1, start=start)
    assert energy.calls - calls == len(x) * schedule.calls
    forth = run_annealing(energy, mean, x, variance, 0.3, schedule, 2)
    inverse = torch.exp(exact - back.log_w)
    assert abs(inverse.mean() - 1) < 4.5 * inverse.std() / len(x) ** 0.5 and 0.1 < back.log_w.std() < 1
    assert back.log_w.mean() > exact > forth.log_w.mean()
    with pytest.raises(UsageError, match="start: expected"):
        run_annealing(energy, mean, x, variance, 0.3, schedule, 1, start=start[:-1])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("end,leapfrogs", [(1.0, 1), (0.8, 1), (0.8, 3)])
def test_annealing_estimates_the_normaliser(name, end, leapfrogs):
    x, mean, variance, exact = restrained()
    energy = CASES[name]
    if end != 1.0:  # the same with another spring
        d, spread = subspace_dimension(5, 3), 1 / (end * K) + 0.09
        exact = -0.5 * float((x[0] ** 2).sum()) / spread - 0.5 * d * math.log(spread * end * K)
    run = run_annealing(energy, mean, x, variance, 0.3, Schedule(24, 2.0, 2, (0.04,), leapfrogs), 1, end=end)
    w = torch.exp(run.log_w - exact)
    assert abs(w.mean() - 1) < 4.5 * w.std() / len(w) ** 0.5 and 0.1 < run.log_w.std() < 1
    # End points with their weights: mean and spread of the posterior.
    p, want = (w / w.sum())[:, None, None], x[0] / (1 + end * K * 0.09)
    error = (p**2 * (run.x - want).double() ** 2).sum(0).sqrt()
    assert (((p * run.x).sum(0) - want) / error).abs().max() < 4.5
    assert torch.allclose(run.u, energy(run.x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("leapfrogs", [1, 3])
def test_native_annealing_is_the_plain_one(leapfrogs):
    x, mean, variance, _ = restrained()
    schedule = Schedule(24, 2.0, 2, (0.04,), leapfrogs)
    native_run, plain = (run_annealing(CASES[k], mean, x, variance, 0.3, schedule, 3, trace=True) for k in CASES)
    assert stats.ks_2samp(native_run.log_w.numpy(), plain.log_w.numpy()).pvalue > 1e-4
    assert native_run.acceptance.shape == plain.acceptance.shape == (3000, 24)
    assert torch.allclose(native_run.acceptance.mean(0), plain.acceptance.mean(0), atol=0.05)


def test_native_annealing_does_not_depend_on_threads_or_batch():
    x, mean, variance, _ = restrained(100)
    energy, schedule = CASES["native"], Schedule(8, 2.0, 1, (0.04,))
    before = energy.calls
    whole = run_annealing(energy, mean, x, variance, 0.3, schedule, 5)
    assert energy.calls - before == 100 * schedule.calls
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = run_annealing(energy, mean[:32], x[:32], variance, 0.3, schedule, 5)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole.log_w[:32], again.log_w) and torch.equal(whole.x[:32], again.x)


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_annealing_on_every_instruction_set(isa):
    x, mean, variance, exact = restrained(1500)
    schedule = Schedule(24, 2.0, 2, (0.04,))
    arguments = (mean, x, (variance, 0.3, 1.0), schedule.betas(), schedule.step_sizes(), 2, 7)
    *_, log_w, share, increments = native.lj_anneal(*arguments, **CASES["native"]._op, isa=isa)
    w = torch.exp(log_w + 6 * math.log(variance / 0.09) - exact)
    assert share.shape == increments.shape == (0, 24) and abs(w.mean() - 1) < 4.5 * w.std() / 1500**0.5


def test_steps_are_tuned():
    x, mean, variance, _ = restrained(400)
    for energy, (leapfrogs, best) in product(CASES.values(), ((1, 0.57), (3, 0.7))):
        schedule = tuned_schedule(energy, mean, x, variance, 0.3, Schedule(40, 2.0, 1, (1e-2,), leapfrogs), 1)
        assert schedule.stages == 40 and len(schedule.steps) == 17 and schedule.leapfrogs == leapfrogs
        run = run_annealing(energy, mean, x, variance, 0.3, schedule, 2, trace=True)
        assert (run.acceptance.mean(0) - best).abs().max() < 0.15


def test_the_pace_takes_variance_away():
    """With a power that suits badly; and the normaliser is what it was."""
    x, mean, variance, exact = restrained(1500)
    for energy in CASES.values():
        plain = Schedule(64, 6.0, 1, (0.04,))
        paced = paced_schedule(energy, mean[:250], x[:250], variance, 0.3, plain, 1)
        assert paced.betas()[0] == 0 and paced.betas()[-1] == 1 and (paced.betas().diff() > 0).all()
        before, after = (run_annealing(energy, mean, x, variance, 0.3, s, 9).log_w for s in (plain, paced))
        assert after.var() < 0.8 * before.var()
        w = torch.exp(after - exact)
        assert abs(w.mean() - 1) < 4.5 * w.std() / len(w) ** 0.5
    dead = paced_schedule(LennardJones(5, 1.0), torch.zeros(4, 5, 3), torch.zeros(4, 5, 3), 1e-12, 1e-6, plain, 1)
    assert dead == plain  # nothing was measured


def test_increments_are_the_parts_of_log_w():
    x, mean, variance, _ = restrained(20)
    for energy in CASES.values():
        run = run_annealing(energy, mean, x, variance, 0.3, Schedule(24, 2.0, 2, (0.04,)), 3, trace=True)
        norms = 0.5 * subspace_dimension(5, 3) * math.log(variance / 0.09)
        assert torch.allclose(run.increments.double().sum(1) + norms, run.log_w, atol=1e-4)


@pytest.mark.parametrize(
    "change,name",
    [
        ({"stages": 0}, "stages"),
        ({"power": 0.5}, "power"),
        ({"moves": 0}, "moves"),
        ({"leapfrogs": 0}, "leapfrogs"),
        ({"pace": (0.0,)}, "pace"),
        ({"pace": (0.0, math.nan, 1.0)}, "pace"),
        ({"pace": (0.0, 0.5, 0.5, 1.0)}, "pace"),
        ({"pace": (0.0, 0.9)}, "pace"),
        ({"steps": ()}, "steps"),
        ({"steps": (-1.0,)}, "steps"),
    ],
)
def test_bad_schedules_are_named(change, name):
    with pytest.raises(UsageError, match=f"{name}: expected"):
        Schedule(**({"stages": 4, "power": 2.0, "moves": 1, "steps": (0.1,)} | change))


def test_an_overlap_at_the_start_weighs_nothing_or_little():
    """Atoms on top of each other in D, and a width of zero to speak of: no NaN, and no weight from nothing."""
    energy = LennardJones(13, 2.0)
    x = 0.3 * standard_normal((40, 13, 3), generator(), torch.float32)
    run = run_annealing(energy, torch.zeros_like(x), x, 1e-9, 0.05, Schedule(8, 5.0, 1, (1e-6,)), 1)
    assert not torch.isnan(run.log_w).any() and (run.log_w < 0).all()


# Plans


def test_plans_change_as_asked(lj13_sampler):
    schedule = {"stages": 64, "power": 3.0, "moves": 2, "steps": [1e-3, 1e-3]}
    plan = SamplingPlan("analytic", "annealed", 0.3, {"schedule": schedule, "chains": 2})
    assert plan.build_last_step().schedule.steps == (1e-3, 1e-3) and SamplingPlan.of(plan.table()) == plan
    assert plan.changed(kernel="ddpm").last_step == "annealed"
    plain = plan.changed(last_step="plain")
    assert plain.sigma_1 is None and plain.options == {}
    for calls in (4, 100, 1000):
        step = plan.changed(last_step_calls=calls).build_last_step()
        assert 0.4 * calls <= step.chains * step.schedule.calls <= 1.2 * calls + 2
    assert plan.changed(last_step="nested", last_step_calls=7).options == {"candidates": 7}
    with pytest.raises(UsageError, match="last_step_calls: expected none"):
        plan.changed(last_step="plain", last_step_calls=4)
    with pytest.raises(UsageError, match="last_step: expected another than 'annealed'"):
        SamplingPlan().changed(last_step="annealed").build_last_step()
    with pytest.raises(UsageError, match="last_step: expected one of"):
        lj13_sampler.sample(2, nfe=2, last_step="magic")
    with pytest.raises(UsageError, match="plan: expected some of .*, got 'colour'"):
        SamplingPlan.of({"colour": 1})


@pytest.mark.slow
def test_tuning_of_a_small_run(tmp_path, lj13_sampler, lj13_samples, monkeypatch):
    """An elastic network and a plan in seconds, in one file; sampling by it is unbiased."""
    monkeypatch.setitem(inspect.unwrap(tune).__globals__, "LEVEL_SAMPLES", 50)
    monkeypatch.setattr("idem_md.tuning.plans.LOWEST", (0.35, 0.45, 0.55, 0.7))
    checkpoint = lj13_sampler.checkpoint
    few = HeadTraining(steps=30, batch=64)
    with pytest.warns(TrainingWarning, match="plans for .* evaluations were for another elastic network, and are gone"):
        tuned = tune(
            checkpoint,
            lj13_samples[:600],
            tmp_path / "model.safetensors",
            heads=few,
            nfes={"diffusion": (5,)},
            pilot=128,
        )
    expensive = tuned.expensive
    assert tuned.frugal_plan() == expensive and expensive.last_step == "nested" and len(expensive.density) > 20
    assert (
        expensive.changed(last_step_calls=9).density == expensive.density
        and expensive.changed(last_step="plain").density is None
    )
    assert SamplingPlan.of(json.loads(json.dumps(expensive.table()))) == expensive
    assert (
        list(tuned.plans) == ["diffusion"]
        and list(tuned.plans["diffusion"]) == [5]
        and tuned.denoiser.has("elastic_network")
        and tuned.provenance["tuning_energy_calls"] > 0
    )
    plan = tuned.plans["diffusion"][5]
    assert plan.last_step == "annealed" and plan.ess_fraction > 0.3 and plan.seconds > 0
    assert 0.05 < plan.tuned.variance < 1.5 and len(plan.tuned.alternatives) <= 3
    sampler = idem_md.load_sampler(tmp_path)
    assert sampler.checkpoint.expensive == expensive
    energy = sampler.system.energy()
    more = tune_expensive_plan(checkpoint, lj13_samples[:25], energy, candidates=8).expensive
    assert more.options == {"candidates": 8} and more.sigma_1 > expensive.sigma_1 and energy.calls >= 5 * 7 * 25
    frugal = sampler.sample(400, seed=0, plan=replace(expensive, nfe=25))
    assert frugal.provenance["energy_calls"] == 400 and abs(frugal.log_z - 59.86) < 4.5 * frugal.log_z_err
    asked = sampler.sample(20, nfe=25, last_step="nested", last_step_calls=3).provenance
    assert asked["energy_calls"] == 60 and asked["plan"]["density"] == expensive.density
    e = sampler.sample(400, nfe=5, seed=1)
    mean, error = e.mean_energy
    assert abs(mean + 42.92) < 4.5 * error
    # Standard error by the bootstrap; the plan's share is of some 128 samples.
    _, spread = bootstrap(e, lambda r: np.log((r.weights**2).sum()))
    assert abs(np.log(e.ess_fraction / plan.ess_fraction)) < 4.5 * spread * (1 + 400 / 128) ** 0.5 < 2
    assert abs(e.log_z - 59.86) < 4.5 * (e.log_z_err**2 + 0.03**2) ** 0.5


def test_an_expensive_energy_is_called_once_a_sample(lj13_sampler):
    """The checkpoint's plan is not for potentials without annealing in native code."""
    energy = Harmonic(13, 3, 1.0)
    energy.units, energy.elements = lj13_sampler.system.units, ("Ar",) * 13
    system = idem_md.System.of_energy(energy, centred(torch.randn(1, 13, 3, generator=generator()))[0].numpy())
    e = idem_md.Sampler(lj13_sampler.checkpoint, system).sample(12, nfe=3)
    assert e.provenance["energy_calls"] == 12 and e.provenance["last_step"] == "nested"


def test_moves_after_the_last_step_leave_averages_alone(lj13_samples):
    """A reminder of what `refine` rests on: MALA on u keeps the distribution."""
    energy = LennardJones(13, 2.0)
    run = run_mala(energy, lj13_samples.float(), 6e-4, 200, 1)
    assert stats.ks_2samp(run.u.numpy(), energy(lj13_samples)[0].numpy()).pvalue > 1e-4


def test_other_temperatures():
    """The same potential in units of another kT; a harmonic cluster and LJ-13, native and not, keep the contract."""
    system = idem_md.get_system("lj13")
    warm = system.at(1.25 * system.units.temperature_kelvin)
    assert warm.parameters == pytest.approx({"epsilon": 1.6, "r_min": 1.0, "trap": 0.8}) and warm.name == "lj13-74.875K"
    double = idem_md.get_system("dw4").at(600)
    x = standard_normal((5, 4, 2), generator())
    (u, f), (u_2, f_2) = idem_md.get_system("dw4").energy()(x), double.energy()(x)
    assert torch.allclose(u_2, u / 2) and torch.allclose(f_2, f / 2)
    assert idem_md.get_system("binary").at(100).energy().species == idem_md.get_system("binary").energy().species
    for bad in (0, -1.0, float("nan"), "hot"):
        with pytest.raises(UsageError, match="temperature_K: expected"):
            system.at(bad)
    e = idem_md.load_sampler("lj13").sample(30, nfe=4, last_step="plain", temperature_K=65)
    assert e.system.units.temperature_kelvin == 65 and e.provenance["parameters"]["epsilon"] == pytest.approx(
        119.8 / 65
    )
    x, u = (torch.from_numpy(a[e.alive]) for a in (e.positions, e.energies))
    assert torch.allclose(u, e.system.energy()(x)[0])


def test_moves_of_a_plan_can_be_changed():
    schedule = {"stages": 100, "power": 2.0, "moves": 2, "steps": [0.01]}
    plan = SamplingPlan("analytic", "annealed", 0.5, {"schedule": schedule, "chains": 1}, moves=30, move_step=0.01)
    assert isinstance(plan.build_last_step(), MovedLastStep) and SamplingPlan.of(plan.table()) == plan
    # A number of calls includes the moves.
    less = plan.changed(last_step_calls=80)
    assert less.moves == 10 and less.build_last_step().last_step.schedule.calls + less.moves <= 80
    few = plan.changed(last_step_calls=5)
    assert few.moves == 0 and few.build_last_step().schedule.calls <= 5
    assert plan.changed(last_step_calls=80, moves=0).moves == 0 and plan.changed(moves=7).moves == 7
    assert plan.changed(last_step="plain").moves == 0
    with pytest.raises(UsageError, match="moves"):
        plan.changed(moves=-1)
    with pytest.raises(UsageError, match="move_step: expected"):
        replace(plan, move_step=None).build_last_step()


def test_scan_and_forward(lj13_sampler):
    few = {"nfe": 4, "last_step_calls": 500}
    one, two = lj13_sampler.scan(100, [58, 62], **few, seed=1)
    assert (one.system.units.temperature_kelvin, two.system.units.temperature_kelvin) == (58, 62)
    assert not np.array_equal(one.positions, two.positions) and one.provenance["plan"]["moves"] == 62
    # The first temperature's samples are those of that temperature alone: the same streams.
    alone = lj13_sampler.sample(100, **few, seed=1, temperature_K=58)
    assert np.array_equal(alone.log_weights, one.log_weights) and np.array_equal(alone.positions, one.positions)
    for bad in ([], [58, 58.0], [-1]):
        with pytest.raises(UsageError, match="temperature"):
            lj13_sampler.scan(10, bad, **few)
    plan = SamplingPlan.of(one.provenance["plan"])
    assert plan.nfe == 4
    forward = lj13_sampler.forward(ENGINES["mala"].run("lj13", 50, 500), plan, n=20)
    assert forward.log_weights.shape == (20,) and 0 < forward.ess_fraction <= 1
    with pytest.raises(UsageError, match="samples: expected some of 'lj13'"):
        lj13_sampler.forward(one)
