"""Every instance of every extension point keeps its protocol, and a user can register another in a few lines."""

import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from harmonic import SCALE, FlowMapDenoiser, K, exact, mse
from torch import nn

import idem_md
from idem_md import UsageError
from idem_md.analysis import OBSERVABLES, register_observable
from idem_md.baselines import ENGINES, Engine, EngineSamples, register_engine
from idem_md.chains import MALA, ChainState, Exchange, Schedule, Tempering, Torsion, noise_start, posterior_mala
from idem_md.diffusion import (
    KERNELS,
    LAST_STEPS,
    DiffusionKernel,
    Evaluation,
    Gaussian,
    Isotropic,
    PathSampler,
    PlainLastStep,
    TransitionKernel,
    noise_grid,
    register_kernel,
    register_last_step,
)
from idem_md.energies import DoubleWell, Energy, ExactSamples, GaussianMixture, Harmonic, LennardJones, Modes
from idem_md.geometry import centred, standard_normal
from idem_md.nets import FLOW_MAPS, HEADS, NETWORKS, Network, NetworkOptions, register_head, register_network
from idem_md.registry import Registry
from idem_md.tables import Table
from idem_md.targets import TARGETS, Batch, Target, TargetOptions, register_target
from idem_md.testing import check_energy
from idem_md.training import run_samples
from idem_md.tuning import HEAD_TRAININGS, HeadTraining, default_nfes, register_head_training, tune

REGISTRIES = (NETWORKS, HEADS, HEAD_TRAININGS, FLOW_MAPS, TARGETS, KERNELS, LAST_STEPS, ENGINES, OBSERVABLES)


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    before = [dict(r) for r in REGISTRIES]
    yield
    for registry, parts in zip(REGISTRIES, before):
        registry._parts.clear()
        registry._parts.update(parts)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Energies


@pytest.mark.parametrize("name", idem_md.SYSTEMS)
def test_systems_are_what_they_declare(name):
    """What `idem-md systems` shows without making an energy is what the energy says."""
    system = idem_md.get_system(name)
    energy = system.energy()
    assert isinstance(energy, Energy) and energy.calls == 0
    assert (energy.n_atoms, energy.n_dims) == (system.n_atoms, system.n_dims)
    assert dict(energy.parameters) == dict(system.parameters)


def test_capabilities_are_told_apart():
    assert isinstance(GaussianMixture(), ExactSamples) and isinstance(GaussianMixture(), Modes)
    for energy in (DoubleWell(), Harmonic(3), LennardJones(3)):
        assert not isinstance(energy, ExactSamples) and not isinstance(energy, Modes)


def test_an_energy_of_ones_own():
    class Springs(Energy):
        def evaluate(self, x):
            return 0.5 * (centred(x) ** 2).sum((1, 2)), -centred(x)

    check_energy(Springs(4, 3))
    e = ENGINES["mala"].run(idem_md.System("springs", "", lambda: Springs(4, 3), ("Ar",) * 4, *scale()), 400, 500)
    assert abs(e.energies.mean() - 4.5) < 4.5 * e.energies.std() / 20


def scale():
    system = idem_md.get_system("lj13")
    return system.units, 1.0


# Chains

HARMONIC = Harmonic(4, 3, K)
MOVES = {
    "mala": lambda x: (MALA(0.01), x),
    "posterior": lambda x: (posterior_mala(x, torch.full((len(x),), 0.3), 0.01), x),
    "exchange": lambda x: (Exchange((0, 0, 1, 1)), x),
    "torsion": lambda x: (Torsion([(0, 1, [2]), (1, 2, [3])]), x),
    "tempering": lambda x: (Tempering(torch.tensor([0.01, 0.02]), torch.tensor([1.0, 0.5]), 3), x.reshape(-1, 2, 4, 3)),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("energy", [HARMONIC, LennardJones(4, 1e-12, 1e-3, K)], ids=["plain", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chain_kernels(name, energy, dtype):
    """init and step over a state of three tensors; one rule for dtype and for the count on every route."""
    start = SCALE * standard_normal((10, 4, 3), generator(), dtype)
    kernel, x = MOVES[name](start)
    before = energy.calls
    state = kernel.init(energy, x)
    assert energy.calls - before == 10 and isinstance(state, ChainState)
    steps = 6 * (kernel.moves if name == "tempering" else 1)
    before = energy.calls
    state, info = kernel.step(energy, state, 6, seed=3)
    assert energy.calls - before == 10 * (steps + 1)
    for tensor in (state.x, state.u, state.f, info.acceptance):
        assert tensor.dtype == dtype
    assert state.x.shape == x.shape and 0 < info.acceptance.mean() <= 1
    again, _ = kernel.step(energy, kernel.init(energy, x), 6, seed=3)
    assert torch.equal(again.x, state.x)
    assert list(inspect.signature(kernel.step).parameters) == ["energy", "state", "n", "seed"]
    # A budget is asked before anything is done.
    energy.max_calls = energy.calls + 10 * steps
    with pytest.raises(idem_md.BudgetExhausted):
        kernel.step(energy, state, 6, seed=3)
    assert energy.calls == energy.max_calls - 10 * steps
    energy.max_calls = None


def test_starts_are_finite():
    state = noise_start(LennardJones(13, 2.0), 0.1, 20, 5, generator())  # so dense that many overlap
    assert torch.isfinite(state.u).all() and state.x.dtype == torch.float32


# Diffusion


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name):
    kernel = KERNELS[name](FlowMapDenoiser(pull=0.3), mse)
    x = standard_normal((20, 4, 3), generator())
    evaluation = kernel.evaluate(x, 1.0)
    assert isinstance(evaluation, Evaluation) and evaluation.sigma == 1.0 and evaluation.mse == mse(1.0)
    assert torch.allclose(evaluation.denoised, exact(x, torch.ones(20)))
    assert kernel.method in idem_md.sampler.methods()
    options = KERNELS[name].fitted(FlowMapDenoiser(), mse, (2.0, 1.0, 0.5), SCALE * x, generator())
    assert isinstance(KERNELS[name](FlowMapDenoiser(), mse, **options), TransitionKernel)
    for gaussian in (kernel.down(evaluation, 0.5), kernel.up(evaluation, 2.0), evaluation.posterior()):
        y = gaussian.sample(generator(1))
        assert isinstance(gaussian, Gaussian) and y.shape == x.shape and y.dtype == torch.float64
        assert y.mean(1).abs().max() < 1e-12 and gaussian.log_density(y).shape == (20,)
        assert torch.equal(y, gaussian.sample(generator(1)))


def test_the_elastic_proposal_wants_springs():
    with pytest.raises(UsageError, match="kernel: expected another than 'elastic'"):
        KERNELS["elastic"](exact, mse)


LAST = {
    "plain": {},
    "nested": {"candidates": 3},
    "annealed": {"schedule": Schedule(16, 2.0, 2, (0.02,)), "chains": 2},
}


@pytest.mark.parametrize("name", LAST_STEPS)
@pytest.mark.parametrize("energy", [Harmonic(4, 3, K), LennardJones(4, 1e-12, 1e-3, K)], ids=["plain", "native"])
def test_last_steps(name, energy):
    """exp(log_ratio - u) averages to the noised density, which for a harmonic cluster is a Gaussian."""
    x = 0.3 * standard_normal((1, 4, 3), generator()).expand(4000, -1, -1)
    evaluation = Evaluation(x, 0.2, 0.9 * exact(x, torch.full((4000,), 0.2)), 1.2 * mse(0.2))
    before = energy.calls
    end = LAST_STEPS[name](**LAST[name]).finish(energy, evaluation, generator(1))
    draws = {"plain": 1, "nested": 3, "annealed": 2 * 33 + 1}
    assert energy.calls - before == 4000 * draws[name]
    w = torch.exp(end.log_ratio - end.u)
    want = torch.exp(Isotropic(torch.zeros_like(x[:1]), SCALE**2 + 0.04).log_density(x[:1]) + HARMONIC.log_z)
    assert abs(w.mean() - want) < 4.5 * w.std() / 4000**0.5 + 1e-9 * want
    assert end.x.shape == x.shape and torch.allclose(end.u, energy(end.x)[0])
    # The end points with their weights are a sample of the posterior: its mean, coordinate by coordinate.
    p = w / w.sum()
    mean = (p[:, None, None] * end.x).sum(0)
    error = ((p**2)[:, None, None] * (end.x - mean) ** 2).sum(0).sqrt()
    assert ((mean - exact(x[:1], torch.full((1,), 0.2))[0]) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", LAST_STEPS)
def test_last_steps_leave_failed_paths_failed(name):
    x = 0.3 * standard_normal((5, 4, 3), generator())
    denoised = exact(x, torch.full((5,), 0.2))
    denoised[2] = torch.nan
    end = LAST_STEPS[name](**LAST[name]).finish(HARMONIC, Evaluation(x, 0.2, denoised, mse(0.2)), generator(1))
    good = torch.tensor([0, 1, 3, 4])
    assert torch.isfinite(end.x[good]).all() and torch.isfinite((end.log_ratio - end.u)[good]).all()
    assert torch.isnan(end.x[2]).all() and end.u[2] == torch.inf


def log_z(kernel, last_step):
    energy = Harmonic(4, 3, K)
    made = PathSampler(kernel, last_step, noise_grid(0.3, 3.0, 8), SCALE)
    (paths,) = made.sample([energy], 4000, generator())
    w = torch.exp(paths.log_weights - energy.log_z)
    assert abs(w.mean() - 1) < 4.5 * w.std() / 4000**0.5
    return w


def test_a_proposal_and_a_last_step_of_ones_own():
    """Wider downward, and upward about a scaled point: the one function for weights keeps them unbiased."""

    @register_kernel("wide")
    class Wide(TransitionKernel):
        def down(self, evaluation, s):
            a = s**2 / evaluation.sigma**2
            return Isotropic(
                a * evaluation.x + (1 - a) * evaluation.denoised, 1.5 * s**2 * (1 - a) + (1 - a) ** 2 * 0.05
            )

        def up(self, evaluation, t):
            return Isotropic(0.98 * evaluation.x, t**2 - evaluation.sigma**2)

    @register_last_step("wide")
    class WideLast(PlainLastStep):
        def finish(self, energy, evaluation, generator):
            return super().finish(energy, replace(evaluation, mse=1.3 * evaluation.mse), generator)

    log_z(KERNELS.find("wide")(exact, mse), LAST_STEPS.find("wide")())
    e = idem_md.load_sampler("lj13").sample(3, nfe=3, kernel="wide")
    assert e.provenance["kernel"] == "wide"


# Training


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    """Denoiser values of the right shape, unbiased where a Gaussian tells; options refuse what they do not know."""
    kind = TARGETS[name]
    few = {"chains": 4, "chain_steps": 40, "n_samples": 3000}
    options = kind.Options(name=name, **{k: v for k, v in few.items() if k in kind.Options.model_fields})
    assert issubclass(kind, Target) and isinstance(options, TargetOptions)
    energy, n, sigma = Harmonic(4, 3, K), 600, 0.2
    x_t = 0.3 * standard_normal((1, 4, 3), generator()).expand(n, -1, -1)
    levels = torch.full((n,), sigma, dtype=torch.float64)
    mean = exact(x_t, levels)
    x_0 = mean + (K + sigma**-2) ** -0.5 * standard_normal(x_t.shape, generator(1))
    value = kind(options)(energy, Batch(x_t, levels, x_0, energy(x_0)[1], 1e-3, 0.01), generator(2))
    z = (value - mean).mean(0) / (value.std(0) / n**0.5)
    assert value.shape == x_t.shape and value.dtype == torch.float64
    assert z.abs().max() < 4.5 or (value - mean).mean(0).abs().max() < 0.02 * SCALE  # K draws leave a bias of 1/K
    with pytest.raises(ValueError, match="unknown"):
        kind.Options(name=name, unknown=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    system = idem_md.get_system("gmm40" if name == "mlp" else "dw4")
    kind = NETWORKS[name]
    options = kind.Options(channels=8, layers=2)
    assert isinstance(options, NetworkOptions) and options.name == name
    net = kind.build(options, system)
    x, log_sigma = torch.randn(3, system.n_atoms, 2, generator=generator()), torch.zeros(3)
    out = net(x, log_sigma)
    assert isinstance(net, nn.Module) and out.shape == x.shape and out.dtype == torch.float32
    other = idem_md.get_system("lj13" if name == "mlp" else "gmm40")
    with pytest.raises(UsageError, match="network.name: expected"):
        kind.build(options, other)


def test_a_network_and_a_target_of_ones_own(tiny, tmp_path):
    """Trained, saved, loaded and sampled by their names in the configuration."""

    @register_target("halfway")
    class Halfway(Target):
        class Options(TargetOptions):
            share: float = 0.5

        def __call__(self, energy, batch, generator):
            return self.options.share * batch.x_0 + (1 - self.options.share) * batch.x_t

    @register_network("linear")
    class Linear(nn.Module):
        class Options(NetworkOptions):
            name: str = "linear"

        @classmethod
        def build(cls, options, system):
            return cls()

        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.ones(()))

        def forward(self, x_BND, log_sigma_B):
            return self.slope * x_BND

    network: Network = Linear()
    assert network(torch.ones(1, 2, 3), torch.zeros(1)).shape == (1, 2, 3)
    table = {**tiny.model_dump(), "network": {"name": "linear"}, "target": {"name": "halfway", "share": 0.25}}
    config = idem_md.TrainingConfig.parse(table, "test")
    idem_md.train(config, tmp_path / "run")
    sampler = idem_md.load_sampler(tmp_path / "run")
    assert sampler.checkpoint.config["target"] == {"name": "halfway", "share": 0.25}
    assert sampler.checkpoint.denoiser.net.slope != 1 and len(sampler.sample(4, nfe=3)) == 4
    for key in ("network", "target"):
        with pytest.raises(idem_md.ConfigError, match=f"{key}.name: expected one of .*, got 'magic'"):
            idem_md.TrainingConfig.parse({**table, key: {"name": "magic"}}, "test")
    with pytest.raises(idem_md.ConfigError, match="unknown key 'target.chains'"):
        idem_md.TrainingConfig.parse({**table, "target": {"name": "halfway", "chains": 2}}, "test")
    NETWORKS._parts.pop("linear")
    with pytest.raises(idem_md.FileFormatError, match="linear"):
        idem_md.load_sampler(tmp_path / "run")


# Baselines and analysis


@pytest.mark.parametrize("name", ENGINES)
def test_engines(name):
    engine = ENGINES[name]
    assert isinstance(engine, Engine) and engine.name == name
    steps = None if engine.default_steps is None else 1000
    system, said = "dw4" if name == "openmm" else "gmm40", []
    e = engine.run(system, 12, steps, seed=1, progress=lambda share, note: said.append(share))
    assert e.provenance["method"] == name and e.provenance["energy_calls"] >= 12
    if engine.takes_workers:  # of whose chains the start is left out
        assert 6 <= len(e) <= 12 and e.kind == "chain" and 0 <= steps - e.provenance["steps"] < 18
    else:
        assert len(e) == 12 and e.kind == "equilibrium" and e.provenance.get("steps") == steps
    assert said == sorted(said) and (steps is None or said) and all(0 < share <= 1 for share in said)
    assert np.array_equal(engine.run(system, 12, steps, seed=1).positions, e.positions)
    for bad, argument in ((dict(n=0), "n"), (dict(seed=-1), "seed"), (dict(n_steps=0), "steps")):
        with pytest.raises(UsageError, match=f"{argument}: expected"):
            engine.run(**({"system": system, "n": 4, "n_steps": steps} | bad))


def test_an_engine_of_ones_own():
    @register_engine("still")
    class Still(Engine):
        default_steps = None

        def draw(self, system, energy, n, budget, generator, progress):
            return EngineSamples(torch.zeros(n, energy.n_atoms, energy.n_dims), {"acceptance": 0.0})

    e = ENGINES.find("still").run("gmm40", 3)
    assert e.provenance["method"] == "still" and e.provenance["acceptance"] == 0.0 and not e.positions.any()


@pytest.mark.parametrize("name", OBSERVABLES)
def test_observables(name, lj13_samples):
    x = lj13_samples[:50].numpy()
    values = OBSERVABLES[name](x)
    assert len(values) == 50 and np.isfinite(values).all()
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    assert np.allclose(OBSERVABLES[name](x @ q + 1.0), values)  # no observable depends on where or how a cluster lies
    e = idem_md.WeightedEnsemble(x, np.zeros(50), np.zeros(50), idem_md.get_system("lj13"))
    mean, error = e.expectation(OBSERVABLES[name])
    assert np.allclose(mean, values.mean(0)) and np.all(error >= 0)


def test_an_observable_of_ones_own():
    @register_observable("first-atom")
    def first(x):
        return x[:, 0, 0]

    assert OBSERVABLES.find("first-atom")(np.ones((2, 3, 3))).tolist() == [1, 1]


def test_registries_name_what_they_lack():
    registry = Registry("kernel")
    registry.register("a")(1)
    assert registry.find("a") == 1 and "b" not in registry and dict(registry) == {"a": 1}
    with pytest.raises(UsageError, match="kernel: expected one of a, got 'b'"):
        registry.find("b")
    with pytest.raises(UsageError, match="kernel: expected a name that is not taken, got 'a'"):
        registry.register("a")(2)


@pytest.mark.slow
def test_a_kernel_a_last_step_and_a_head_of_ones_own_are_tuned(tiny, tmp_path):
    """Registered here alone: trained, tuned, saved, loaded and sampled with by their names."""

    class WidthOptions(Table):
        start: float = 1.0

    @register_head("width")
    def build_width(options, net, sigma_data, heads):
        return Width(WidthOptions.model_validate(options))

    class Width(nn.Module):
        """One number: by how much steps are wider than those of ddpm."""

        def __init__(self, options):
            super().__init__()
            self.options = options
            self.log_width = nn.Parameter(torch.tensor(options.start).log())

    @register_head_training("width")
    def train_width(checkpoint, samples, settings, on_step):
        denoiser = copy.deepcopy(checkpoint.denoiser)
        denoiser.heads["width"] = build_width({"start": 2.0}, denoiser.net, denoiser.sigma_data, denoiser.heads)
        for step in range(settings.steps):
            with torch.no_grad():
                denoiser.heads["width"].log_width.mul_(0.5)
            on_step(step)
        provenance = checkpoint.with_head_record("width", {"steps": settings.steps, "seconds": 0.5})
        return replace(checkpoint, denoiser=denoiser, provenance=provenance)

    @register_kernel("own-width")
    class OwnWidth(DiffusionKernel):
        method = "own"
        needs = "a width; see the test"
        nfes = (3,)

        @classmethod
        def suits(cls, denoise):
            return "width" in getattr(denoise, "heads", {})

        def variance(self, t, s):
            return float(self.denoise.heads["width"].log_width.exp()) * self.noise_variance(t, s) + 0.1 * self.mse(s)

    @register_last_step("own-step")
    class OwnStep(PlainLastStep):
        def __init__(self, widening=1.0):
            self.widening = widening

        @classmethod
        def efforts(cls, energy, evaluation, sigma_data, seed):
            return [{"widening": 1.25}]

        def finish(self, energy, evaluation, generator):
            return super().finish(energy, replace(evaluation, mse=self.widening * evaluation.mse), generator)

        def retrace(self, energy, evaluation, x_0, generator):
            wider = replace(evaluation, mse=self.widening * evaluation.mse)
            return super().retrace(energy, wider, x_0, generator)

    LAST_STEPS._parts.pop("annealed")  # or it would win
    idem_md.train(tiny, tmp_path / "run")
    bare = idem_md.load_sampler(tmp_path / "run")
    with pytest.raises(UsageError, match="method: expected another than 'own', .* lacks a width; see the test"):
        bare.plan(method="own")
    steps, found = [], []
    out, buffer = tmp_path / "run" / "model.safetensors", run_samples(tmp_path / "run")
    few = HeadTraining(steps=2, batch=16)
    tune(
        bare.checkpoint,
        buffer,
        out,
        heads=few,
        pilot=100,
        nfes={"own": (3, 4)},
        on_step=steps.append,
        on_plan=found.append,
    )
    assert len(steps) == 2 * len(HEAD_TRAININGS) and [plan.nfe for plan in found] == [3, 4]
    assert default_nfes()["own"] == (3,)
    sampler = idem_md.load_sampler(tmp_path / "run")
    head = sampler.checkpoint.denoiser.heads["width"]
    assert head.options.start == 2.0 and float(head.log_width) == pytest.approx(np.log(2) / 4)
    assert sampler.checkpoint.training_cost["seconds"] >= bare.checkpoint.training_cost["seconds"] + 0.5
    plan = sampler.plan(3, "own")
    assert (plan.kernel, plan.last_step, plan.options) == ("own-width", "own-step", {"widening": 1.25})
    e = sampler.sample(8, seed=0, plan=plan)
    assert e.provenance["method"] == "own" and len(e) == 8
    # Those who have not registered them are told what is missing.
    for registry, name in ((HEADS, "width"), (KERNELS, "own-width"), (LAST_STEPS, "own-step")):
        registry._parts.pop(name)
        with pytest.raises(idem_md.IdemError, match=name):
            idem_md.load_sampler(tmp_path / "run").sample(2, plan=plan)
        registry._parts[name] = {"width": build_width, "own-width": OwnWidth, "own-step": OwnStep}[name]
