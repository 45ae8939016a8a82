"""Total energies of electrons, up to 10^9 kT: the same samples as without them, above the user's zero."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import idem_md
from idem_md import EnergyError, System
from idem_md.analysis import coverage, heat_capacity, reweighted
from idem_md.baselines import ENGINES
from idem_md.baselines.mbar import mbar_log_z
from idem_md.chains import Schedule, run_annealing, run_mala
from idem_md.checks import energies_agree
from idem_md.energies import Energy
from idem_md.energies.foreign import ForeignEnergy, Recipe
from idem_md.report.comparison import check_same_potential
from idem_md.targets import dem_scores
from idem_md.tuning import HeadTraining, tune
from idem_md.units import Units

ARGON = Units(3.822, 59.9)
# Energies as all-electron codes give them, in eV and here in kT.
OFFSETS = [eV / ARGON.kT_eV for eV in (-1e5, -6e5, -7e6)]
# Rounding of energies near 10^9 kT in double precision.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Total(Recipe):
    """Lennard-Jones argon by way of a foreign code, whose energies are total ones."""

    n_atoms: int
    offset: float

    def build(self):
        i, j = np.triu_indices(self.n_atoms, 1)
        pair = np.zeros((self.n_atoms, len(i)))
        pair[i, range(len(i))], pair[j, range(len(i))] = 1.0, -1.0

        def evaluate(x):
            d = x[i] - x[j]
            r2 = np.maximum((d * d).sum(1), 1e-5)
            inv6 = r2**-3
            f = pair @ ((24.0 * inv6 * (inv6 - 1.0) / r2)[:, None] * d)
            return float((2.0 * inv6 * (inv6 - 2.0)).sum()) + self.offset, f

        return evaluate


def total(offset, n_atoms=5):
    energy = ForeignEnergy(n_atoms, 3, Total(n_atoms, offset), ARGON, trap=1.0 / 3.822**2)
    energy.elements = ("Ar",) * n_atoms
    return energy


def system_of(offset, n_atoms=5):
    x = 3.0 * np.random.default_rng(0).normal(size=(n_atoms, 3))
    return System.of_energy(total(offset, n_atoms), x, f"argon{n_atoms}")


def same(e, zero, other):
    """Samples and weights of one with an offset and of one without."""
    assert np.array_equal(e.positions, other.positions)
    assert np.abs(e.energies - zero - other.energies).max() < ROUNDING
    assert e.mean_energy[0] - zero == pytest.approx(other.mean_energy[0], abs=ROUNDING)
    assert e.mean_energy[1] == pytest.approx(other.mean_energy[1], rel=1e-6, nan_ok=True)


ENGINE_RUNS = {
    "mala": lambda system: ENGINES["mala"].run(system, 8, 300, seed=0),
    "pt": lambda system: ENGINES["pt"].configured(betas=(1.0, 0.7)).run(system, 3, 1000, seed=0),
}


@pytest.fixture(scope="module")
def without():
    """What there is without an offset."""
    system = system_of(0.0)
    return system, {name: run(system) for name, run in ENGINE_RUNS.items()}


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("name", ENGINE_RUNS)
def test_engines(name, offset, without):
    same(ENGINE_RUNS[name](system_of(offset)), offset, without[1][name])


@pytest.mark.parametrize("offset", OFFSETS)
def test_what_becomes_of_an_ensemble(offset, without):
    plain, (other, system) = without[1]["mala"], (without[0], system_of(offset))
    e = ENGINE_RUNS["mala"](system)
    same(e.refine(30, seed=1), offset, plain.refine(30, seed=1))
    assert heat_capacity(e)[0] == pytest.approx(heat_capacity(plain)[0], rel=1e-6)
    warm, warm_plain = reweighted(e, 65.0), reweighted(plain, 65.0)
    assert np.allclose(warm.weights, warm_plain.weights, rtol=1e-5)
    assert warm.mean_energy[0] - offset * 59.9 / 65.0 == pytest.approx(warm_plain.mean_energy[0], abs=1e-5)
    minima = [[float(name.split()[2]) for name in coverage(s, s, 8).names[:-1]] for s in (e, plain)]
    assert np.allclose(np.array(minima[0]) - offset, minima[1], atol=2e-3)
    check_same_potential({"a": e, "b": replace(e, system=system)})
    with pytest.raises(idem_md.UsageError, match="one potential"):
        check_same_potential({"a": e, "b": replace(e, energies=e.energies + 3.0)})
    assert other.energy().calls == 0


def test_files_show_the_zero_of_the_user(tmp_path, without):
    offset = OFFSETS[-1]
    e = ENGINE_RUNS["mala"](system_of(offset))
    e.save(tmp_path / "x.dcd")
    e.save(tmp_path / "x.colvar")
    assert np.array_equal(idem_md.load_ensemble(tmp_path / "x.dcd").energies, e.energies)
    assert np.array_equal(np.loadtxt(tmp_path / "x.colvar")[:, 1], e.energies)
    assert e.to_ase()[0].get_potential_energy() / ARGON.kT_eV == pytest.approx(e.energies[0], rel=1e-15)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("last_step", ["plain", "nested"])
def test_sampling(offset, last_step, lj13_sampler):
    few = {"nfe": 4, "seed": 2, "kernel": "analytic", "moves": 2, "last_step": last_step}
    few |= {} if last_step == "plain" else {"last_step_calls": 20}
    drawn = [idem_md.Sampler(lj13_sampler.checkpoint, system_of(zero, 13)).sample(6, **few) for zero in (offset, 0.0)]
    assert np.array_equal(drawn[0].positions, drawn[1].positions)
    assert np.abs(drawn[0].log_weights + offset - drawn[1].log_weights).max() < 10 * ROUNDING
    assert drawn[0].log_z + offset == pytest.approx(drawn[1].log_z, abs=10 * ROUNDING)


def test_training_and_tuning(smallest_toml, tmp_path):
    """Parameters of networks and plans, bit for bit; the log shows the user's zero."""
    (tmp_path / "tiny.toml").write_text(smallest_toml("argon5"))
    config = idem_md.training.load_config(tmp_path / "tiny.toml", built_in=False)
    made = {}
    for zero in (0.0, *OFFSETS):
        folder, system = tmp_path / f"{zero:g}", system_of(zero)
        checkpoint = idem_md.train(config, folder, system=system)
        buffer = idem_md.training.run_samples(folder)
        few = HeadTraining(steps=0)
        tuned = tune(checkpoint, buffer, folder / "model.safetensors", system=system, heads=few, nfes={})
        made[zero] = (checkpoint.denoiser.state_dict(), buffer, tuned.frugal_plan())
        resumed = idem_md.train(config, folder, system=system, resume=True)
        assert resumed.provenance["finished"]
    weights, buffer, plan = made[0.0]
    for zero in OFFSETS:
        theirs, other, found = made[zero]
        assert torch.equal(other, buffer) and all(torch.equal(theirs[k], weights[k]) for k in weights)
        assert found.sigma_1 == pytest.approx(plan.sigma_1) and found.last_step == plan.last_step


class Single(Energy):
    """Users' code in torch, which computes in the precision that it is given, above a large zero."""

    def __init__(self, zero, inside=None):
        super().__init__(4, 3)
        self.zero, self.inside = zero, inside

    def evaluate(self, x):
        y = x - x.mean(1, keepdim=True)
        u = 2.0 * (y**2).sum((1, 2)) + self.zero
        return (u if self.inside is None else u.to(self.inside)).to(x.dtype), -4.0 * y


@pytest.mark.parametrize("zero", [3e4, -1e7, 1e9])
def test_users_torch_code(zero):
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(1, keepdim=True)
    runs = [run_mala(Single(z), x, 0.02, 50, seed=1) for z in (0.0, zero)]
    assert torch.equal(runs[0].x, runs[1].x)
    assert torch.allclose(runs[1].u - zero, runs[0].u, atol=1e-4)  # without one they are evaluated in float32
    energy = Single(zero)
    energy(x)
    assert energy.calls == 6  # a second look in double precision is no second call


def test_energies_rounded_by_code_that_knows_better_are_refused():
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(EnergyError, match="rounded to single precision; subtract the energy of a reference"):
        Single(-1e8, torch.float32)(x)
    Single(-1e3, torch.float32)(x)


@pytest.mark.parametrize("offset", OFFSETS)
def test_scores_annealing_and_ladders(offset):
    energies = [total(zero) for zero in (0.0, offset)]
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(1, keepdim=True)
    scores = [dem_scores(energy, x, torch.full((3,), 0.3), 20, seed=1) for energy in energies]
    assert scores[1].tsi.dtype == torch.float32
    assert torch.allclose(scores[0].tsi, scores[1].tsi, rtol=1e-5)
    assert torch.allclose(scores[0].log_mean_exp, scores[1].log_mean_exp + offset, atol=1e-5)
    schedule = Schedule(8, 3.0, 2, (0.001,))
    runs = [run_annealing(energy, x, x, 0.05, 0.2, schedule, seed=1) for energy in energies]
    assert torch.equal(runs[0].x, runs[1].x)
    assert torch.allclose(runs[0].log_w, runs[1].log_w + offset, atol=1e-5)
    zeros = [mbar_log_z(system_of(zero), n=20, rungs=4, n_steps=2)[0] for zero in (0.0, offset)]
    assert zeros[1] + offset == pytest.approx(zeros[0], abs=1e-4)


def test_which_energies_agree():
    assert energies_agree(-53.0, -53.04) and not energies_agree(-53.0, -53.2)
    assert energies_agree(-1e7, -1e7 + 0.4) and not energies_agree(-1e7, -1e7 + 2.0)
    assert energies_agree([-50.0, 1e6], [-50.0, 1e6 + 100.0]).all()  # overlaps
    assert energies_agree([], []).all()


def test_a_field_is_found_below_a_large_zero():
    """External fields are found by what an energy changes on translation, not by which part of it."""

    @dataclass(frozen=True)
    class Field(Recipe):
        def build(self):
            return lambda x: (-1e7 + 3.0 * float(x[:, 0].sum()) + float((x**2).sum()), -2 * x - [3.0, 0, 0])

    with pytest.raises(idem_md.UsageError, match="external fields are not supported"):
        ForeignEnergy(4, 3, Field(), Units())
