"""One network for a range of temperatures: rungs, their samples, the network's input, and sampling between rungs."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import run as command

import idem_md
from idem_md import ConfigError, EnergyError, FileFormatError, UsageError
from idem_md.chains import ChainState
from idem_md.checkpoint import Checkpoint, Rung, build_denoiser, load_checkpoint, save_checkpoint
from idem_md.diffusion import DenoiserAccuracy, SamplingPlan
from idem_md.distillation import distill
from idem_md.energies import Harmonic, Scaled, bare
from idem_md.errors import TrainingWarning
from idem_md.geometry import standard_normal
from idem_md.nets import PaiNN
from idem_md.targets import Batch, BufferTarget, PosteriorTarget, mix_with_force
from idem_md.training import preset, run_samples, train
from idem_md.training.config import LadderConfig
from idem_md.training.first_buffer import FirstBuffer, starts_at_geometry
from idem_md.training.ladder import Ladder, first_ladder, respaced
from idem_md.training.loop import _draw_batch, init
from idem_md.training.moves import refinement
from idem_md.training.ranks import ALONE
from idem_md.training.resampling import renewed_by_weight, weighted_paths
from idem_md.tuning import HeadTraining, tune

TUNE = sys.modules["idem_md.tuning.tune"]  # the package has a function of that name
K, N = 4.0, 5
DIMENSION = 3 * (N - 1)
SETTINGS = {
    "network": {"channels": 16, "layers": 2, "n_basis": 12},
    "noise": {"sigma_min": 0.1, "sigma_max": 2.5},
    "target": {"name": "buffer"},
    "buffer": {"size": 1024, "fresh": 16, "relax_steps": 0, "warmup_steps": 400, "refine_steps": 20, "mala_step": 0.05},
    "optimizer": {"batch": 64, "inner_steps": 100, "iterations": 4, "warmup": 20, "learning_rate": 3e-3, "ema": 0.98},
    "ladder": {"coldest": 50.0, "hottest": 200.0, "moves": 5},
}


@pytest.fixture(scope="module")
def system():
    """A harmonic cluster at 100 K."""
    energy = Harmonic(N, 3, K)
    energy.units = idem_md.units.Units(length_angstrom=3.0, temperature_kelvin=100.0)
    energy.elements = ("Ar",) * N
    x = standard_normal((1, N, 3), torch.Generator().manual_seed(0))[0].numpy() * 3.0
    return replace(idem_md.System.of_energy(energy, x, "springs"), sigma_data=K**-0.5)


@pytest.fixture(scope="module")
def config():
    return idem_md.TrainingConfig.parse({"system": "springs", "seed": 2, **SETTINGS}, "test")


@pytest.fixture(scope="module")
def run(system, config, tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("ladder") / "run"
    train(config, folder, system=system)
    return folder


def exact_samples(ladder, ladders, seed=0):
    """Exact samples of a harmonic cluster at each temperature of a ladder, in its order."""
    beta = torch.tensor(ladder.betas).repeat(ladders)[:, None, None]
    x = standard_normal((ladders * len(ladder), N, 3), torch.Generator().manual_seed(seed)) / torch.sqrt(K * beta)
    return ChainState(x, *Harmonic(N, 3, K)(x))


def test_rungs_come_to_reject_as_many_swaps_everywhere():
    ladder = Ladder(tuple(np.geomspace(8.0, 0.5, 3).tolist()), 10)
    for seed in range(4):
        ladder, state = respaced(ladder, exact_samples(ladder, 800, seed), ALONE)
        assert len(state.u) % len(ladder) == 0 and len(state.u) > 2000
    assert ladder.betas[0] == pytest.approx(8.0) and ladder.betas[-1] == pytest.approx(0.5)
    u = exact_samples(ladder, 4000, 9).u.reshape(-1, len(ladder))
    rejected = []
    for k in range(len(ladder) - 1):
        ratio = (ladder.betas[k] - ladder.betas[k + 1]) * (u[:, k] - u[:, k + 1])
        rejected.append(float((1 - ratio.exp().clamp(max=1.0)).mean()))
    assert max(rejected) - min(rejected) < 0.06 and 0.35 < np.mean(rejected) <= 0.52, rejected


def test_samples_of_new_rungs_come_from_the_nearest_old_one():
    ladder = Ladder((4.0, 2.0, 1.0), 10)
    u = torch.arange(30.0).repeat_interleave(3) + torch.tensor([1000.0, 0.0, -1000.0]).repeat(30)
    state = ChainState(u[:, None, None].expand(-1, N, 3), u, u[:, None, None].expand(-1, N, 3))
    new, dealt = respaced(ladder, state, ALONE)
    by_rung = dealt.u.reshape(-1, len(new))
    for k, beta in enumerate(new.betas):
        source = min(range(3), key=lambda rung: abs(math.log(beta / ladder.betas[rung])))
        assert set(by_rung[:, k].tolist()) <= set(u[source::3].tolist())
    assert torch.equal(dealt.x[:, 0, 0], dealt.u)


def test_the_first_buffer_is_in_equilibrium_at_every_rung(config, system):
    energy = system.energy()
    state = init(config, system, energy)
    assert energy.calls <= config.buffer.size * (1 + 20 * 21)
    for _ in range(5):
        state.buffer.refine(energy, refinement(config, state), 100, 7)
    ladder, s = state.ladder, state.buffer.samples
    assert ladder.betas[0] == pytest.approx(2.0) and ladder.betas[-1] == pytest.approx(0.5)
    assert torch.allclose(energy(s.x)[0], s.u, rtol=1e-4, atol=1e-4) and len(s.u) % len(ladder) == 0
    scales = state.buffer.force_scales(len(ladder))
    for k, beta in enumerate(ladder.betas):
        u = s.u[k :: len(ladder)].double()
        z = (u.mean() - DIMENSION / 2 / beta) / ((DIMENSION / 2) ** 0.5 / beta / len(u) ** 0.5)
        assert abs(float(z)) < 5, (beta, z)
        assert scales[k] == pytest.approx((K / beta) ** -0.5, rel=0.15)
    # Rounds of about five moves; even pairs and odd.
    assert [ladder.rounds(n) for n in (0, 1, 5, 14, 16, 40)] == [(2, 1), (2, 1), (2, 3), (2, 7), (4, 4), (8, 5)]
    index = torch.arange(7)
    assert ladder.beta(index).tolist() == pytest.approx([ladder.betas[i % len(ladder)] for i in range(7)])


def test_samples_of_a_batch_are_from_the_coldest_rung_more_often(config, system):
    buffer = config.buffer.model_copy(update={"warmup_steps": 0, "size": 64})
    state = init(config.model_copy(update={"buffer": buffer}), system, system.energy())
    rungs, n, scales = len(state.ladder), 20_000, state.buffer.force_scales(len(state.ladder))
    index = torch.arange(64 // rungs * rungs).repeat(20_000 // 64 + 1)[:n]
    share = np.bincount(index % rungs) / n
    for cold in (0.0, 0.6, 1.0):
        moved = state.colder(index, cold)
        expected = (1 - cold) * share
        expected[0] += cold
        found = np.bincount(moved % rungs, minlength=rungs) / n
        assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + (cold == 0)).all(), found
        assert torch.equal(moved // rungs, index // rungs)
    assert torch.equal(state.colder(index, 0.0), index)
    cold = config.model_copy(update={"ladder": config.ladder.model_copy(update={"cold": 1.0})})
    assert bool((_draw_batch(cold, system.energy(), state, 64, scales).beta == state.ladder.betas[0]).all())
    state.generator.manual_seed(5)
    beta = _draw_batch(config, system.energy(), state, 64, scales).beta
    index = state.buffer.drawn(64, torch.Generator().manual_seed(5))
    assert torch.equal(beta, state.ladder.beta(index))  # without, the random numbers are what they were


class Exact:
    """The denoiser of a harmonic cluster at an inverse temperature."""

    def __init__(self, log_beta=0.0):
        self.beta = math.exp(log_beta)

    def at(self, log_beta):
        return Exact(log_beta)

    def __call__(self, x, sigma):
        return x / (1 + self.beta * K * sigma**2)[:, None, None]


def test_weights_renew_the_walkers_of_a_rung(config, system):
    """With its shares of equilibrium, whatever the buffer holds; all other samples stay."""
    buffer = config.buffer.model_copy(update={"size": 2048, "walkers": 1024})
    config, energy = config.model_copy(update={"buffer": buffer}), system.energy()
    state = init(config, system, energy)
    state.ema, s, rungs = Exact(), state.buffer.samples, len(state.ladder)
    shifted = 1.3 * s.x
    state.buffer.samples = ChainState(shifted, *energy(shifted))
    for rung in (0, rungs - 1):
        before, beta = state.buffer.samples.u.clone(), state.ladder.betas[rung]
        paths = weighted_paths(config, energy, state, 4000, rung)
        share = renewed_by_weight(energy, paths, state.buffer.walkers // rungs, state, rung)
        assert share.ess > 400 and abs(share.mean_energy - DIMENSION / 2 / beta) < 4.5 * share.error
        s = state.buffer.samples
        changed = torch.nonzero(s.u != before).flatten()
        assert set(changed.tolist()) == set(state.buffer.newest[rung::rungs].tolist()), (rung, len(changed))
        assert torch.allclose(energy(s.x)[0], s.u)
        u, expected = s.u[changed].double(), DIMENSION / 2 / beta
        error = (DIMENSION / 2) ** 0.5 / beta * (1 / len(u) + 1 / share.ess) ** 0.5
        assert abs(float(u.mean()) - expected) < 5 * error


@pytest.mark.parametrize("kind", [BufferTarget, PosteriorTarget])
def test_targets_are_those_of_each_temperature(kind):
    """Posterior means of a harmonic cluster: x_t / (1 + beta K sigma^2)."""
    b, sigma = 6000, 0.5
    beta = torch.tensor([0.5, 2.0]).repeat_interleave(b // 2).double()
    generator, energy = torch.Generator().manual_seed(3), Harmonic(N, 3, K)
    x_t = standard_normal((1, N, 3), generator).expand(b, -1, -1)
    precision = (beta * K + sigma**-2)[:, None, None]
    exact = x_t / sigma**2 / precision
    x_0 = exact + precision**-0.5 * standard_normal(x_t.shape, generator)
    f_0 = beta[:, None, None] * energy(x_0)[1]
    # A force scale that switches the mix off lets the mean be seen; the right one makes it exact.
    for scale in (1e-6, (beta * K)[:, None, None] ** -0.5):
        batch = Batch(x_t, torch.full((b,), sigma).double(), x_0, f_0, scale, 0.05, beta)
        target = kind(kind.Options(name="test", **({} if kind is BufferTarget else {"chain_steps": 10})))
        found = target(energy, batch, torch.Generator().manual_seed(4))
        for half in (slice(0, b // 2), slice(b // 2, b)):
            error = (found - exact)[half]
            assert float((error.mean(0) / (error.std(0) / (b // 2) ** 0.5 + 1e-9)).abs().max()) < 5
    assert (mix_with_force(x_t, batch.sigma, x_0, f_0, scale) - exact).abs().max() < 1e-9


def test_the_network_takes_the_temperature():
    torch.manual_seed(0)
    net = PaiNN(channels=16, layers=2, n_basis=12)
    x, log_sigma = torch.randn(4, 5, 3), torch.linspace(-2, 1, 4)
    plain = net(x, log_sigma)
    net.add_temperature()
    for layer in net.film:
        torch.nn.init.normal_(layer.weight, std=0.1)
    before = net(x, log_sigma)
    assert torch.equal(net(x, log_sigma, log_beta_B=torch.ones(4)), before) and plain.shape == before.shape
    torch.nn.init.normal_(net.temperature.mlp[-1].weight, std=0.1)
    cold, hot = (net(x, log_sigma, log_beta_B=torch.full((4,), b)) for b in (1.0, -1.0))
    assert (cold - hot).abs().max() > 1e-3
    each = net(x, log_sigma, log_beta_B=torch.tensor([1.0, -1.0, 1.0, -1.0]), native=False)
    expected = torch.stack([cold[0], hot[1], cold[2], hot[3]])
    assert (each - expected).abs().max() < 1e-5 * expected.abs().max()


def test_networks_without_the_input_are_refused(system):
    options = idem_md.TrainingConfig.parse({"system": "springs", "network": {"name": "egnn"}}, "test").network
    with pytest.raises(UsageError, match="network.name: expected one that takes the temperature.*got 'egnn'"):
        build_denoiser(options, system, True)


def test_a_checkpoint_knows_its_range(system, config, tmp_path):
    torch.manual_seed(0)
    denoiser = build_denoiser(config.network, system, True).eval().requires_grad_(False)
    plans = [{"diffusion": {6: SamplingPlan("ddpm", "plain", sigma_1=s, nfe=6)}} for s in (0.1, 0.2, 0.3)]
    rungs = tuple(
        Rung(kelvin, DenoiserAccuracy((0.1, 1.0), mse), plan, planned_at=min(kelvin, 100.0))
        for kelvin, mse, plan in zip((50.0, 100.0, 200.0), ((0.001, 0.1), (0.004, 0.1), (0.016, 0.2)), plans)
    )
    known = Checkpoint(denoiser, rungs[1].accuracy, config.model_dump(), system, {}, plans=plans[1], rungs=rungs)
    save_checkpoint(tmp_path / "model.safetensors", known)
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert found.rungs == rungs and found.plans == plans[1] and found.own_rung == 1
    assert found.log_betas.tolist() == pytest.approx([math.log(2), 0, -math.log(2)])
    between = found.at(100 * 2**0.25)
    assert between.accuracy(0.1) == pytest.approx(0.004 * 4**0.25) and between.plans == plans[1]
    assert found.at(180.0).plans == plans[2] and found.at(50.0).accuracy == rungs[0].accuracy
    assert float(between.denoiser.log_beta) == pytest.approx(-math.log(2) / 4)
    assert float(found.denoiser.log_beta) == 0.0 and between.denoiser.net is found.denoiser.net
    assert [found.at(kelvin).tuned_here for kelvin in (50.0, 77.0, 100.0, 200.0)] == [True, False, True, False]
    assert found.tuned_here and idem_md.load_sampler("lj13").checkpoint.tuned_here
    for kelvin in (49.0, 201.0):
        message = f"temperature_K: expected one from 50 to 200 K, for which the network was trained, got {kelvin:g}"
        with pytest.raises(UsageError, match=message):
            found.at(kelvin)
    save_checkpoint(
        tmp_path / "foreign.safetensors", replace(known, rungs=(replace(rungs[0], planned_at="x"), rungs[1]))
    )
    with pytest.raises(FileFormatError, match="does not describe a model"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match="expected a network for a range of temperatures"):
        idem_md.load_sampler("lj13").checkpoint.at(60.0)


@pytest.mark.slow
def test_one_network_samples_every_temperature(run, system):
    """Mean energies and log Z of a harmonic cluster, at rungs and between them."""
    sampler = idem_md.load_sampler(run, system)
    assert sampler.temperatures_K == pytest.approx((50.0, 200.0))
    kelvins = [50.0, 77.0, 100.0, 200.0]
    for kelvin, e in zip(kelvins, sampler.scan(600, kelvins, seed=1, nfe=10)):
        mean, error = e.mean_energy
        assert e.ess_fraction > 0.3 and e.provenance["energy_calls"] == 600
        assert abs(mean - DIMENSION / 2) < 5 * error + 1e-9, (kelvin, mean, error)
        exact = DIMENSION / 2 * math.log(2 * math.pi * kelvin / (100.0 * K))
        assert abs(e.log_z - exact) < 5 * e.log_z_err + 1e-9, (kelvin, e.log_z, exact)
    one = sampler.sample(600, seed=1, nfe=10, temperature_K=77.0)
    assert np.array_equal(one.positions, sampler.at(77.0).sample(600, seed=1, nfe=10).positions)
    more = sampler.extend(one, 100)
    assert len(more) == 700 and more.system.name == one.system.name
    assert np.array_equal(sampler.at(150.0).extend(one, 100).positions, more.positions)
    with pytest.raises(UsageError, match="ensemble: expected the same system"):
        idem_md.Sampler(load_checkpoint(run / "model.safetensors"), system.at(150.0)).extend(one, 100)
    own = sampler.at(60.0).extend(sampler.sample(100, seed=1, nfe=10), 20)
    assert len(own) == 120 and own.system.units.temperature_kelvin == 100.0
    again = idem_md.Sampler(load_checkpoint(run / "model.safetensors"), system.at(77.0)).sample(600, seed=1, nfe=10)
    assert np.array_equal(one.positions, again.positions)
    with pytest.raises(UsageError, match="from 50 to 200 K"):
        sampler.sample(10, temperature_K=300.0)
    assert sampler.so_far() == []
    whole = load_checkpoint(run / "model.safetensors")
    with pytest.raises(UsageError, match="checkpoint: expected a network for a single temperature"):
        distill(whole, run / "flow.safetensors")
    part, message = whole.at(77.0), "checkpoint: expected one for the whole range.*got that at 77 K"
    with pytest.raises(UsageError, match=message):
        save_checkpoint(run / "part.safetensors", part)
    with pytest.raises(UsageError, match=message):
        tune(part, torch.tensor(one.positions), run / "part.safetensors", system=system)


@pytest.mark.slow
def test_an_interrupted_scan_keeps_the_temperatures_that_are_done(run, system):
    sampler, told = idem_md.load_sampler(run, system), []

    def tell(log_weights):
        told.append(len(log_weights))
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.scan(20, [60.0, 80.0, 100.0, 120.0], seed=1, nfe=10, progress=tell)
    kept = sampler.so_far()
    assert [e.system.units.temperature_kelvin for e in kept][:2] == [60.0, 80.0] and len(kept) in (2, 3)


@pytest.mark.slow
def test_every_rung_gets_plans_by_its_own_samples(run, system, monkeypatch, tmp_path):
    """And heads learn from all of them."""
    samples, seen = run_samples(run), []

    def tune_plans(checkpoint, energy, x, nfes, seed, on_plan, measured, search):
        u = energy(x)[0].double()
        seen.append((checkpoint.system.units.temperature_kelvin, float(u.mean() / (DIMENSION / 2)), nfes))
        plan = SamplingPlan("analytic", "plain", sigma_1=0.1 + 0.001 * len(seen), nfe=8)
        return replace(checkpoint, plans={"diffusion": {8: plan}})

    monkeypatch.setattr(TUNE, "tune_plans", tune_plans)
    monkeypatch.setattr(TUNE, "LEVEL_SAMPLES", 12)
    checkpoint = load_checkpoint(run / "model.safetensors")
    heads = HeadTraining(steps=30, batch=16)
    tuned = tune(checkpoint, samples, tmp_path / "m.safetensors", system=system, heads=heads, pilot=200)
    kelvins = [rung.kelvin for rung in tuned.rungs]
    planned = sorted({tuned.own_rung, len(kelvins) - 1, *range(0, len(kelvins), TUNE.PLANNED_EVERY)})
    assert [kelvin for kelvin, _, _ in seen] == pytest.approx([kelvins[k] for k in planned])
    assert set(seen[0][2].values()) == {TUNE.RUNG_NFES}
    assert all(abs(ratio - 1) < 0.25 for _, ratio, _ in seen)  # in kT of each
    found = [rung.plans["diffusion"][8].sigma_1 for rung in tuned.rungs]
    below = [max(k for k in range(len(planned)) if planned[k] <= rung) for rung in range(len(kelvins))]
    assert found == pytest.approx([0.101 + 0.001 * k for k in below])
    assert tuned.plans == tuned.rungs[tuned.own_rung].plans and tuned.denoiser.has("elastic_network")
    assert all(rung.expensive is not None for rung in tuned.rungs)
    assert idem_md.Sampler(tuned, system).at(60.0).plan().nfe == 25  # few calls for a potential that is not native


@pytest.mark.slow
def test_the_log_tells_of_swaps(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(0.3 < entry["swaps"] < 0.9 for entry in entries)
    assert all(entry["raw_median_energy"] is not None for entry in entries[1:])


def test_ranges_must_hold_the_own_temperature(config, system):
    for low, high in ((20.0, 90.0), (110.0, 300.0)):
        other = config.model_copy(update={"ladder": LadderConfig(coldest=low, hottest=high)})
        with pytest.raises(UsageError, match="temperatures: expected a range that has the system's own 100 K in it"):
            first_ladder(other, system, 64)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"ladder": {"coldest": 70.0, "hottest": 70.0}}, "ladder.coldest: expected less than ladder.hottest = 70"),
        ({"target": {"name": "dem", "n_samples": 8}}, "target.name: expected one of buffer, posterior with a ladder"),
        (
            {"buffer": {"train_on": "prior"}, "target": {"name": "buffer"}},
            "buffer.train_on: expected 'buffer'",
        ),
    ],
)
def test_settings_that_a_ladder_would_ignore_are_errors(change, message):
    table = {"system": "lj13", "ladder": {"coldest": 40.0, "hottest": 70.0}, **change}
    with pytest.raises(ConfigError, match=message):
        idem_md.TrainingConfig.parse(table, "test")


@pytest.mark.parametrize("value", [30.0, (20.0,), (20.0, 70.0, 100.0), (70.0, 20.0), ("a", "b")])
def test_ranges_are_two_numbers(value):
    with pytest.raises(UsageError, match="temperatures: expected"):
        preset("lj13", temperatures=value)


def test_atoms_of_one_kind_have_nothing_to_exchange(config, system):
    buffer = config.buffer.model_copy(update={"exchanges": 2})
    with pytest.raises(UsageError, match="buffer.exchanges: expected 0 for 'springs', all of one kind, got 2"):
        init(config.model_copy(update={"buffer": buffer}), system, system.energy())


def test_presets_take_a_range():
    config = preset("lj13", "frugal", temperatures=(20.0, 70.0))
    assert config.ladder == LadderConfig(coldest=20.0, hottest=70.0, moves=10, cold=0.5)
    assert config.buffer.weighted == 1024
    assert Ladder((1.0, 0.5), config.ladder.moves).rounds(config.buffer.refine_steps) == (2, 13)
    assert config.optimizer.iterations == 2 * preset("lj13", "frugal").optimizer.iterations
    assert preset("lj13", temperatures=(20.0, 70.0)).ladder.moves == 10
    assert preset("lj13").ladder is None
    assert preset("lj13", "frugal").buffer.exchanges == 0 < preset("binary", "frugal").buffer.exchanges
    binary = idem_md.get_system("binary")
    assert preset(replace(binary, labels=binary.kinds), "frugal").buffer.exchanges > 0
    assert preset(replace(binary, labels=tuple(range(binary.n_atoms))), "frugal").buffer.exchanges == 0


def test_a_training_starts_at_the_geometry_if_the_potential_fails_on_noise(config, system):
    """Noise that is not relaxed is farther from the centroid than any atom of the geometry."""
    limit = 0.4 + max(np.linalg.norm(np.array(system.geometry), axis=1))

    class Fails(Harmonic):
        def evaluate(self, x):
            if float(x.norm(dim=-1).max()) > limit:
                raise EnergyError("configuration 0 failed: RuntimeError: SCF did not converge", 0)
            return super().evaluate(x)

    buffer = config.buffer.model_copy(update={"warmup_steps": 0, "size": 64})
    alone, wide = config.model_copy(update={"buffer": buffer, "ladder": None}), replace(system, sigma_data=limit)
    with pytest.warns(TrainingWarning, match="training starts near the geometry, as the potential fails on noise"):
        x = init(alone, wide, Fails(N, 3, K)).buffer.samples.x
    assert (x - torch.tensor(system.geometry)).pow(2).mean().sqrt() < 0.15
    noise = alone.model_copy(update={"buffer": buffer.model_copy(update={"start": "noise"})})
    with pytest.raises(EnergyError, match="SCF did not converge"):
        init(noise, wide, Fails(N, 3, K))


def test_molecules_start_at_their_geometry(config, system):
    """Walkers start at the geometry by default where a ladder brings them elsewhere, or where it is asked for."""

    def starting(start, ladder=True):
        buffer = config.buffer.model_copy(update={"start": start, "warmup_steps": 0, "size": 64})
        return config.model_copy(update={"buffer": buffer} | ({} if ladder else {"ladder": None}))

    molecule = replace(system, elements=("C",) * N)
    cases = [(system, "auto", True), (molecule, "auto", True), (molecule, "auto", False), (system, "geometry", False)]
    assert [starts_at_geometry(starting(start, ladder), s) for s, start, ladder in cases] == [False, True, False, True]
    assert not starts_at_geometry(starting("noise"), molecule)
    with pytest.raises(UsageError, match="buffer.start: expected 'noise' for 'springs', which has no geometry"):
        starts_at_geometry(starting("geometry"), replace(system, geometry=None))
    x = init(starting("auto"), molecule, system.energy()).buffer.samples.x
    apart = (x - torch.tensor(system.geometry)).pow(2).mean().sqrt()
    assert 0.05 < apart < 0.15 and x.mean(1).abs().max() < 1e-6  # sigma_min is 0.1


@pytest.mark.slow
def test_on_the_command_line(tmp_path, tiny_toml):
    (tmp_path / "tiny.toml").write_text(tiny_toml(2) + "\n[ladder]\ncoldest = 40.0\nhottest = 70.0\n")
    command("train", "tiny.toml", "--out", "run", "--elastic-network-steps", 0, cwd=tmp_path)
    kelvins = json.loads(command("info", "run", "--json", cwd=tmp_path).stdout)["temperatures_K"]
    assert kelvins[0] == 40.0 and kelvins[-1] == 70.0 and kelvins == sorted(kelvins)
    asked = ("scan", "run", "-n", 8, "--nfe", 4, "--json")
    found = json.loads(command(*asked, "--temperatures", "45,60", "--out", "f.dcd", cwd=tmp_path).stdout)[
        "temperatures"
    ]
    assert [entry["temperature_K"] for entry in found] == [45.0, 60.0] and (tmp_path / "f-45K.dcd").exists()
    assert "from 40 to 70 K" in command("sample", "run", "-n", 8, "--temperature", 80, cwd=tmp_path, code=2).stderr
    words = ("train", "lj13", "--out", "other", "--temperatures")
    assert "the lowest and the highest, got '20,30,40'" in command(*words, "20,30,40", cwd=tmp_path, code=2).stderr
    assert "the system's own 59.9 K in it, got 20 to 30" in command(*words, "20,30", cwd=tmp_path, code=2).stderr
    both = ("train", "tiny.toml", "--out", "other", "--temperatures", "40,70")
    assert "temperatures: expected a range in the table [ladder]" in command(*both, cwd=tmp_path, code=2).stderr


def test_the_calls_of_the_first_buffer_are_those_that_are_made(config, system):
    """Whatever the steps that a ladder rounds up."""
    for steps in (0, 20, 580, 980):
        buffer = config.buffer.model_copy(update={"warmup_steps": steps, "size": 64})
        settings = config.model_copy(update={"buffer": buffer})
        energy = system.energy()
        init(settings, system, energy)
        assert energy.calls <= FirstBuffer.of(settings, system, ALONE).calls


def test_what_a_scaled_energy_is_of():
    energy = Harmonic(4, 3, 1.0)
    assert bare(Scaled(Scaled(energy, 2.0), 0.5)) is energy and bare(energy) is energy
