"""The ASE side: calculator and dynamics object."""

import json
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.cluster import Icosahedron
from ase.io import read
from ase.optimize import BFGS

import idem_md
from idem_md.ase import BoltzmannSampler, LennardJonesCluster
from idem_md.checkpoint import build_denoiser, load_checkpoint
from idem_md.errors import BudgetExhausted, FileFormatError, UsageError, WeightWarning
from idem_md.training import TrainingConfig

KT = 59.9 * units.kB


def argon(trap=KT / 3.822**2):
    atoms = Icosahedron("Ar", 2, latticeconstant=3.822 * 2**0.5)
    atoms.calc = LennardJonesCluster(trap=trap)
    return atoms


def test_calculator_is_ases_own_potential():
    """With the same epsilon and sigma = r_min / 2^(1/6), no cut-off and no shift; and it relaxes."""
    atoms = argon(trap=0.0)
    atoms.rattle(0.2, seed=1)
    other = atoms.copy()
    other.calc = AseLennardJones(epsilon=119.8 * units.kB, sigma=3.822 / 2 ** (1 / 6), rc=1e4, smooth=False)
    shift = (
        other.calc.parameters.epsilon
        * 4
        * ((other.calc.parameters.sigma / 1e4) ** 12 - (other.calc.parameters.sigma / 1e4) ** 6)
    )
    assert abs(atoms.get_potential_energy() - other.get_potential_energy() - 78 * shift) < 1e-10
    assert np.allclose(atoms.get_forces(), other.get_forces(), atol=1e-10)
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    assert abs(atoms.get_potential_energy() / (119.8 * units.kB) + 44.326801) < 1e-5  # the global minimum of LJ-13


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: LennardJonesCluster(sigma=3.4), "sigma: expected one of epsilon, r_min, trap"),
        (
            lambda: Atoms(
                "Ar2", [[0, 0, 0], [4, 0, 0]], pbc=True, cell=[20] * 3, calculator=LennardJonesCluster()
            ).get_potential_energy(),
            "periodic",
        ),
        (
            lambda: Atoms(
                "Ar2", [[0, 0, 0], [4, 0, 0]], calculator=LennardJonesCluster(epsilon=-1.0)
            ).get_potential_energy(),
            "epsilon: expected",
        ),
        (lambda: BoltzmannSampler(Atoms("Ar2", [[0, 0, 0], [4, 0, 0]]), 60), "atoms: expected a calculator"),
        (lambda: BoltzmannSampler(argon(), -60), "temperature_K: expected"),
        (lambda: BoltzmannSampler(argon(0.0), 60, trap=0), "trap: expected a positive"),
        (lambda: BoltzmannSampler(argon(), 60, workers=2), "workers: expected none"),
        (lambda: BoltzmannSampler(argon(), 60, nfe=1), "nfe: expected"),
        (lambda: BoltzmannSampler(argon(), 60).ensemble, "ensemble: expected at least one step"),
        (lambda: BoltzmannSampler(Icosahedron("Ar", 3, latticeconstant=5.4), 60), "atoms: expected a calculator"),
        (lambda: BoltzmannSampler(argon(), 60, checkpoint="lj99").run(1), "system: expected one of"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_behaves_like_a_dynamics_object(tmp_path):
    atoms, path, log = argon(), tmp_path / "ar13.traj", tmp_path / "ar13.log"
    dyn = BoltzmannSampler(
        atoms, temperature_K=60, checkpoint="lj13", nfe=20, batch=40, seed=3, trajectory=path, logfile=str(log)
    )
    seen, every = [], []
    dyn.attach(lambda: seen.append((dyn.nsteps, atoms.info["log_weight"])), interval=10)
    dyn.attach(lambda start: every.append(atoms.positions.copy() + start), 1, 0.0)
    dyn.run(60)
    last = list(dyn.irun(20))
    assert last == [False] * 19 + [True]
    assert [n for n, _ in seen] == list(range(10, 81, 10)) and len(every) == 80 and dyn.get_number_of_steps() == 80
    frames = read(path, ":")
    ensemble = dyn.ensemble
    assert len(frames) == len(ensemble) == 80 and len(set(dyn.log_weights)) == 80
    kT = ensemble.system.units.kT_eV
    for k, frame in enumerate(frames):
        assert frame.info["log_weight"] == dyn.log_weights[k] == ensemble.log_weights[k]
        assert np.allclose(frame.positions, ensemble.positions[k] * 3.822) and np.allclose(frame.positions, every[k])
        assert abs(frame.get_potential_energy() / kT - ensemble.energies[k]) < 1e-6 * (1 + abs(ensemble.energies[k]))
    lines = log.read_text().splitlines()
    assert "log_weight" in lines[0] and len(lines) == 81
    # The weights are those of 60 K and this trap, not of what the checkpoint was trained for.
    assert ensemble.system.units.temperature_kelvin == 60 and ensemble.ess > 3
    last = dyn.sampler.plan(20).build_last_step()  # annealing, moves, and each end point in double precision
    anneal = last.last_step
    assert ensemble.provenance["energy_calls"] == 80 * (anneal.chains * anneal.schedule.calls + 1 + last.moves + 2)
    # Same seed, same samples; another batch size is another stream.
    again = BoltzmannSampler(argon(), temperature_K=60, checkpoint="lj13", nfe=20, batch=40, seed=3)
    again.run(45)
    assert again.log_weights == dyn.log_weights[:45]


def test_a_given_checkpoint_brings_its_length():
    """An ordinary geometry need not be a relaxed one."""
    atoms = argon()
    atoms.positions *= 1.06
    atoms.calc = AseLennardJones(sigma=3.405, epsilon=0.0103, rc=100)
    dyn = BoltzmannSampler(atoms, temperature_K=60, checkpoint="lj13")
    assert dyn.system.units.length_angstrom == idem_md.get_system("lj13").units.length_angstrom


def test_failed_samples_keep_their_place(monkeypatch):
    atoms = argon()
    dyn = BoltzmannSampler(atoms, temperature_K=60, checkpoint="lj13", nfe=4, batch=5)
    real = dyn.sampler.sample

    def sample(*args, **kwargs):
        e = real(*args, **kwargs)
        x, u, w = e.positions.copy(), e.energies.copy(), e.log_weights.copy()
        x[1], u[1], w[1] = np.nan, np.inf, -np.inf
        return idem_md.WeightedEnsemble(x, u, w, e.system, e.provenance, e.kind)

    monkeypatch.setattr(dyn._sampler, "sample", sample)
    dyn.run(1)
    before = atoms.positions.copy()
    dyn.run(1)
    assert np.array_equal(atoms.positions, before) and atoms.info["log_weight"] == -np.inf
    dyn.run(1)
    assert not np.array_equal(atoms.positions, before) and len(dyn.ensemble) == 3


def copper():
    atoms = Icosahedron("Cu", 2)
    atoms.numbers[0] = 79  # one of gold: two kinds
    atoms.calc = EMT()
    return atoms


def _refuses_a_call_for_an_energy(dyn):
    """Energies of samples are known: a user's calculator is asked for forces alone."""
    atoms, calculator, calls = dyn.atoms, dyn.atoms.calc, []

    class Counted(EMT):
        def calculate(self, *arguments):
            calls.append(1)
            super().calculate(*arguments)

    atoms.calc = Counted()
    for k, _ in enumerate(dyn.irun(2), 1):
        known, forces = atoms.get_potential_energy(), None if k == 1 else atoms.get_forces()
        assert len(calls) == k - 1 and np.isclose(known, calculator.get_potential_energy(atoms), rtol=1e-6)
    assert np.allclose(forces, calculator.get_forces(atoms)) and isinstance(atoms.calc, Counted)


@pytest.mark.slow
@pytest.mark.parametrize("make", [argon, copper])
def test_trains_at_first_use_and_finds_it_again(make, tiny_presets, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    atoms = make()
    atoms.positions += 3.0
    dyn = BoltzmannSampler(atoms, temperature_K=900, nfe=4, batch=8)
    dyn.run(8)
    assert np.allclose(atoms.positions.mean(0), make().positions.mean(0) + 3.0)  # they stay where they were
    (folder,) = (tmp_path / "idem-md").iterdir()
    assert make().get_chemical_formula() in folder.name and "900K" in folder.name
    written = (folder / "model.safetensors").stat().st_mtime_ns
    other = make()
    other.rattle(0.05, seed=2)
    other.positions += 3.0
    again = BoltzmannSampler(other, temperature_K=900, nfe=4, batch=8)
    again.run(8)
    # The centroid is another by rounding.
    assert (
        np.allclose(again.log_weights, dyn.log_weights, rtol=1e-9)
        and (folder / "model.safetensors").stat().st_mtime_ns == written
    )
    checkpoint = dyn.sampler.checkpoint
    assert checkpoint.denoiser.has("elastic_network") and bool(checkpoint.plans) == (
        make is argon
    )  # EMT's calls are expensive
    assert np.isfinite(dyn.log_weights).all()
    if make is not argon:
        _refuses_a_call_for_an_energy(again)
    # From the files alone: the geometry and units are known, the potential is if it is native.
    dyn.ensemble.save(tmp_path / "a.dcd")
    loaded = idem_md.load_ensemble(tmp_path / "a.dcd")
    assert (
        loaded.system.elements == tuple(make().get_chemical_symbols())
        and loaded.to_ase()[0].symbols.get_chemical_formula() == make().get_chemical_formula()
    )
    if make is argon:
        assert np.allclose(loaded.system.energy()(torch.tensor(loaded.positions))[0], loaded.energies)
        assert len(idem_md.load_sampler(folder).sample(2, nfe=2)) == 2
        return
    with pytest.raises(UsageError, match="in Python as system="):
        idem_md.load_sampler(folder).sample(2, nfe=2)


def test_one_network_for_several_temperatures(tiny_presets, tmp_path):
    """Trained once, in units of the lowest temperature, and found again at another one of the range."""

    def sampler(kelvin, temperatures=(600.0, 900.0)):
        return BoltzmannSampler(copper(), kelvin, temperatures=temperatures, cache=tmp_path / "c", nfe=4, batch=4)

    dyn = sampler(700.0)
    dyn.run(4)
    written = (tmp_path / "c" / "model.safetensors").stat().st_mtime_ns
    assert dyn.sampler.temperatures_K == pytest.approx((600.0, 900.0))
    assert dyn.ensemble.system.units.temperature_kelvin == 700.0
    again = sampler(880.0)
    again.run(4)
    assert (tmp_path / "c" / "model.safetensors").stat().st_mtime_ns == written
    # The same energies: calculator and trap, in kT of each temperature.
    x = torch.tensor(dyn.ensemble.positions)
    u, v = (sampler.system.energy()(x)[0] for sampler in (dyn, again))
    assert torch.allclose(700 * u, 880 * v, rtol=1e-9)
    for temperatures, message in (
        ((900.0, 600.0), "temperatures: expected two numbers, the lower one first"),
        ((750.0, 900.0), "temperatures: expected two with 700 K between them"),
        (900.0, "temperatures: expected two numbers, the lowest and the highest, got 900.0"),
        ((600.0, 950.0), "holds a sampler for the temperatures .*900.0.*, got .*950.0"),
        (None, "holds a sampler for the temperatures .*900.0.*, got None"),
    ):
        with pytest.raises((UsageError, FileFormatError), match=message):
            sampler(700.0, temperatures)
    with pytest.raises(UsageError, match="temperatures: expected none beside checkpoint"):
        BoltzmannSampler(argon(), 60.0, temperatures=(50.0, 70.0), checkpoint="lj13")


@pytest.mark.slow
def test_a_cache_of_another_potential_is_refused(tiny_presets, tmp_path):
    BoltzmannSampler(argon(), temperature_K=900, nfe=4, batch=2, cache=tmp_path / "c").run(1)
    other = argon()
    other.calc.parameters["epsilon"] *= 1.001
    with pytest.raises(FileFormatError, match="another potential"):
        BoltzmannSampler(other, temperature_K=900, nfe=4, cache=tmp_path / "c").run(1)
    (tmp_path / "c" / "potential.json").write_text("{")
    with pytest.raises(FileFormatError, match="cannot be read"):
        BoltzmannSampler(argon(), temperature_K=900, nfe=4, cache=tmp_path / "c").run(1)
    (tmp_path / "c" / "potential.json").unlink()
    with pytest.raises(FileFormatError, match="unknown origin"):
        BoltzmannSampler(argon(), temperature_K=900, nfe=4, cache=tmp_path / "c").run(1)


@pytest.mark.slow
def test_stopped_while_heads_are_trained_it_goes_on_there(tiny_presets, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    def sampler():
        return BoltzmannSampler(argon(), temperature_K=900, nfe=4, cache=tmp_path / "c").sampler

    with monkeypatch.context() as patched:
        patched.setattr("idem_md.ase.first_use.tune", stopped)
        with pytest.raises(KeyboardInterrupt):
            sampler()
    trained = load_checkpoint(tmp_path / "c" / "model.safetensors")
    found = sampler().checkpoint
    assert found.provenance["energy_calls"] == trained.provenance["energy_calls"]
    assert found.denoiser.has("elastic_network") and not trained.denoiser.has("elastic_network")


def test_low_call_training_makes_no_calls_for_targets(tiny_presets, tmp_path):
    """The budget holds, and what was spent is the buffer's: relaxing, refining, storing."""
    dyn = BoltzmannSampler(copper(), temperature_K=900, cache=tmp_path / "c", nfe=4, batch=2, max_energy_calls=950)
    dyn.run(2)
    provenance = dyn.sampler.checkpoint.provenance
    # Filling: 11 x 16 (relaxing and storing) and 20 rounds of (1 + 1) x 16; an iteration: 16 x 3 and as many for
    # exchanges of unlike atoms, and 4 fresh, relaxed, stored.
    filling, iteration = 11 * 16 + 20 * 2 * 16, 6 * 16
    assert (
        filling + iteration <= provenance["energy_calls"] <= 950
        and provenance["iterations"] == 1
        and not provenance["finished"]
    )
    with pytest.raises(BudgetExhausted, match="first buffer takes 816"):
        BoltzmannSampler(copper(), temperature_K=900, cache=tmp_path / "d", nfe=4, max_energy_calls=815).run(1)
    first = (tmp_path / "c" / "log.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["energy_calls"] == filling + iteration


def test_kinds_of_atoms_break_permutation_symmetry_between_them_only():
    system = idem_md.get_system("binary")
    assert system.kinds == (0,) * 10 + (1,) * 3
    torch.manual_seed(0)
    denoiser = build_denoiser(TrainingConfig.parse({"system": "binary"}, "test").network, system)
    x = torch.randn(3, 13, 3)
    sigma = torch.tensor([0.05, 0.3, 1.0])
    with torch.no_grad():
        torch.nn.init.normal_(denoiser.net.kind.weight)
        d = denoiser(x, sigma)
        within, across = list(range(13)), list(range(13))
        within[2], within[7], within[10], within[12] = 7, 2, 12, 10
        across[2], across[11] = 11, 2
        assert torch.allclose(denoiser(x[:, within], sigma), d[:, within], atol=1e-5)
        assert not torch.allclose(denoiser(x[:, across], sigma), d[:, across], atol=1e-3)
        with pytest.raises(UsageError, match="expected the 13 atoms"):
            denoiser(x[:, :12], sigma)


def test_labels_set_atoms_of_one_element_apart():
    energy = idem_md.energies.Harmonic(3)
    energy.units, energy.elements = idem_md.get_system("lj13").units, ("H", "O", "H")
    x = np.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert idem_md.System.of_energy(energy, x).kinds == (0, 1, 0)
    apart = idem_md.System.of_energy(energy, x, labels=[0, 1, 2])
    assert apart.kinds == (0, 1, 2) and idem_md.System.described(apart.describe()).kinds == (0, 1, 2)
    for bad, message in ((dict(labels=[0]), "labels: expected"), (dict(name="lj13"), "name: expected")):
        with pytest.raises(UsageError, match=message):
            idem_md.System.of_energy(energy, x, **bad)
    with pytest.raises(UsageError, match="positions: expected"):
        idem_md.System.of_energy(energy, x[:2])


def test_a_sampler_refuses_other_kinds():
    with pytest.raises(UsageError, match="system: expected 13 atoms of kinds"):
        idem_md.load_sampler("lj13", idem_md.get_system("binary"))


def test_boltzmann_sampler_warns_of_all_its_samples_at_the_line_of_the_user():
    """Once a run, not of every batch, and by the names of its own arguments."""
    atoms = argon()
    atoms.calc = LennardJonesCluster(epsilon=2 * 59.9 * units.kB, r_min=3.822, trap=59.9 * units.kB / 3.822**2)
    dyn = BoltzmannSampler(atoms, 59.9, checkpoint="lj13", batch=20)
    with pytest.warns(WeightWarning, match="more samples .steps of run.") as caught:
        dyn.run(20)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dyn.run(60)
    assert dyn.ensemble.ess > 30


def test_a_network_of_argon_samples_xenon():
    """In units of the minimum of its own potential."""
    atoms = argon()
    atoms.calc = LennardJonesCluster(epsilon=2 * 100 * units.kB, r_min=4.6, trap=100 * units.kB / 4.6**2)
    dyn = BoltzmannSampler(atoms, 100.0, checkpoint="lj13")
    assert dyn.system.units.length_angstrom == 4.6
    x = torch.randn(3, 13, 3, dtype=torch.float64)
    assert torch.allclose(dyn.system.energy()(x)[0], idem_md.get_system("lj13").energy()(x)[0], rtol=1e-5)
    foreign = Icosahedron("Cu", 2)
    foreign.calc = EMT()
    dyn = BoltzmannSampler(foreign, 900.0, checkpoint="lj13")
    assert dyn.system.units.length_angstrom == idem_md.get_system("lj13").units.length_angstrom
