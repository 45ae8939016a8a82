"""Twins of expensive potentials: native forces, the bend and the wall, recorded calls, rounds, and exact weights."""

import itertools
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as LennardJonesASE
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from command import run

import idem_md
from idem_md import BudgetExhausted, EnergyError, FileFormatError, System, UsageError
from idem_md.ase import BoltzmannSampler
from idem_md.cli.potential import atoms_of
from idem_md.diffusion import TwinPaths
from idem_md.energies import ASE, Energy, LennardJones, Twin
from idem_md.ensemble import WeightedEnsemble
from idem_md.errors import TrainingWarning
from idem_md.nets import build_energy_network
from idem_md.tensor_files import read_tensors
from idem_md.twin import (
    FitSettings,
    Frames,
    Recorded,
    TwinSettings,
    fit,
    load_made,
    make_twin,
    twin_error,
    twin_of,
    twin_table,
    twin_tensors,
)
from idem_md.twin.soundness import check_continuous, check_repeatable
from idem_md.units import Units

NETWORK = {"name": "painn", "channels": 8, "layers": 1, "n_basis": 8}
UNITS = Units(3.8, 60.0)


class Foreign(Energy):
    """Lennard-Jones as somebody else's code, which may fail now and then."""

    units, elements = UNITS, ("Ar",) * 5
    trap = 0.5
    fails = staticmethod(lambda x: torch.zeros(len(x), dtype=torch.bool))

    def __init__(self):
        super().__init__(5, 3)
        self.inner, self.asked = LennardJones(5, epsilon=3.0, r_min=1.0, trap=0.5), []

    @property
    def parameters(self):
        return {"kind": "foreign", "trap": self.trap}

    def evaluate(self, x):
        self.asked += [row.tobytes() for row in x.double().numpy()]
        if bool(self.fails(x).any()):
            raise EnergyError("the code did not converge")
        return self.inner(x)


@pytest.fixture(autouse=True, scope="module")
def short():
    """Chains of the twin that do not go far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("idem_md.twin.gather.ROUNDS", 2)
        patch.setattr("idem_md.twin.gather.RELAXING", 10)
        yield


def system():
    i = torch.arange(5) * 2 * torch.pi / 5
    x = torch.stack([torch.cos(i), torch.sin(i), 0.3 * torch.cos(2 * i)], 1) * 0.85 * UNITS.length_angstrom
    return System.of_energy(Foreign(), x.numpy(), "five")


def quick(**changes):
    few = FitSettings(steps=60, batch=16, learning_rate=5e-3)
    settings = {"network": NETWORK, "gathering_calls": 1000, "round_calls": 60, "rounds": 1, "loss": 0.99}
    return TwinSettings(**{**settings, "first_fit": few, "next_fit": few, **changes})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_energy_network(NETWORK, idem_md.get_system("lj13"))


def test_forces_are_the_gradient_by_either_route(network):
    x = 0.7 * torch.randn(3, 13, 3, generator=torch.Generator().manual_seed(1))
    u, f = network.with_forces(x)
    here = x.clone().requires_grad_()
    plain = network(here, native=False)
    assert torch.allclose(u, plain, atol=1e-5) and u.dtype == torch.float64
    (gradient,) = torch.autograd.grad(plain.sum(), here)
    assert (f + gradient).abs().max() < 1e-5 * gradient.abs().max()


def test_energy_network_is_invariant(network):
    x = 0.7 * torch.randn(3, 13, 3, generator=torch.Generator().manual_seed(2))
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))
    u = network(x)
    for other in (x @ q, x[:, torch.randperm(13)], x + 2.0):
        assert torch.allclose(network(other), u, atol=1e-4)


def test_energy_networks_need_features():
    with pytest.raises(UsageError, match="scalars"):
        build_energy_network({"name": "egnn"}, idem_md.get_system("lj13"))


def twin(network, **changes):
    contacts = torch.full((13, 13), 0.8, dtype=torch.float64).fill_diagonal_(0)
    known = {"reference": -50.0, "lowest": -1.0, "contacts": contacts, "trap": 1.0}
    return Twin(network, Units(), ("Ar",) * 13, **{**known, **changes})


def test_twin_has_forces_bend_and_wall(network):
    energy = twin(network)
    x = 0.7 * torch.randn(4, 13, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    x[0, 1] = x[0, 0] + torch.tensor([0.3, 0, 0])
    u, f = energy(x)
    d = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h = 1e-3
    slope = (energy(x + h * d)[0] - energy(x - h * d)[0]) / (2 * h)
    assert torch.allclose(-(f * d).sum((1, 2)), slope, rtol=2e-3, atol=0.05)
    wall = 50 * ((1 - 0.3 / 0.8) / 0.05) ** 2
    assert u[0] > -50 + wall - 10
    deep = twin(network, lowest=1000.0, trap=0.0)
    assert (deep(x[1:])[0] >= -50 + 1000 - 3.0 - 1e-6).all()


def test_twin_at_another_temperature(network):
    x = 0.7 * torch.randn(2, 13, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    (u, f), (v, g) = twin(network)(x), twin(network).scaled(0.5)(x)
    assert torch.allclose(v, 0.5 * u) and torch.allclose(g, 0.5 * f)


def test_calls_are_made_once_and_kept(tmp_path):
    path, real = tmp_path / "calls.bin", Foreign()
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    first = Recorded(real, path)
    u, f = first(x)
    assert torch.equal(first(torch.cat([x[:2], x[:2]]))[0], torch.cat([u[:2], u[:2]])) and first.calls == 6
    with path.open("ab") as file:
        file.write(b"half a row")
    again = Recorded(real, path)
    assert again.calls == 6 and torch.equal(again(x)[1], f) and again.calls == 6 and len(real.asked) == 6
    assert torch.equal(again.frames().u, u)
    again(x[:1] + 0.1)
    assert len(Recorded(real, path).frames()) == 7
    again.max_calls = 7
    with pytest.raises(BudgetExhausted):
        again(x[:1] + 0.3)
    real.trap = 0.505  # a little more of it is another potential
    with pytest.raises(FileFormatError, match="this potential"):
        Recorded(real, path)
    real.trap = 0.5
    other = LennardJones(5, epsilon=2.0)
    with pytest.raises(FileFormatError, match="this potential"):
        Recorded(other, path)


def test_failing_configurations_are_infinitely_high_and_counted(tmp_path):
    real = Foreign()
    x = torch.randn(100, 5, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    real.fails = lambda y: (y[:, None] == x[[41, 73]]).all(-1).all(-1).any(1)
    energy = Recorded(real, tmp_path / "calls.bin")
    u, f = energy(x)
    assert torch.isinf(u).nonzero()[:, 0].tolist() == [41, 73] and (f[41] == 0).all() and energy.failed == 2
    assert "did not converge" in energy.cause and len(energy.frames()) == 98
    again = Recorded(real, tmp_path / "calls.bin")  # a full disk is no reason to fail for ever
    assert again.failed == 0 and again.calls == 100 and torch.isinf(again(x)[0]).sum() == 2 and again.calls == 102
    real.fails = lambda y: torch.ones(len(y), dtype=torch.bool)
    with pytest.raises(EnergyError, match="energy calls failed"):
        energy(x + 0.5)


def test_fit_learns_energies_and_forces():
    s = system()
    x = torch.tensor(s.geometry)[None] + 0.08 * torch.randn(400, 5, 3, generator=torch.Generator().manual_seed(9))
    u, f = s.energy()(x.double())
    frames = Frames(x.double(), u - u.min(), f)
    torch.manual_seed(1)
    net = build_energy_network({**NETWORK, "channels": 16}, s)
    low = frames.u < frames.u.median()
    net.shift.fill_(float(frames.u[low].mean()))
    net.scale.fill_(float(frames.u[low].std()))
    typical = float(frames.u.median())
    found = fit(net, frames[:380], frames[380:], typical, 20.0, FitSettings(steps=200, batch=16, learning_rate=1e-2))
    assert found.spread < 0.5 * float(frames.u[low].std()) and found.force_error < 0.5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, s = tmp_path_factory.mktemp("twin"), system()
    s.make_energy().asked.clear()
    with pytest.warns(TrainingWarning, match="not yet good"):  # after sixty steps of a fit
        found = make_twin(s, folder, quick(loss=0.0), seed=3)
    return s, folder, found


def as_file(path, frames, factor=1.0, elements="Ar5", forces=True):
    """Frames as a user has them: in Å and eV, without the trap."""
    kT, length, images = UNITS.kT_eV, UNITS.length_angstrom, []
    for x, u, f in zip(*frames.arrays):
        y = x - x.mean(0)
        atoms = Atoms(elements, length * y.numpy())
        parts = {"energy": factor * kT * float(u - 0.25 * (y**2).sum())}
        parts |= {"forces": factor * kT / length * (f + 0.5 * y).numpy()} if forces else {}
        atoms.calc = SinglePointCalculator(atoms, **parts)
        images.append(atoms)
    write(path, images)
    return str(path)


def test_a_twin_of_what_is_there_already(made, tmp_path):
    (_, folder, _), s = made, system()
    frames = Recorded(s.energy(), folder / "energy_calls.bin").frames()[:200]
    data = as_file(tmp_path / "data.extxyz", frames)
    with pytest.raises(UsageError, match="data: expected energies and forces of this potential .* forces differ by"):
        make_twin(s, tmp_path / "a", quick(data=as_file(tmp_path / "b.extxyz", frames, factor=1.1)))
    with pytest.raises(UsageError, match="data: expected the atoms ArArArArAr in this order, configuration 0"):
        make_twin(s, tmp_path / "a", quick(data=as_file(tmp_path / "b.extxyz", frames, elements="Ar4Kr")))
    with pytest.raises(UsageError, match="data: expected energies and forces, configuration 0"):
        make_twin(s, tmp_path / "a", quick(data=as_file(tmp_path / "b.extxyz", frames, forces=False)))
    for name in ("b.traj", "none.extxyz"):
        with pytest.raises(UsageError, match="data: "):
            make_twin(s, tmp_path / "a", quick(data=str(tmp_path / name)))
    with pytest.warns(TrainingWarning, match="not yet good"):
        found = make_twin(s, tmp_path / "run", quick(data=data, loss=0.0, gathering_calls=1300))
    # Chains of 930 calls in the place of 1230.
    assert found.energy_calls < 1150
    with pytest.raises(UsageError, match="data: expected .*, with which the run was begun"):
        make_twin(s, tmp_path / "run", quick(data="other.extxyz"))
    kept = read_tensors(tmp_path / "run" / "data.safetensors", "data")[0]
    assert torch.allclose(kept["u"], frames.u, atol=1e-5) and torch.allclose(kept["f"], frames.f, atol=1e-5)
    Path(data).unlink()
    assert make_twin(s, tmp_path / "run").rounds == found.rounds


def test_twin_of_a_potential(made):
    s, _, found = made
    asked = s.make_energy().asked
    assert len(asked) == len(set(asked)) == found.energy_calls
    assert len(found.rounds) == 1 and 0 < found.rounds[0].kept <= 1
    x = torch.tensor(s.geometry)[None].double()
    assert abs(float(found.twin(x)[0] - s.energy()(x)[0])) < 15


class Killed(BaseException):
    """A process that dies."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [300, 950])
def test_interrupted_twin_goes_on_without_a_call_made_twice(made, tmp_path, after):
    """In the chains, and in a round."""
    _, _, whole = made
    s = system()
    real = s.make_energy()
    real.asked.clear()

    def fails(x):
        if len(real.asked) > after:
            raise Killed
        return torch.zeros(len(x), dtype=torch.bool)

    real.fails = fails
    with pytest.raises(Killed):
        make_twin(s, tmp_path, quick(loss=0.0), seed=3)
    real.fails = Foreign.fails
    kept = len(Recorded(real, tmp_path / "energy_calls.bin").frames())
    with pytest.warns(TrainingWarning):
        again = make_twin(s, tmp_path, quick(loss=0.0), seed=3)
    assert kept > after - 100 and again.energy_calls == whole.energy_calls
    assert again.rounds == whole.rounds
    x = torch.tensor(s.geometry)[None].double()
    assert torch.equal(again.twin(x)[0], whole.twin(x)[0])


def test_forces_that_are_no_gradient_are_found(tmp_path):
    s = system()
    real = s.make_energy()
    inner, real.inner = real.inner, lambda x: (lambda u, f: (u, 0.5 * f))(*inner(x))
    with pytest.raises(EnergyError, match="minus the gradient"):
        make_twin(s, tmp_path, quick())


def test_steps_are_found(tmp_path):
    s = system()
    recorded, generator = Recorded(s.energy(), tmp_path / "smooth.bin"), torch.Generator().manual_seed(0)
    x = torch.tensor(s.geometry)[None] + 0.05 * torch.randn(10, 5, 3, generator=generator, dtype=torch.float64)
    chain = [x]
    for _ in range(8):
        chain.append(chain[-1] + 0.005 * torch.randn(10, 5, 3, generator=generator, dtype=torch.float64))
    for x in chain:
        recorded(x)
    check_continuous(recorded, 10, 1e3, 3.8)  # says nothing
    real = s.make_energy()
    inner = real.inner
    wide = (torch.stack(chain)[:, 3] ** 2).sum((1, 2)).median()  # which the fourth of the chains crosses
    real.inner = lambda x: (lambda u, f: (u + 2.0 * ((x**2).sum((1, 2)) > wide), f))(*inner(x))
    recorded = Recorded(real, tmp_path / "steps.bin")
    for x in chain:
        recorded(x)
    with pytest.warns(TrainingWarning, match="differ by 2 kT between two geometries 0.00"):
        check_continuous(recorded, 10, 1e3, 3.8)
    assert recorded.calls <= 90 + 7


def test_noise_is_said(tmp_path):
    calls = itertools.count()

    class Noisy(LennardJonesASE):
        def calculate(self, *words, **more):
            super().calculate(*words, **more)
            self.results["energy"] += 1e-5 * (next(calls) > 1)  # eV

    atoms = atoms_of_text(ARGON, tmp_path)
    atoms.calc = Noisy(sigma=3.405, epsilon=0.0103, rc=100)
    energy = ASE(atoms, temperature_K=60.0, length_angstrom=3.8)
    recorded = Recorded(energy, tmp_path / "calls.bin")
    x = torch.from_numpy(atoms.positions / 3.8)[None]
    x = x - x.mean(1, keepdim=True)
    trap = 0.5 * energy.trap * 3.8**2 * float((x**2).sum())
    with pytest.warns(TrainingWarning, match="potential is noisy"):
        check_repeatable(recorded, System.of_energy(energy, atoms.positions, "noisy"), float(recorded(x)[0]) - trap)


@pytest.mark.slow
def test_budgets_hold(tmp_path):
    s = system()
    with pytest.raises(UsageError, match="max_energy_calls: expected at least"):
        make_twin(system(), tmp_path, quick(), max_energy_calls=500)
    with pytest.warns(TrainingWarning):
        found = make_twin(s, tmp_path, quick(rounds=9, loss=0.0, round_calls=300), max_energy_calls=2200)
    assert found.energy_calls <= 2200 and len(found.rounds) < 9
    again = make_twin(s, tmp_path, max_energy_calls=2200)  # and when it goes on
    assert again.energy_calls <= 2200 and again.rounds == found.rounds
    with pytest.raises(UsageError, match="seed"):
        make_twin(s, tmp_path, seed=1)
    with pytest.raises(UsageError, match="native"):
        make_twin(idem_md.get_system("lj13"), tmp_path)
    with pytest.raises(UsageError, match="geometry"):
        make_twin(replace(system(), geometry=None), tmp_path)


@pytest.mark.parametrize("candidate_paths", [1, 3])
def test_weights_do_not_depend_on_the_twin(lj13_sampler, candidate_paths):
    """Means and log Z of LJ-13 by a cheap energy that is wrong on purpose."""
    s = idem_md.get_system("lj13")
    cheap = LennardJones(13, epsilon=1.9, r_min=1.01, trap=1.2)
    paths = TwinPaths(lj13_sampler._paths(lj13_sampler.plan(12)), cheap, candidate_paths)
    real = s.energy()
    (drawn,) = paths.sample([real], 600 // candidate_paths, torch.Generator().manual_seed(1))
    ensemble = idem_md.WeightedEnsemble(
        drawn.positions.numpy(), drawn.energies.numpy(), drawn.log_weights.numpy(), s, kind="importance"
    )
    assert real.calls == 600 // candidate_paths and cheap.calls == paths.cheap_calls > 600 and ensemble.ess > 40
    mean, error = ensemble.mean_energy
    assert abs(mean + 42.92) < 4.5 * error
    assert abs(ensemble.log_z - 59.86) < 4.5 * ensemble.log_z_err + 0.03


def test_a_cheaper_potential_of_ones_own_as_twin(lj13_sampler):
    """Chains run natively on the cheaper potential, the other is called once a sample; both at another temperature."""
    cheap, real = idem_md.get_system("lj13"), idem_md.get_system("lj13")
    other = real.with_energy(LennardJones(13, epsilon=2.05, r_min=1.0, trap=1.0))
    sampler = idem_md.Sampler(lj13_sampler.checkpoint, other, twin=cheap)
    for kelvin in (None, 1.02 * cheap.units.temperature_kelvin):
        e = sampler.sample(60, nfe=12, seed=3, temperature_K=kelvin)
        p = e.provenance
        assert p["energy_calls"] <= 60 < p["twin_calls"] and e.ess > 10 and 0 < p["twin_error"]["spread"] < 5
        there = other if kelvin is None else other.at(kelvin)
        assert np.allclose(there.energy()(torch.from_numpy(e.positions.copy()))[0], e.energies)
    with pytest.raises(UsageError, match="twin: expected 13 atoms of kinds"):
        idem_md.Sampler(lj13_sampler.checkpoint, other, twin=system())
    with pytest.raises(UsageError, match="system: expected the system for whose potential"):
        idem_md.Sampler(lj13_sampler.checkpoint, twin=cheap)
    with pytest.raises(UsageError, match="twin: expected the units"):
        idem_md.Sampler(lj13_sampler.checkpoint, other, twin=cheap.at(50.0))


@pytest.mark.parametrize("candidate_paths", [1, 3])
def test_the_other_way_by_a_twin(lj13_sampler, lj13_samples, candidate_paths):
    """Weights of paths up from samples have the mean 1/Z as well."""
    s = idem_md.get_system("lj13")
    cheap = LennardJones(13, epsilon=1.97, r_min=1.0, trap=1.0)
    paths = TwinPaths(lj13_sampler._paths(lj13_sampler.plan(12)), cheap, candidate_paths)
    log_w = paths.forward(s.energy(), lj13_samples[:300], torch.Generator().manual_seed(2))
    inverse = torch.exp(59.86 - log_w)
    assert abs(inverse.mean() - 1) < 4.5 * inverse.std() / len(inverse) ** 0.5


SMALL = {
    "network": NETWORK,
    "target": {"name": "buffer"},
    "buffer": {"size": 16, "fresh": 2, "relax_steps": 5, "warmup_steps": 20, "refine_steps": 2, "sampling_steps": 4},
    "optimizer": {"batch": 8, "iterations": 2, "inner_steps": 4},
}


@pytest.mark.slow
def test_training_on_a_twin_and_sampling_by_it(tmp_path, monkeypatch):
    s = system()
    config = idem_md.TrainingConfig.parse({"system": s.name, **SMALL}, "small")
    with pytest.warns(TrainingWarning, match="twin"):
        checkpoint = idem_md.train(config, tmp_path, system=s, twin=quick(loss=0.0), max_energy_calls=2000)
    p = checkpoint.provenance
    assert checkpoint.twin is not None and p["energy_calls"] <= 2000 and p["twin_calls"] > 500
    assert len(p["twin"]["rounds"]) == 1
    asked = len(s.make_energy().asked)
    ensemble = idem_md.load_sampler(tmp_path, s).sample(40, nfe=8, seed=1)
    assert len(s.make_energy().asked) - asked == ensemble.provenance["energy_calls"] <= 40
    assert ensemble.provenance["twin_calls"] >= 40
    x, u = torch.from_numpy(ensemble.positions[ensemble.alive]), ensemble.energies[ensemble.alive]
    assert np.allclose(s.energy()(x)[0], u)
    ensemble.save(tmp_path / "a.dcd")
    assert idem_md.load_ensemble(tmp_path / "a.dcd").provenance["twin_calls"] == ensemble.provenance["twin_calls"]
    # At another temperature the twin is taken there, too.
    warm = idem_md.load_sampler(tmp_path, s).sample(10, nfe=8, seed=1, temperature_K=90.0)
    assert warm.provenance["energy_calls"] <= 10
    with pytest.raises(UsageError, match="twin: expected rounds = 1, with which the twin of the run was made, got 2"):
        idem_md.train(config, tmp_path, system=s, resume=True, twin=quick(rounds=2))
    again = idem_md.train(config, tmp_path, system=s, resume=True, twin=quick(loss=0.0))  # nothing is left to do
    assert again.provenance["twin_calls"] == p["twin_calls"]
    error = twin_error(ensemble, checkpoint.twin)
    assert ensemble.provenance["twin_error"] == pytest.approx(error._asdict())
    # After a kill the same samples take no call of the potential a second time.
    asked, sampler, write, left = s.make_energy().asked, idem_md.load_sampler(tmp_path, s), Recorded._write, [20]
    asked.clear()
    for file in tmp_path.glob("sample_calls-*-1.bin"):
        file.unlink()

    def dying(*arguments):
        write(*arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("idem_md.twin.record.SECONDS_A_WRITE", 0.0)
        m.setattr(Recorded, "_write", dying)
        sampler.sample(40, nfe=8, seed=1)
    assert len(asked) == 20
    again = sampler.sample(40, nfe=8, seed=1)
    assert len(asked) == len(set(asked)) == ensemble.provenance["energy_calls"]
    assert np.array_equal(again.log_weights, ensemble.log_weights) and np.array_equal(again.energies, ensemble.energies)
    assert again.provenance["energy_calls"] == ensemble.provenance["energy_calls"]
    (tmp_path / "model.safetensors").unlink()
    sampler = idem_md.load_sampler(tmp_path, s)
    assert sampler.checkpoint.twin is not None and "effective" not in idem_md.sampler.expectation(sampler.checkpoint)
    paths = pickle.loads(pickle.dumps(sampler._paths(sampler.plan(8))))
    assert isinstance(paths, TwinPaths) and paths.block(s.energy()) == 250
    assert replace(paths, candidate_paths=5).block(s.energy()) == 50
    twice = sampler.sample(4, nfe=8, seed=3, candidate_paths=2)
    raw = sampler.sample(4, nfe=8, seed=2, weighted=False)
    assert raw.kind == "raw" and raw.provenance["energy_calls"] <= 4 <= raw.provenance["twin_calls"]
    assert np.allclose(s.energy()(torch.from_numpy(raw.positions[raw.alive]))[0], raw.energies[raw.alive])
    assert twice.provenance["energy_calls"] <= 4 and twice.provenance["plan"]["candidate_paths"] == 2
    with pytest.raises(UsageError, match="moves: expected 0 with a twin, got 3"):
        sampler.sample(4, nfe=8, moves=3)
    bare = idem_md.train(config.model_copy(update={"seed": 4}), tmp_path / "bare", system=s)
    assert bare.twin is None
    with pytest.raises(UsageError, match="begun without"):
        idem_md.train(config, tmp_path / "bare", system=s, resume=True, twin=True)


def test_damaged_twins_are_refused(made, tmp_path):
    s, folder, found = made
    table, tensors = twin_table(found.twin), twin_tensors(found.twin)
    assert json.loads(json.dumps(table)) == table
    with pytest.raises(FileFormatError, match="twin"):
        twin_of({**table, "network": {"name": "egnn"}}, tensors, s, "here")
    with pytest.raises(FileFormatError, match="finite"):
        twin_of(table, {**tensors, "twin.contacts": tensors["twin.contacts"] * torch.nan}, s, "here")
    assert load_made(tmp_path, s) is None and load_made(folder, s) is not None


def atoms_of_text(text, folder):
    (folder / "argon.py").write_text(text)
    return atoms_of(f"{folder / 'argon.py'}:five")


ARGON = """
from ase import Atoms
from ase.calculators.lj import LennardJones


def five():
    atoms = Atoms("Ar5", [(0, 0, 0), (3.8, 0, 0), (1.9, 3.3, 0), (1.9, 1.1, 3.1), (1.9, 1.1, -3.1)])
    atoms.calc = LennardJones(sigma=3.405, epsilon=0.0103, rc=100)  # a cutoff: not native
    return atoms
"""


def small_toml():
    lines = ['system = "five"']
    for name, table in SMALL.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    return "\n".join(lines)


def test_what_a_twin_has_cost(network):
    """A twin that is off by c on half of the samples, whose weights were equal before."""
    s, c = idem_md.get_system("lj13"), 1.5
    x = 0.7 * torch.randn(40, 13, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    elements = s.elements or ("LJ",) * 13
    s = replace(s, elements=elements)
    known = Twin(network, s.units, elements)
    u = known(x.float())[0].double()
    gap = torch.where(torch.arange(40) < 20, c, 0.0).double()
    e = WeightedEnsemble(x.float().numpy(), (u - gap).numpy(), gap.numpy(), s, {"method": "diffusion"})
    found, heavy = twin_error(e, known.scaled(2.0)), np.exp(c) / (1 + np.exp(c))
    assert found.ess_fraction == pytest.approx(1)
    assert found.spread == pytest.approx(c * np.sqrt(heavy * (1 - heavy)), rel=1e-4)
    assert found.largest == pytest.approx(c * heavy, rel=1e-4)
    with pytest.raises(UsageError, match="samples of"):
        twin_error(e, Twin(network, s.units, ("Kr",) * 13))


@pytest.mark.slow
def test_commands_train_and_sample_by_a_twin(tmp_path, monkeypatch):
    monkeypatch.setattr("idem_md.twin.made.DEFAULT", quick())
    (tmp_path / "argon.py").write_text(ARGON)
    (tmp_path / "small.toml").write_text(small_toml())
    own = ["--calculator", "./argon.py:five"]
    words = ["train", "small.toml", *own, "--temperature", 60, "--twin", "--elastic-network-steps", 0, "--out", "run"]
    known = [atoms_of_text(ARGON, tmp_path) for _ in range(50)]
    for seed, atoms in enumerate(known):
        atoms.rattle(0.1, seed=seed)
        atoms.get_forces()
    write(tmp_path / "known.extxyz", known)
    done = run(*words, "--json", "--max-energy-calls", 2000, "--data", "known.extxyz", cwd=tmp_path)
    assert "warning: twin: not yet good" in done.stderr and "50 energies and forces that were there" in done.stderr
    trained = json.loads(done.stdout)
    assert trained["energy_calls"] <= 2000 and trained["twin_calls"] > 500
    drawn = json.loads(run("sample", "run", *own, "-n", 20, "--nfe", 4, "--json", cwd=tmp_path).stdout)
    assert drawn["energy_calls"] <= 20 <= drawn["twin_calls"]
    assert "calls of the twin" in run("sample", "run", *own, "-n", 20, "--nfe", 4, cwd=tmp_path).stdout
    run("train", "lj13", "--twin", "--out", "other", cwd=tmp_path, code=2)
    for seed, name in ((0, "five.dcd"), (1, "five2.dcd")):
        run("sample", "run", *own, "-n", 20, "--nfe", 4, "--seed", seed, "--out", name, cwd=tmp_path)
    checked = json.loads(run("check", "five.dcd", "--json", cwd=tmp_path).stdout)
    assert 0 < checked["twin_spread"] <= checked["twin_largest"] and 0 < checked["twin_ess_fraction"] <= 1
    assert (
        "if the twin were the potential" in run("compare", "five.dcd", "five2.dcd", "--out", "r", cwd=tmp_path).stdout
    )


@pytest.mark.slow
def test_ase_script_with_a_twin(tmp_path, monkeypatch, tiny_presets):
    monkeypatch.setattr("idem_md.twin.make.DEFAULT", quick())
    monkeypatch.setattr(sys.modules["idem_md.tuning.tune"], "TWIN_NFES", ())
    atoms = atoms_of_text(ARGON, tmp_path)
    dyn = BoltzmannSampler(atoms, 60.0, cache=tmp_path / "cache", twin=True, max_energy_calls=2000, nfe=4, batch=10)
    with pytest.warns(TrainingWarning, match="not yet good"):
        dyn.run(10)
    p = dyn.ensemble.provenance
    assert p["energy_calls"] <= 10 <= p["twin_calls"] and dyn.sampler.checkpoint.twin is not None
