"""Targets, configuration, checkpoints, and runs that stop, resume and repeat."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import idem_md
from idem_md import BudgetExhausted, ConfigError, FileFormatError, UsageError, load_sampler, train
from idem_md.chains import MALA, ChainState, posterior_mean, relax
from idem_md.checkpoint import save_checkpoint, weights_digest
from idem_md.diffusion import KERNELS, Paths, SamplingPlan, level_density
from idem_md.energies import Harmonic, LennardJones
from idem_md.geometry import centred, standard_normal
from idem_md.systematic import systematic_indices
from idem_md.targets import TARGETS, Batch, DemTarget, MixedTarget, PosteriorTarget, mix_with_force
from idem_md.training import load_checkpoint, load_config, preset
from idem_md.training.accuracy import measure_accuracy
from idem_md.training.config import BufferConfig, LadderConfig
from idem_md.training.loop import init
from idem_md.training.optimisers import schedule
from idem_md.training.resampling import out_of_equilibrium, renewed_by_weight, weighted_paths
from idem_md.training.ring import RingBuffer

K = 4.0


@pytest.fixture(scope="module")
def gaussian():
    """Harmonic cluster: samples x_0 given one x_t from the exact posterior, and the exact denoiser."""
    b, sigma = 20_000, 0.4
    x_t = centred(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 4, 3)).expand(b, -1, -1)
    precision = K + sigma**-2
    exact = x_t / sigma**2 / precision
    x_0 = exact + precision**-0.5 * standard_normal(x_t.shape, torch.Generator().manual_seed(0))
    return Harmonic(4, 3, K), x_t, torch.full((b,), sigma, dtype=torch.float64), x_0, exact


def z_score(target, exact):
    return ((target - exact).mean(0) / (target.std(0) / len(target) ** 0.5)).abs().max()


def test_buffer_target_is_unbiased_and_quieter(gaussian):
    energy, x_t, sigma, x_0, exact = gaussian
    target = mix_with_force(x_t, sigma, x_0, energy(x_0)[1], K**-0.5)
    # For a Gaussian the mix at s = K^-1/2 is the posterior mean itself.
    assert (target - exact).abs().max() < 1e-9
    assert z_score(x_0, exact) < 4.5


def test_posterior_target_is_unbiased_and_quieter(gaussian):
    energy, x_t, sigma, x_0, exact = (a[:2000] if isinstance(a, torch.Tensor) else a for a in gaussian)
    # A wrong force scale switches the mix off (c ~ 0), so the averaging itself is tested.
    options = PosteriorTarget.Options(name="posterior", chains=4, chain_steps=20)
    batch = Batch(x_t, sigma, x_0, energy(x_0)[1], 1e-6, 0.1)
    target = PosteriorTarget(options)(energy, batch, torch.Generator().manual_seed(1))
    assert z_score(target, exact) < 4.5
    assert target.std(0).mean() < 0.5 * x_0.std(0).mean()
    assert 0.3 < posterior_mean(energy, x_t, sigma, x_0, 0.1, 4, 20, 1).acceptance.mean() < 1


def importance_target(kind, energy, x_t, sigma, n_samples, seed, **options):
    batch = Batch(x_t, sigma, x_t * torch.nan, x_t * torch.nan, torch.nan, torch.nan)  # it may look at none of these
    target = kind(kind.Options(name="test", n_samples=n_samples, **options))
    return target(energy, batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [DemTarget, MixedTarget])
def test_importance_targets_converge(gaussian, kind):
    energy, x_t, sigma, _, exact = gaussian
    target = importance_target(kind, energy, x_t[:50], sigma[:50], 4000, seed=2)
    assert (target.mean(0) - exact[0]).abs().max() < 0.01
    assert target.std() < 0.5


def test_mixed_target_is_quieter_than_both(lj13_samples):
    """At sigma = 0.1 on LJ-13 the paper's estimator is noise; the mix follows the better one."""
    energy = LennardJones(13, epsilon=2.0)
    x = (lj13_samples[:64] + 0.1 * standard_normal((64, 13, 3), torch.Generator().manual_seed(0))).float()
    sigma = torch.full((64,), 0.1)
    spread = {}
    for name, kind in (("dem", DemTarget), ("mixed", MixedTarget)):
        a, b = (importance_target(kind, energy, x, sigma, 256, seed) for seed in (1, 2))
        spread[name] = (a - b).std()
    assert spread["mixed"] < 0.5 * spread["dem"]


def test_score_clipping():
    energy = LennardJones(13, epsilon=2.0)
    x = 0.3 * standard_normal((4, 13, 3), torch.Generator().manual_seed(0), torch.float32)
    sigma = torch.full((4,), 0.05)
    target = importance_target(DemTarget, energy, x, sigma, 64, 0, max_score_norm=20.0)
    norm = ((target - x) / sigma[:, None, None] ** 2).norm(dim=-1)
    assert (norm <= 20.01).all() and (norm > 19).any()


def test_relax_leaves_ordinary_samples_alone(lj13_samples):
    energy = LennardJones(13, epsilon=2.0)
    x = lj13_samples[:8].clone()
    x[0, 1] = x[0, 0] + 0.02
    before = x.clone()
    y = relax(energy, x, 200, ceiling=0.0)
    assert torch.equal(x, before)
    assert torch.allclose(y[1:], x[1:], atol=1e-6) and energy(y)[0][0] <= 0


def test_step_size_schedule():
    config = preset("lj13")
    o = config.optimizer
    last = o.iterations * o.inner_steps
    rates = [schedule(o, o.iterations, s) for s in range(last)]
    start = int((1 - o.decay_fraction) * last)
    assert rates[o.warmup] == 1 == rates[start]
    assert rates[-1] == pytest.approx(0.01, rel=0.01)
    assert all(a >= b for a, b in zip(rates[start:], rates[start + 1 :]))


def weights(folder):
    return load_checkpoint(folder / "model.safetensors").denoiser.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "optimizer,buffer,ladder",
    [
        ({}, {}, None),
        ({"name": "muon", "precision": "bf16"}, {}, LadderConfig(coldest=40.0, hottest=70.0)),
        ({}, {"size": 40, "walkers": 16}, None),
        (
            {},
            {"size": 40, "walkers": 16, "exchanges": 2, "weighted": 128},
            LadderConfig(coldest=40.0, hottest=59.9, moves=3),
        ),
        ({}, {"size": 40, "walkers": 16, "weighted": 128}, None),
    ],
    ids=["adam", "ladder, muon", "walkers", "ladder, walkers", "weighted"],
)
def test_interrupted_and_resumed_is_bit_for_bit(tiny, tmp_path, monkeypatch, optimizer, buffer, ladder):
    for name in ("ACCURACY_SAMPLES", "LEVEL_SAMPLES"):
        monkeypatch.setattr(f"idem_md.training.resampling.{name}", 4)
    monkeypatch.setattr("idem_md.training.resampling.LEAST_EFFECTIVE", 1.0)
    tiny = tiny.model_copy(
        update={
            "optimizer": tiny.optimizer.model_copy(update=optimizer),
            "buffer": tiny.buffer.model_copy(update=buffer),
            "ladder": ladder,
            "system": "binary" if "exchanges" in buffer else "lj13",
        }
    )
    train(tiny, tmp_path / "whole")
    for steps in (3, 9):  # within the first iteration, and in the third
        folder = tmp_path / f"stopped{steps}"
        seen = []
        options = {"stop": lambda seen=seen, n=steps: len(seen) >= n, "on_step": lambda seen=seen: seen.append(1)}
        if steps < 4:
            with pytest.raises(BudgetExhausted, match="before the first iteration"):
                train(tiny, folder, **options)
        else:
            checkpoint = train(tiny, folder, **options)
            assert not checkpoint.provenance["finished"] and checkpoint.provenance["iterations"] == steps // 4
        checkpoint = train(tiny, folder, resume=True)
        assert checkpoint.provenance["finished"]
        assert same(weights(tmp_path / "whole"), weights(folder))
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [entry["iteration"] for entry in log] == list(range(5))


def test_a_buffer_of_one_mode_gets_the_shares_of_all():
    """The weights of a network that knows all modes set shares, whatever the buffer holds."""
    config = preset("gmm40").model_copy(update={"buffer": BufferConfig(size=400, fresh=400, warmup_steps=0)})
    sampler = load_sampler("gmm40")
    energy = sampler.system.energy()
    state = init(config, sampler.system, energy)
    state.ema = sampler.checkpoint.denoiser
    x = (energy.means[7] + torch.randn(400, 1, 2, generator=state.generator, dtype=torch.float64)).float()
    state.buffer.samples = ChainState(x, *energy(x))
    before = energy.calls
    paths = weighted_paths(config, energy, state, 4000)
    share = renewed_by_weight(energy, paths, 400, state)
    assert share.ess > 1000 and len(state.buffer) == 400 and energy.calls <= before + 4400
    assert abs(share.mean_energy - sampler.system.exact_mean_energy[0]) < 4.5 * share.error < 0.3
    s = state.buffer.samples
    assert torch.equal(s.u, energy(s.x)[0]) and torch.equal(s.f, energy(s.x)[1])
    # Whether its mode is one of the first twenty: a half, twice at random, by paths and by drawing among them.
    first = (torch.cdist(s.x[:, 0].double(), energy.means).argmin(1) < 20).double().mean()
    assert abs(float(first) - 0.5) < 4.5 * (0.25 / share.ess + 0.25 / 400) ** 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda w: sum(w) > 0.01), st.integers(1, 60))
def test_drawing_by_weight_takes_each_as_often_as_its_weight_says(weights, n):
    w = np.array(weights)
    chosen = systematic_indices(w, n, np.random.default_rng(n).random())
    expected = n * w / w.sum()
    counts = np.bincount(chosen, minlength=len(w))
    assert counts.sum() == n and (np.abs(counts - expected) < 1 + 1e-9).all()


def test_weights_of_which_hardly_any_count_renew_nothing():
    energy = LennardJones(13, epsilon=2.0, r_min=1.0, trap=1.0)
    x = torch.zeros(30, 13, 3, dtype=torch.float64)
    u = torch.arange(30.0, dtype=torch.float64)
    for log_w, ess in (
        (torch.full((30,), -torch.inf), 0.0),
        (torch.where(u < 15, 0.0, -torch.inf), 15.0),
        (-1000 * u, 1.0),
    ):
        share = renewed_by_weight(energy, Paths(x, u, log_w.double(), 25, 0), 30, None)
        assert not share.enough and share.ess == pytest.approx(ess) and energy.calls == 0


def test_rare_overflows_of_the_network_leave_levels_and_accuracy_alone():
    config = preset("gmm40").model_copy(update={"buffer": BufferConfig(size=64, fresh=16, warmup_steps=0)})
    system = idem_md.get_system("gmm40")
    state = init(config, system, system.energy())

    def overflowing(x, sigma):
        return torch.where(x > x.quantile(0.99), torch.inf, 0 * x)

    state.ema = overflowing
    accuracy = measure_accuracy(config, state, 5, 64)
    assert 0 < min(accuracy.mse) and max(accuracy.mse) < 1e4
    x = state.buffer.samples.x.double()
    assert set(level_density(KERNELS["ddpm"](overflowing, accuracy), x, 0.1, 50.0, 0)) == {1.0}


def test_a_buffer_out_of_equilibrium_is_told():
    def log(buffer, known=True, n=40):
        generator = np.random.default_rng(0)
        return [
            {
                "buffer_mean_energy": buffer + 0.01 * generator.normal(),
                "weighted_mean_energy": 3.7 + 0.25 * generator.normal() if known else None,
                "weighted_mean_energy_err": 0.25,
            }
            for _ in range(n)
        ]

    assert "its mean energy is 4.36 kT, that of fresh samples by weight 3.67 +- 0.08 kT" in out_of_equilibrium(
        log(4.35)
    )
    for entries in (log(3.72), log(4.35, known=False), log(4.35, n=15), [{"buffer_mean_energy": 4.0}] * 40, []):
        assert out_of_equilibrium(entries) is None


def numbered(*numbers):
    """States that know their number."""
    u = torch.tensor(numbers, dtype=torch.float32)
    x = u[:, None, None] * torch.tensor([1.0, -1.0, 0.0, 0.0])[:, None].expand(-1, 3)
    return ChainState(x, u, x.clone())


def test_ring_keeps_the_newest_and_carries_on_the_walkers():
    ring = RingBuffer(numbered(0, 1), size=5, walkers=2)
    for k in range(2, 9, 2):
        ring.append(numbered(k, k + 1))
        assert len(ring) == min(k + 2, 5)
        assert sorted(ring.samples.u.tolist()) == list(range(max(0, k - 3), k + 2))
        assert torch.equal(ring.samples.x[:, 0, 0], ring.samples.u)
    energy = Harmonic(4, 3, K)
    ring.refine(energy, MALA(1e-5), 1, seed=0)
    # 9 and 8 have gone on, by next to nothing, in the place of 5 and 6.
    assert sorted(ring.samples.x[:, 0, 0].round().tolist()) == [7, 8, 8, 9, 9]
    assert ring.put(energy, standard_normal((3, 4, 3), torch.Generator().manual_seed(0), torch.float32)) == 3
    assert energy.calls == 2 * 2 + 3  # a run of chains begins with the energy of where it starts


def test_the_oldest_walkers_make_room_for_new_ones():
    """Round by round: those that came last stay, wherever their chains have gone."""
    ring, came = RingBuffer(numbered(*range(8)), size=24, walkers=8), list(range(8))
    for k in range(8, 40, 2):
        ring.refine(Harmonic(4, 3, K), MALA(1e-6), 1, seed=k)
        ring.append(numbered(k, k + 1))
        came += [k, k + 1]
        newest = (ring.next - 8 + torch.arange(8)) % len(ring) if len(ring) == 24 else slice(len(ring) - 8, None)
        assert ring.samples.x[newest, 0, 0].round().tolist() == came[-8:]


def test_resuming_what_is_finished_keeps_what_came_after(tiny, tmp_path):
    """Heads and plans of the same network; another one has none."""
    trained = train(tiny, tmp_path)
    tuned = replace(
        trained, expensive=SamplingPlan("ddpm", "plain", 0.01), provenance=trained.provenance | {"tuned": True}
    )
    save_checkpoint(tmp_path / "model.safetensors", tuned)
    again = train(tiny, tmp_path, resume=True)
    assert again.expensive == tuned.expensive and again.provenance["tuned"] and again.provenance["finished"]
    assert train(tiny, tmp_path, overwrite=True).expensive is None


def test_first_buffer_holds_what_the_walkers_saw(tiny, tmp_path):
    small = {"size": 64, "walkers": 16, "fresh": 4, "warmup_steps": 40}
    config = tiny.model_copy(update={"buffer": tiny.buffer.model_copy(update=small)})
    system = idem_md.get_system("lj13")
    energy = system.energy()
    state = init(config, system, energy)
    samples = state.buffer.samples
    assert len(state.buffer) == 64 and len(samples.u.unique()) > 48
    assert torch.allclose(energy(samples.x)[0], samples.u, rtol=1e-4, atol=1e-3)
    assert energy.calls - 64 == 16 * (config.buffer.relax_steps + 1 + 20 * 3)


def test_same_seed_same_weights(tiny, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tiny.model_copy(update={"seed": seed}), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_energy_budget_is_a_hard_limit(tiny, tmp_path):
    free = train(tiny, tmp_path / "free").provenance["energy_calls"]
    checkpoint = train(tiny, tmp_path / "bound", max_energy_calls=free - 1)
    assert checkpoint.provenance["energy_calls"] < free
    with pytest.raises(BudgetExhausted, match="budget of 100"):
        train(tiny, tmp_path / "poor", max_energy_calls=100)
    assert not (tmp_path / "poor").exists()


def test_an_abandoned_iteration_is_paid_for(tiny, tmp_path):
    free = train(tiny, tmp_path / "free").provenance["energy_calls"]
    seen = 0

    def step():
        nonlocal seen
        seen += 1

    part = train(tiny, tmp_path / "part", stop=lambda: seen >= 6, on_step=step).provenance["energy_calls"]
    whole = train(tiny, tmp_path / "part", resume=True).provenance["energy_calls"]
    assert part < whole and whole > free


def test_a_run_resumes_with_its_own_system_only(tiny, tmp_path):
    seen = []
    train(tiny, tmp_path / "run", stop=lambda: len(seen) >= 6, on_step=lambda: seen.append(1))
    other = replace(idem_md.get_system("lj13"), sigma_data=0.9)
    with pytest.raises(ConfigError, match="sigma_data was 0.68"):
        train(tiny, tmp_path / "run", system=other, resume=True)
    train(tiny, tmp_path / "run", resume=True)


def test_no_model_without_an_iteration(tiny, tmp_path):
    free = train(tiny, tmp_path / "free")
    first = json.loads((tmp_path / "free" / "log.jsonl").read_text().splitlines()[0])["energy_calls"]
    with pytest.raises(BudgetExhausted, match="before the first iteration"):
        train(tiny, tmp_path / "bound", max_energy_calls=first - 1)
    assert not (tmp_path / "bound" / "model.safetensors").exists()
    again = train(tiny, tmp_path / "bound", resume=True)
    assert again.provenance["iterations"] == free.provenance["iterations"]


@pytest.mark.parametrize("budget", [{"minutes": 0.0}, {"minutes": float("nan")}, {"max_energy_calls": 0}])
def test_budgets_must_be_positive(tiny, tmp_path, budget):
    with pytest.raises(UsageError, match=next(iter(budget))):
        train(tiny, tmp_path / "run", **budget)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stopped_at", [3, 4, 5])
def test_time_budget_shortens_the_schedule(tiny, tmp_path, monkeypatch, stopped_at):
    """A budget of which filling the buffer takes 0.3, and an iteration so much that after ``stopped_at`` of them just
    what the decay will take is left."""
    from idem_md.training.budgets import Budget

    long = tiny.model_copy(update={"optimizer": tiny.optimizer.model_copy(update={"iterations": 10**6})})
    decay, order = tiny.optimizer.decay_fraction, {}

    def used(self, seconds, calls):
        if order and calls < min(order):  # the first buffer's
            return 0.3
        iteration = order.setdefault(calls, len(order) + 1)  # every iteration ends at another number of calls
        return 0.3 + 0.7 * (1 - decay) / stopped_at * 1.0001 * iteration

    monkeypatch.setattr(Budget, "used", used)
    p = train(long, tmp_path / "run", minutes=1.0).provenance
    assert p["finished"] and p["iterations"] == p["planned"] == -(-stopped_at * 10 // 6)
    # The same run again by number of iterations alone.
    monkeypatch.undo()
    again = long.model_copy(update={"optimizer": long.optimizer.model_copy(update={"iterations": p["planned"]})})
    train(again, tmp_path / "again")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "again"))


def test_time_budget_is_kept(tiny, tmp_path):
    long = tiny.model_copy(update={"optimizer": tiny.optimizer.model_copy(update={"iterations": 10**6})})
    first = train(long, tmp_path / "run", minutes=0.05)
    p = first.provenance
    assert 0 < p["iterations"] <= p["planned"] < 10**6
    # The budget is that of all sessions: another one has nothing left, and changes nothing.
    again = train(long, tmp_path / "run", minutes=0.05, resume=True)
    assert weights_digest(again.denoiser) == weights_digest(first.denoiser)
    assert again.provenance["iterations"] == p["iterations"] and again.provenance["finished"] == p["finished"]


@pytest.mark.parametrize("target", ["buffer", "mixed", "dem"])
def test_other_targets_train(tiny, tmp_path, target):
    config = idem_md.TrainingConfig.parse(
        {**tiny.model_dump(), "target": {"name": target} | ({} if target == "buffer" else {"n_samples": 8})}, "test"
    )
    assert train(config, tmp_path / "run").provenance["finished"]


def test_double_well_trains_in_two_dimensions(tiny, tmp_path):
    table = {**tiny.model_dump(), "system": "dw4"}
    train(idem_md.TrainingConfig.parse(table, "test"), tmp_path / "run")
    e = load_sampler(tmp_path / "run").sample(10, nfe=4)
    assert e.positions.shape == (10, 4, 2)


def test_runs_are_not_overwritten(tiny, tmp_path):
    with pytest.raises(UsageError, match="resume: expected"):
        train(tiny, tmp_path / "run", resume=True)
    train(tiny, tmp_path / "run")
    with pytest.raises(UsageError, match="already holds a run"):
        train(tiny, tmp_path / "run")
    with pytest.raises(ConfigError, match="seed was 3 in that run, now it is 4"):
        train(tiny.model_copy(update={"seed": 4}), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "text,message",
    [
        ("system = 'lj13'\nsede = 3", "unknown key 'sede'"),
        ("system = 'lj13'\n[buffer]\nsizes = 3", "unknown key 'buffer.sizes'; expected some of train_on, size, "),
        ("system = 'lj13'\n[buffer]\nsize = 'big'", "buffer.size: .*got 'big'"),
        ("system = 'lj99'", "expected one of lj13.*got 'lj99'"),
        ("system = ", "not valid TOML"),
        ("seed = 1", "system"),
        ("system = 'lj13'\n[noise]\nsigma_min = 5.0", "sigma_min: expected less than"),
    ],
)
def test_bad_configurations_name_the_key(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_toml_and_preset_agree(tmp_path):
    (tmp_path / "c.toml").write_text("system = 'lj13'\nseed = 7\n[optimizer]\nbatch = 32\n")
    config = load_config(tmp_path / "c.toml")
    assert config.optimizer.batch == 32 and config.seed == 7
    assert config.buffer == preset("lj13").buffer
    for name in ("lj13", "lj55", "dw4"):
        assert preset(name, "idem").target.name == "dem"


@pytest.mark.parametrize("damage", ["truncate", "foreign", "state", "shape", "nan", "error table"])
def test_damaged_checkpoints_are_named(tiny, tmp_path, damage):
    from safetensors.torch import save_file

    from idem_md.tensor_files import read_tensors, write_tensors

    train(tiny, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors, header = read_tensors(path, "model")
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        save_file({"w": torch.zeros(2)}, str(path))
    elif damage == "state":
        path.write_bytes((tmp_path / "state.safetensors").read_bytes())
    elif damage == "error table":
        write_tensors(path, "model", tensors, {**header, "mse": [float("nan")] * len(header["mse"])})
    else:
        key = next(iter(tensors))
        tensors[key] = tensors[key][:-1] if damage == "shape" else tensors[key] * torch.nan
        write_tensors(path, "model", tensors, header)
    with pytest.raises(FileFormatError, match="model.safetensors"):
        load_sampler(tmp_path)


@pytest.mark.parametrize(
    "table,message",
    [
        ({"target": {"name": "buffer", "chains": 5}}, "unknown key 'target.chains'"),
        ({"network": {"name": "egnn", "cutoff": 2.0}}, "unknown key 'network.cutoff'"),
        ({"optimizer": {"matrix_rate": 0.1}}, "matrix_rate is not used by 'adam', only by muon"),
        ({"buffer": {"size": 64, "walkers": 128, "fresh": 4}}, "buffer.walkers: expected between buffer.fresh = 4 and"),
        ({"buffer": {"train_on": "prior"}}, "buffer.train_on: expected 'buffer' with the target 'posterior'"),
        ({"buffer": {"weighted": 100}}, "buffer.weighted: expected 0 or at least 2048, got 100"),
    ],
)
def test_settings_that_would_be_ignored_are_errors(table, message):
    with pytest.raises(ConfigError, match=message):
        idem_md.TrainingConfig.parse({"system": "lj13", **table}, "test")


@pytest.mark.parametrize(
    "name,system",
    [("idem", "lj13"), ("pdem", "dw4"), ("idem", "gmm40"), ("pdem", "gmm40"), ("refined", "dw4"), ("refined", "gmm40")],
)
def test_every_kind_of_preset_trains(name, system, tmp_path):
    """Cut to a second: networks, targets and optimisers as preset."""
    config = preset(system, name)
    config = config.model_copy(
        update={
            "network": config.network.model_copy(update={"channels": 16, "layers": 2}),
            "buffer": config.buffer.model_copy(
                update={"size": 32, "fresh": 4, "sampling_steps": 4, "warmup_steps": 0, "refine_steps": 0}
            ),
            "optimizer": config.optimizer.model_copy(update={"batch": 8, "inner_steps": 3, "iterations": 2}),
        }
    )
    if config.target.name in ("mixed", "dem"):
        config = config.model_copy(update={"target": config.target.model_copy(update={"n_samples": 16})})
    checkpoint = train(config, tmp_path / "run")
    assert checkpoint.provenance["iterations"] == 2
    ensemble = load_sampler(tmp_path / "run").sample(4, nfe=3)
    assert ensemble.positions.shape == (4, len(ensemble.system.elements), 2 if system != "lj13" else 3)


def test_overflowing_gradients_are_skipped_and_counted_until_they_are_not_rare(tiny, monkeypatch):
    from idem_md.training import loop

    system = idem_md.get_system("lj13")
    energy = system.energy()
    state = loop.init(tiny, system, energy)
    honest, bad = TARGETS["posterior"], {1}
    calls = iter(range(1000))

    class Overflowing(honest):
        def __call__(self, *args):
            value = super().__call__(*args)
            return value * torch.inf if next(calls) in bad else value

    monkeypatch.setitem(TARGETS._parts, "posterior", Overflowing)
    report = loop.outer_iteration(tiny, energy, state)
    assert report.skipped == 1
    assert all(bool(torch.isfinite(p).all()) for p in state.denoiser.parameters())
    bad.update(range(1000))
    with pytest.raises(idem_md.IdemError, match="training diverged: 2 of 2 gradients"):
        loop.outer_iteration(tiny, energy, state)
