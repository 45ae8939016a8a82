"""Every tensor is made where its neighbours are: what runs on a GPU, run on the CPU while new tensors go elsewhere.

torch's default device is one without memory: whatever is made without saying where cannot meet the data.
"""

import inspect

import pytest
import torch
import typing_extensions

from idem_md import load_sampler
from idem_md.chains import Schedule, quench, relax, run_annealing, run_mala, run_tempering
from idem_md.energies import DoubleWell, GaussianMixture, Harmonic, LennardJones
from idem_md.energies.lennard_jones import lennard_jones_reference
from idem_md.nets import HasFeatures
from idem_md.systems import get_system
from idem_md.targets import TARGETS, dem_scores
from idem_md.testing import loose_lattice
from idem_md.training.accuracy import measure_accuracy
from idem_md.training.config import LadderConfig
from idem_md.training.ladder import respaced
from idem_md.training.loop import init, outer_iteration
from idem_md.training.ranks import ALONE

run_tempering, dem_scores = run_tempering.__wrapped__, dem_scores.__wrapped__  # which see to torch's defaults
PLANS = {"plain": None, "nested": 3, "annealed": 20}


@pytest.fixture
def elsewhere():
    with torch.device("meta"):
        yield


def here(*shape, value=1.0, dtype=torch.float64):
    return torch.full(shape, value, dtype=dtype, device="cpu")


@pytest.fixture(scope="module", params=["gmm40", "dw4", "lj13"])
def sampler(request):
    return load_sampler(request.param)


@pytest.mark.parametrize("method", ["diffusion", "consistency"])
@pytest.mark.parametrize("last_step", PLANS)
def test_paths(sampler, method, last_step, elsewhere):
    plan = sampler.plan(5, method, None, last_step, PLANS[last_step], 2)
    made, energy = sampler._paths(plan), sampler.system.energy()
    generator = torch.Generator("cpu").manual_seed(0)
    (paths,) = made.sample([energy], 300, generator)
    assert paths.failed == 0 and len(paths.positions) == 300
    made.raw(energy, 10, generator)
    log_w = made.forward(energy, paths.positions[:5], generator)
    assert log_w.shape == (5,) and log_w.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_chains(dtype, elsewhere):
    """float32 in native code, float64 in plain torch."""
    energy = LennardJones(5, trap=1.0)
    with torch.device("cpu"):
        x = loose_lattice(energy, n=8).to(dtype)
    step, beta = here(value=1e-3, dtype=dtype), torch.tensor([1.0, 0.5], dtype=dtype, device="cpu")
    assert run_mala(energy, x, step, 3, 0).x.device.type == "cpu"
    assert run_tempering(energy, torch.stack([x, x], 1), step.expand(2), beta, 3, 2, 0).x.device.type == "cpu"
    assert run_annealing(energy, x, x, 0.01, 0.3, Schedule(4, 2.0, 2, (1e-3, 2e-3)), 0).log_w.device.type == "cpu"
    assert dem_scores(energy, x, here(8, value=0.1, dtype=dtype), 7, 0).tsi.device.type == "cpu"
    assert relax(energy, x, 3).device.type == "cpu" and quench(energy, x[:1]).device.type == "cpu"
    assert lennard_jones_reference(x, 1.0, 1.0, 1.0)[0].device.type == "cpu"


@pytest.mark.parametrize(
    "energy", [DoubleWell(), GaussianMixture(), Harmonic(5), LennardJones(5)], ids=lambda e: type(e).__name__
)
def test_energies(energy, elsewhere):
    x = torch.arange(1.0, 1 + 4 * energy.n_atoms * energy.n_dims, device="cpu").reshape(
        4, energy.n_atoms, energy.n_dims
    )
    u, f = energy.evaluate(x)
    assert u.device.type == f.device.type == "cpu"


def test_protocols_are_met_as_newer_pythons_see_it(sampler):
    """From Python 3.12 on what a module makes up when asked, such as its submodules, is no member of it."""
    denoiser = sampler.checkpoint.denoiser
    if isinstance(denoiser.net, HasFeatures):
        for name in typing_extensions.get_protocol_members(HasFeatures):
            inspect.getattr_static(denoiser.net, name)


@pytest.mark.parametrize("name", TARGETS)
def test_training(name, tiny):
    options = TARGETS[name].Options(name=name, **({"n_samples": 10} if name in ("dem", "mixed") else {}))
    weighted = tiny.buffer.model_copy(update={"weighted": 128 * (name == "buffer")})
    config = tiny.model_copy(update={"target": options, "buffer": weighted})
    energy = LennardJones(13, epsilon=2.0, r_min=1.0, trap=1.0)
    state = init(config, get_system("lj13"), energy)
    with torch.device("meta"):
        for _ in range(2):  # the second renews the buffer by samples of the model
            assert outer_iteration(config, energy, state).loss > 0
        measure_accuracy(config, state, levels=3, samples=4)


def test_training_for_several_temperatures(tiny):
    system, buffer = get_system("binary"), tiny.buffer.model_copy(update={"exchanges": 1})
    ladder = LadderConfig(coldest=50.0, hottest=60.0)
    config = tiny.model_copy(update={"system": "binary", "buffer": buffer, "ladder": ladder})
    state = init(config, system, system.energy())
    with torch.device("meta"):
        for _ in range(2):
            assert outer_iteration(config, system.energy(), state).loss > 0
        measure_accuracy(config, state, levels=3, samples=4, rung=1)
        state.ema.at(0.3)(here(2, 13, 3).float(), here(2).float())
        respaced(state.ladder, state.buffer.samples, ALONE)
