"""Careless or unlucky use: the right value, or one line that says what was expected, and nothing half-done."""

import json
import os
import pickle
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.cluster import Icosahedron
from command import run as command_line
from openmm import app, unit
from safetensors import safe_open

import idem_md
from idem_md import EnergyError, FileFormatError, System, UsageError, WeightedEnsemble
from idem_md.ase import BoltzmannSampler, LennardJonesCluster
from idem_md.baselines import ENGINES
from idem_md.chains import Restraint, run_mala
from idem_md.checkpoint import build_denoiser
from idem_md.cli import main
from idem_md.distillation import Distillation, distill
from idem_md.energies import ASE, Energy, LennardJones, OpenMM
from idem_md.files import write_atomic
from idem_md.nets import NETWORKS
from idem_md.systems import nearest_neighbour_distance
from idem_md.targets import dem_scores
from idem_md.tensor_files import read_tensors, write_tensors
from idem_md.testing import loose_lattice
from idem_md.training import run_samples
from idem_md.tuning import HeadTraining, tune
from idem_md.units import Units

FEW = {"nfe": 3, "last_step_calls": 300}


@pytest.fixture(scope="module")
def few(lj13_sampler):
    return lj13_sampler.sample(40, seed=0, **FEW)


@pytest.fixture(scope="module")
def argon():
    """A foreign potential, and a geometry in Å."""
    topology = idem_md.get_system("lj13").openmm_topology()
    system = app.ForceField("idem_md/lj13.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)
    energy = OpenMM(system, topology, temperature=59.9, length_angstrom=3.822, trap=0)
    return energy, loose_lattice(energy, n=1)[0].numpy() * 3.822


# Torch as others left it

STATES = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "device": lambda: torch.set_default_device("meta"),
    "no gradients": lambda: torch.set_grad_enabled(False),
}


@pytest.fixture(params=STATES)
def odd_torch(request):
    STATES[request.param]()
    before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    yield
    assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()) == before
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)


def test_sampling_does_not_depend_on_what_others_made_of_torch(few, odd_torch):
    again = idem_md.load_sampler("lj13").sample(40, seed=0, **FEW)
    assert np.array_equal(again.positions, few.positions) and np.array_equal(again.log_weights, few.log_weights)
    ENGINES["mala"].run("dw4", 5, 300)
    few.refine(20)


def potentials():
    """Energies and forces of all that is built in, by calls from outside."""
    found = []
    for name in idem_md.SYSTEMS:
        energy, generator = idem_md.get_system(name).energy(), torch.Generator().manual_seed(0)
        shape = (3, energy.n_atoms, energy.n_dims)
        x = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        found += [*energy(x), *energy(x.float())]
    return found


ORDINARY = potentials()


def test_built_in_potentials_do_not_depend_on_it_either(odd_torch):
    for ours, now in zip(ORDINARY, potentials()):
        assert now.dtype == ours.dtype and torch.equal(now, ours)


def test_training_does_not_depend_on_it_either(tiny, tmp_path, odd_torch):
    idem_md.train(tiny, tmp_path / "odd")
    states = [torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()]
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    idem_md.train(tiny, tmp_path / "plain")
    x, y = (idem_md.load_sampler(tmp_path / name).sample(4, nfe=3).positions for name in ("odd", "plain"))
    assert np.array_equal(x, y)
    torch.set_default_dtype(states[0])
    torch.set_default_device(None if states[1].type == "cpu" else states[1])
    torch.set_grad_enabled(states[2])


def made_of_torch(folder, tiny):
    """Parameters of everything that is learnt: networks of every kind, their heads, noise levels."""
    found = {}
    for name in NETWORKS:
        system = idem_md.get_system({"mlp": "gmm40", "painn": "binary"}.get(name, "lj13"))
        torch.manual_seed(0)
        denoiser = build_denoiser(NETWORKS[name].Options(name=name), system)
        found |= {f"{name}.{key}": value for key, value in denoiser.state_dict().items()}
    checkpoint = idem_md.train(tiny, folder / "run")
    few = HeadTraining(steps=2)
    tuned = tune(checkpoint, run_samples(folder / "run"), folder / "model.safetensors", heads=few, nfes={})
    settings = Distillation(steps=100, batch=8, pool=32, renewed=8)
    made = distill(idem_md.load_sampler("gmm40").checkpoint, folder / "state.safetensors", settings)
    for name, other in (("tuned", tuned), ("distilled", made)):
        found |= {f"{name}.{key}": value for key, value in other.denoiser.state_dict().items()}
    return found | {"levels": torch.tensor(tuned.frugal_plan().sigma_1, dtype=torch.float64)}


@pytest.mark.slow
def test_the_default_dtype_is_left_alone(tiny, tmp_path):
    """It is one for all threads, and nothing that we make depends on it."""
    ours = made_of_torch(tmp_path / "ours", tiny)
    seen, over = set(), threading.Event()

    def watch():
        while not over.wait(1e-3):
            seen.add(torch.get_default_dtype())

    torch.set_default_dtype(torch.float64)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        theirs = made_of_torch(tmp_path / "theirs", tiny)
        idem_md.load_sampler("lj13").sample(20, seed=0, **FEW)
    finally:
        over.set()
        watcher.join()
        torch.set_default_dtype(torch.float32)
    assert seen == {torch.float64}
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype and torch.equal(value, theirs[key]), key


def test_in_inference_mode(tiny, tmp_path):
    with torch.inference_mode():
        idem_md.train(tiny, tmp_path / "run")


def test_a_potential_finds_torch_as_its_user_left_it():
    seen = []

    class Nosy(Energy):
        def evaluate(self, x):
            seen.append(torch.get_default_dtype())
            return 0.5 * (x**2).sum((1, 2)), -x

    system = System("nosy", "", lambda: Nosy(4, 3), ("Ar",) * 4, Units(), 1.0)
    torch.set_default_dtype(torch.float64)
    try:
        ENGINES["mala"].run(system, 5, 300)
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(seen) == {torch.float64}


# Quantities


def test_lengths_with_a_unit_are_converted(argon):
    energy, x = argon
    nanometres = unit.Quantity(x / 10, unit.nanometer)
    assert System.of_energy(energy, nanometres).sigma_data == pytest.approx(System.of_energy(energy, x).sigma_data)
    assert nearest_neighbour_distance(nanometres) == pytest.approx(nearest_neighbour_distance(x))
    given = {"temperature": 59.9 * unit.kelvin, "length_angstrom": 0.3822 * unit.nanometer, "trap": 0}
    assert OpenMM(energy.xml, **given).units == energy.units
    system = System.of_energy(energy, x)
    assert system.at(65 * unit.kelvin).units.temperature_kelvin == 65


def test_units_where_none_belong_are_refused(argon, few):
    energy, x = argon
    with pytest.raises(UsageError, match="positions: expected a quantity that is one of angstrom"):
        System.of_energy(energy, unit.Quantity(x, unit.kelvin))
    with pytest.raises(UsageError, match="positions: expected bare numbers"):
        WeightedEnsemble(unit.Quantity(few.positions, unit.angstrom), few.energies, few.log_weights, few.system)
    with pytest.raises(UsageError, match="fn: expected bare numbers"):
        few.expectation(lambda x: unit.Quantity(x[:, 0, 0], unit.angstrom))
    with pytest.raises(UsageError, match="x: expected bare numbers"):
        idem_md.analysis.radius_of_gyration(unit.Quantity(few.positions, unit.angstrom))


# Names and numbers


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".extxyz", ".h5md", ".colvar", ".weights"])
@pytest.mark.parametrize("folder", ["résultats", "with space", "数据"])
def test_any_path_the_file_system_allows(few, tmp_path, suffix, folder):
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / f"échantillon{suffix}"
    assert few.save(path)[0].stat().st_size > 0
    if suffix in (".dcd", ".xtc"):
        assert np.array_equal(idem_md.load_ensemble(path).positions, few.positions)
    few.save(tmp_path / f"plain{suffix}")
    if suffix != ".h5md":  # has its time
        assert path.read_bytes() == (tmp_path / f"plain{suffix}").read_bytes()


def test_everything_that_goes_to_workers_pickles(few, lj13_sampler, argon, tiny):
    systems = [idem_md.get_system(name) for name in idem_md.SYSTEMS]
    things = [few, few.resample(), lj13_sampler, argon[0], tiny, lj13_sampler.plan(), *systems, systems[0].at(65)]
    for thing in things:
        again = pickle.loads(pickle.dumps(thing))
        assert type(again) is type(thing)
    again = pickle.loads(pickle.dumps(few))
    assert again.log_z == few.log_z and np.array_equal(again.positions, few.positions)
    assert np.array_equal(pickle.loads(pickle.dumps(lj13_sampler)).sample(40, seed=0, **FEW).positions, few.positions)


def test_numbers_of_numpy_are_numbers(lj13_sampler, few, tmp_path):
    i, f = np.int64, np.float32
    made = [
        lj13_sampler.sample(i(5), i(3), i(1), last_step_calls=i(300), temperature_K=f(60), moves=i(2)),
        *lj13_sampler.scan(i(5), np.array([59, 60]), nfe=i(3), seed=i(1), last_step_calls=np.int32(300)),
        few.resample(i(5), seed=i(3)),
        few.refine(i(20), seed=i(3), step=f(1e-4)),
        ENGINES["mala"].run("lj13", i(5), i(300), seed=i(1)),
        WeightedEnsemble(few.positions, few.energies, few.log_weights, few.system, {"seed": i(3), "a": np.arange(2)}),
    ]
    for k, ensemble in enumerate(made):
        ensemble.save(tmp_path / f"{k}.dcd")
        assert len(idem_md.load_ensemble(tmp_path / f"{k}.dcd")) == len(ensemble)


# Elements


def masses(*values):
    system, bond = openmm.System(), openmm.HarmonicBondForce()
    for k, mass in enumerate(values):
        system.addParticle(mass)
        if k:
            bond.addBond(k - 1, k, 0.1, 1000)
    system.addForce(bond)
    return system


def test_deuterium_is_hydrogen():
    water = OpenMM(masses(2.014, 15.999, 2.014), temperature=300)
    assert water.elements == ("H", "O", "H")
    x = np.array([[0.1, 0, 0], [1.0, 0, 0], [1.9, 0.1, 0]])
    e = WeightedEnsemble(x[None], np.zeros(1), np.zeros(1), System.of_energy(water, x, "water"))
    assert e.to_ase()[0].get_chemical_formula() == "H2O"


@pytest.mark.parametrize("mass", [3.3, 4.9, 100_000.0])
def test_masses_of_no_element_ask_for_a_topology(mass):
    with pytest.raises(UsageError, match=f"topology: expected one.* particle 1 has the mass {mass:g}"):
        OpenMM(masses(39.948, mass), temperature=300)


# Potentials that are none


class Odd(Calculator):
    implemented_properties = ["energy", "forces"]

    def __init__(self, function):
        super().__init__()
        self.function = function

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        u, f = self.function(self.atoms.positions - self.atoms.positions.mean(0))
        self.results = {"energy": u, "forces": f}


@pytest.mark.parametrize(
    "function,error,message",
    [
        (lambda y: (1.0, np.full_like(y, np.inf)), EnergyError, "finite numbers at the reference geometry"),
        (lambda y: (np.nan, 0 * y), EnergyError, "finite numbers at the reference geometry, got u = nan"),
        (lambda y: (np.inf, 0 * y), EnergyError, "finite numbers at the reference geometry, got u = inf"),
        (lambda y: (-100 * (y**2).sum(), 200 * y), UsageError, "lets atoms escape"),
        (lambda y: (-0.01 * (y**4).sum(), 0.04 * y**3), UsageError, "lets atoms escape"),
        (lambda y: (None, 0 * y), EnergyError, "configuration 0 failed"),
        (lambda y: (1 + 2j, 0 * y), EnergyError, "configuration 0 failed"),
        (lambda y: (1.0, y[:, :2]), EnergyError, "forces of shape"),
    ],
)
def test_potentials_that_cannot_be_sampled_are_found_before_the_work(function, error, message):
    with pytest.raises(error, match=message):
        ASE(Icosahedron("Ar", 2), Odd(function), temperature_K=60, length_angstrom=3.8)


def test_infinite_forces_beside_a_finite_energy_are_refused():
    def torn(y):
        far = np.abs(y).max() > 20
        return (y**2).sum(), np.full_like(y, np.inf) if far else -2 * y

    energy = ASE(Icosahedron("Ar", 2), Odd(torn), temperature_K=60, length_angstrom=3.8)
    with pytest.raises(EnergyError, match="max .f. = inf"):
        energy(torch.from_numpy(Icosahedron("Ar", 2).positions[None] * 3))


def test_a_code_that_knows_no_answer_far_out_will_do_with_a_trap():
    def chain(y):  # a bond that cannot be longer than 100 Å
        r = np.linalg.norm(y[1] - y[0])
        with np.errstate(invalid="ignore"):
            return -np.log(1 - (r / 100) ** 2), 0 * y

    ASE(Icosahedron("Ar", 2), Odd(chain), temperature_K=60)


def test_a_code_that_fails_far_out_will_do_with_a_trap():
    def boxed(y):
        if np.abs(y).max() > 50:
            raise RuntimeError("out of the box")
        return 0.0, 0 * y

    argon = Icosahedron("Ar", 2)
    ASE(argon, Odd(boxed), temperature_K=60)
    with pytest.raises(EnergyError, match="out of the box"):
        ASE(argon, Odd(boxed), temperature_K=60, trap=0)


# Systems and numbers that do not fit


def test_a_checkpoint_of_the_plane_does_not_serve_in_space():
    system = System("lj4", "", lambda: LennardJones(4, 2.0), ("Ar",) * 4, Units(3.8, 60.0), 0.6)
    with pytest.raises(UsageError, match="system: expected 2 dimensions as in the checkpoint, got 3"):
        idem_md.load_sampler("dw4", system)


@pytest.mark.parametrize("name", ["dw4", "lj13"])
def test_chains_and_targets_refuse_nonsense_on_every_route(name):
    energy = idem_md.get_system(name).energy()
    x = loose_lattice(energy, 3).float()
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="step: expected"):
            run_mala(energy, x, bad, 3, seed=0)
        with pytest.raises(UsageError, match="beta: expected"):
            run_mala(energy, x, 1e-3, 3, seed=0, beta=bad)
        with pytest.raises(UsageError, match="stiffness: expected"):
            run_mala(energy, x, 1e-3, 3, seed=0, restraint=Restraint(0 * x, torch.full((3,), bad)))
        with pytest.raises(UsageError, match="sigma: expected"):
            dem_scores(energy, x, torch.full((3,), bad), 10, seed=0)
    with pytest.raises(UsageError, match="n_samples: expected at least 1, got 0"):
        dem_scores(energy, x, torch.ones(3), 0, seed=0)
    with pytest.raises(UsageError, match="sigma: expected 3"):
        dem_scores(energy, x, torch.ones(2), 10, seed=0)


def test_labels_are_whole_numbers(argon):
    energy, x = argon
    with pytest.raises(UsageError, match="labels: expected an integer, got 0.5"):
        System.of_energy(energy, x, labels=[0.5, 0.7, *range(11)])


@pytest.mark.parametrize("values", [lambda x: x[:, 0, 0] * 1j, lambda x: ["a"] * len(x), lambda x: [None] * len(x)])
def test_observables_are_real_numbers(few, values):
    with pytest.raises(UsageError, match="fn: expected real numbers"):
        few.expectation(values)


@pytest.mark.parametrize("source", [None, 3, "", b"lj13", ["lj13"]])
def test_a_sampler_of_nothing(source):
    with pytest.raises(UsageError, match="system: expected a name"):
        idem_md.load_sampler(source)


# The sampler for ASE


def cluster():
    atoms = Icosahedron("Ar", 2)
    atoms.calc = LennardJonesCluster(trap=0.001)
    return atoms


def test_what_the_ase_sampler_lacks_is_said_at_once(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="got 'lj14'"):
        BoltzmannSampler(cluster(), 60, checkpoint="lj14")
    with pytest.raises(FileFormatError):
        BoltzmannSampler(cluster(), 60, checkpoint=tmp_path)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UsageError, match="cache: cannot write"):
            BoltzmannSampler(cluster(), 60, cache=place)
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        with pytest.raises(UsageError, match="cache: cannot write"):
            BoltzmannSampler(cluster(), 60)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UsageError, match="cache: expected a folder"):
        BoltzmannSampler(cluster(), 60)


# Files: whole or not there, and only those that belong together


def names(folder):
    return sorted(path.name for path in folder.iterdir())


SAVE = """
import resource, signal, sys
import idem_md
ensemble = idem_md.load_ensemble("source.npz")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        ensemble.save(sys.argv[1])
        print(limit, "whole")
    except idem_md.UsageError as error:
        print(limit, error)
"""


@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".extxyz", ".h5md", ".colvar", ".weights"])
@pytest.mark.slow
def test_a_disk_that_fills_leaves_all_or_nothing(few, tmp_path, suffix):
    """A limit on the size of files, at which every write of one fails, wherever in the file it is."""
    few.save(tmp_path / "source.dcd")
    whole = max(path.stat().st_size for path in few.save(tmp_path / f"whole{suffix}"))
    for path in few.save(tmp_path / f"whole{suffix}"):
        path.unlink()
    before = names(tmp_path)
    limits = [0, 1, 100, *np.linspace(200, whole - 1, 12).astype(int), whole]
    command = [sys.executable, "-c", SAVE, f"x{suffix}", *map(str, limits)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *failed, last = [line for line in done.stdout.splitlines() if not line.startswith("dcdplugin)")]
    assert all(f"cannot write x{suffix}" in line for line in failed) and last == f"{whole} whole", done.stdout
    made = {*names(tmp_path)} - {*before}
    assert made == {f"x{suffix}", *(("x.pdb", "x.npz") if suffix in (".dcd", ".xtc") else ())}


WORK = """
import resource, signal, sys
from pathlib import Path
import idem_md
from idem_md import report
from idem_md.training import load_config
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
what, *limits = sys.argv[1:]
ensembles = {"a": idem_md.load_ensemble("source.dcd")} | {"b": idem_md.load_ensemble("source.dcd").resample()}
for k, limit in enumerate(map(int, limits)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        if what == "train":
            idem_md.train(load_config(Path("tiny.toml")), Path(f"run{k}"))
        else:
            report.compare(ensembles, Path(f"run{k}"), aligned=False)
        print("whole")
    except idem_md.UsageError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "what,limits,whole",
    [
        (
            "train",
            (0, 10, 500, 5000, 50_000, 10**9),
            ["config.json", "log.jsonl", "model.safetensors", "state.safetensors"],
        ),
        (
            "compare",
            (0, 10, 2000, 20_000, 40_000, 10**6, 10**9),
            ["histograms.png", "index.html", "summary.json", "table.md", "weights.png"],
        ),
    ],
)
def test_a_disk_that_fills_while_a_folder_is_made(few, tmp_path, tiny_toml, what, limits, whole):
    few.save(tmp_path / "source.dcd")
    (tmp_path / "tiny.toml").write_text(tiny_toml(1))
    words = [sys.executable, "-c", WORK, what, *map(str, limits)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    *failed, last = done.stdout.splitlines()
    assert last == "whole" and len(failed) == len(limits) - 1, done.stdout
    assert all("cannot write" in line and "File too large" in line for line in failed), done.stdout
    for k in range(len(limits) - 1):
        folder = tmp_path / f"run{k}"
        # The state of a run may be there: it can go on.
        assert not folder.exists() or set(names(folder)) <= {"config.json", "state.safetensors"}
    assert names(tmp_path / f"run{len(limits) - 1}") == whole


def test_what_killed_processes_left_is_swept(tmp_path):
    hold = "import sys, time; from pathlib import Path; from idem_md.files import atomic_set\n"
    hold += "with atomic_set({0: Path(sys.argv[1]) / 'a.txt'}) as new:\n"
    hold += "    new[0].write_text('half'); print('there', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        write_atomic(tmp_path / "b.txt", b"whole")
        assert len(names(tmp_path)) == 2  # what a living one writes is left alone
        process.kill()
        process.wait()
    (owner,) = tmp_path.glob("*/owner")
    here = owner.read_text()
    for host, age, swept in (("elsewhere", 0, False), ("elsewhere", 25 * 3600, True), (here, 0, True)):
        left = tmp_path / ".idem-md-left"
        left.mkdir()
        (left / "owner").write_text(host)
        os.utime(left, (time.time() - age,) * 2)
        write_atomic(tmp_path / "b.txt", b"whole")
        assert left.exists() != swept
        if not swept:  # locks may not be seen from machine to machine
            (left / "owner").unlink()
            left.rmdir()
    assert names(tmp_path) == ["b.txt"]


def test_a_trajectory_of_other_samples_is_refused(few, tmp_path):
    few.save(tmp_path / "x.dcd")
    other = few.resample(seed=1)
    other.save(tmp_path / "y.dcd")
    # Like after a kill between two renames.
    (tmp_path / "y.dcd").replace(tmp_path / "x.dcd")
    with pytest.raises(FileFormatError, match="x.dcd: expected the trajectory that x.npz was written with"):
        idem_md.load_ensemble(tmp_path / "x.dcd")
    assert len(idem_md.load_ensemble(tmp_path / "x.npz")) == 40
    few.save(tmp_path / "x.dcd")
    few.save(tmp_path / "x.xtc")  # of the same samples: both belong to the NPZ
    assert len(idem_md.load_ensemble(tmp_path / "x.dcd")) == len(idem_md.load_ensemble(tmp_path / "x.xtc")) == 40
    with open(tmp_path / "x.dcd", "r+b") as handle:
        handle.truncate(1000)
    with pytest.raises(FileFormatError, match="a damaged one"):
        idem_md.load_ensemble(tmp_path / "x.dcd")
    (tmp_path / "x.dcd").unlink()
    with pytest.raises(FileFormatError, match="x.dcd: expected the trajectory of x.npz, there is none"):
        idem_md.load_ensemble(tmp_path / "x.dcd")
    other.save(tmp_path / "x.xtc")
    few.save(tmp_path / "x.dcd")
    with pytest.raises(FileFormatError, match="only .dcd belongs to it"):
        idem_md.load_ensemble(tmp_path / "x.xtc")


# Checkpoints


@pytest.fixture
def run(tiny, tmp_path):
    idem_md.train(tiny, tmp_path / "run")
    return tmp_path / "run"


def changed(path, change):
    """A safetensors file with its metadata changed, the checksum left as it was."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize("name,load", [("model", "sampler"), ("state", "resume")])
def test_a_flipped_bit_is_found(run, tiny, name, load):
    path = run / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for place in np.linspace(start, len(data) - 1, 5).astype(int):
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match="checksum"):
            idem_md.load_sampler(run) if load == "sampler" else idem_md.train(tiny, run, resume=True)
        data[place] ^= 1


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda m: m.update(json=m["json"].replace('"lj13"', '"argon"')), "checksum"),
        (lambda m: m.update(version="²"), "expected version 4 or older, got '²'"),
        (lambda m: m.update(version="0"), "expected version"),
        (lambda m: m.update(version="99"), "expected version"),
        (lambda m: (m.pop("sha256"), m.update(json="[" * 100_000)), "JSON header is damaged"),
        (lambda m: (m.pop("sha256"), m.update(json="null")), "does not describe a model|JSON header is damaged"),
        (lambda m: (m.pop("sha256"), m.update(json="{}")), "does not describe a model"),
        (lambda m: m.update(kind="state"), "expected an idem-md model file"),
    ],
)
def test_headers_that_were_changed(run, change, message):
    changed(run / "model.safetensors", change)
    with pytest.raises(FileFormatError, match=message):
        idem_md.load_sampler(run)


def rewritten(path, change):
    """A state with other numbers and a checksum that fits."""
    tensors, header = read_tensors(path, "state")
    change(tensors, header)
    write_tensors(path, "state", tensors, header)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, h: h.update(iteration=10**9, total=10**9),
        lambda t, h: h.update(iteration=-1),
        lambda t, h: h.update(iteration=2.0),
        lambda t, h: h.update(energy_calls=-(10**6)),
        lambda t, h: h.update(energy_calls=0),
        lambda t, h: h.update(seconds=-1.0),
        lambda t, h: h.update(mala_step=0.0),
        lambda t, h: h.update(rings=[[64, 64]]),
        lambda t, h: h.update(rings=[[63, 0]]),
        lambda t, h: h.update(rings=[]),
        lambda t, h: h.update(rings=[[32, 0], [32, 0]]),
        lambda t, h: h.update(rings=[[0, 0], [64, 0]]),
        lambda t, h: h.update(log=h["log"][:-1]),
        lambda t, h: h.update(log=[None] * 5),
        lambda t, h: h.update(filled=[0.0]),
        lambda t, h: h.pop("system"),
        lambda t, h: t.update({"buffer.x": t["buffer.x"][:10]}),
        lambda t, h: t.update({"buffer.x": t["buffer.x"][:, :12]}),
        lambda t, h: t.update({k: torch.cat([t[k], t[k]]) for k in ("buffer.x", "buffer.u", "buffer.f")}),
        lambda t, h: t.update({"buffer.u": t["buffer.u"] * torch.nan}),
        lambda t, h: t.pop("generator"),
    ],
)
def test_states_that_no_run_has_written(run, tiny, change):
    rewritten(run / "state.safetensors", change)
    with pytest.raises(FileFormatError, match="state.safetensors: its contents do not describe a training state"):
        idem_md.train(tiny, run, resume=True)


# Runs


def command(*args, folder, **more):
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "idem-md"), *map(str, args)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def under_way(folder):
    """Wait until two states of a run have been written."""
    state, written = folder / "state.safetensors", set()
    for _ in range(1200):
        if state.exists():
            written.add(state.stat().st_mtime_ns)
        if len(written) > 2:
            return
        time.sleep(0.05)
    raise AssertionError("it does not get on")


@pytest.fixture
def going(tmp_path, tiny_toml):
    (tmp_path / "long.toml").write_text(tiny_toml(100_000))
    process = command("train", "long.toml", "--out", "run", folder=tmp_path)
    under_way(tmp_path / "run")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_two_trainings_in_one_folder(going, tmp_path):
    for more in ([], ["--resume"], ["--overwrite"]):
        second = command_line("train", "long.toml", "--out", "run", *more, cwd=tmp_path, code=2)
        assert f"process {going.pid} on" in second.stderr.splitlines()[-1], second.stderr
    assert going.poll() is None


def test_the_end_of_a_queue_is_like_ctrl_c(going, tmp_path):
    going.terminate()
    out, err = going.communicate(timeout=60)
    assert going.returncode == 143 and "stopped after" in out and "Traceback" not in err
    assert len(idem_md.load_sampler(tmp_path / "run").sample(3, nfe=3)) == 3
    left = ["config.json", "log.jsonl", "model.safetensors", "state.safetensors", "training.png"]
    assert names(tmp_path / "run") == left


def test_a_run_that_was_killed_can_be_sampled_and_goes_on(going, tmp_path, tiny_toml):
    going.kill()
    going.communicate()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    sampler = idem_md.load_sampler(tmp_path / "run")
    assert len(sampler.sample(3, nfe=3)) == 3 and not sampler.checkpoint.provenance["finished"]
    # For a similar potential, too, as from a run that has ended.
    assert len(idem_md.load_sampler(tmp_path / "run", idem_md.get_system("lj13").at(61)).sample(3, nfe=3)) == 3
    done = sampler.checkpoint.provenance["iterations"]
    config = idem_md.training.load_config(tmp_path / "long.toml")
    seen = []
    more = {"resume": True, "stop": lambda: len(seen) > 5, "on_step": lambda: seen.append(1)}
    checkpoint = idem_md.train(config, tmp_path / "run", **more)
    assert checkpoint.provenance["iterations"] > done
    # But for a folder whose owner the kill met before it had written its name: it may be someone's for a minute.
    left = (tmp_path / "run").glob(".idem-md-*")
    assert not [p for p in left if not p.is_dir() or (p / "owner").exists()]


def test_energy_calls_that_a_kill_took_are_booked(tiny, tmp_path, monkeypatch):
    """Those of refining the buffer, where no optimiser step is taken."""
    monkeypatch.setattr("idem_md.training.journal.NOTED_EVERY", 0.0)

    class Killed(BaseException):
        pass

    class Frail(LennardJones):
        """The potential of lj13 by the plain route, killed at some call."""

        limit = 10**9

        def count(self, n):
            super().count(n)
            if self.calls > Frail.limit:
                raise Killed

    system = replace(idem_md.get_system("lj13"), make_energy=lambda: Frail(13, 2.0))
    idem_md.train(tiny, tmp_path / "whole", system=system)
    _, header = read_tensors(tmp_path / "whole" / "state.safetensors", "state")
    third = header["log"][2]["energy_calls"]
    Frail.limit = third + 30
    with pytest.raises(Killed):
        idem_md.train(tiny, tmp_path / "killed", system=system)
    _, saved = read_tensors(tmp_path / "killed" / "state.safetensors", "state")
    noted = int((tmp_path / "killed" / ".energy-calls").read_text())
    assert saved["energy_calls"] == third and noted > third
    Frail.limit = 10**9
    again = idem_md.train(tiny, tmp_path / "killed", system=system, resume=True)
    assert again.provenance["energy_calls"] == header["energy_calls"] + noted - third
    assert ".energy-calls" not in names(tmp_path / "killed")


def test_a_run_of_no_use_can_be_replaced(run, tiny, tmp_path):
    with pytest.raises(UsageError, match="already holds a run; .*--overwrite"):
        idem_md.train(tiny, run)
    assert idem_md.train(tiny, run, overwrite=True).provenance["iterations"] == 5
    with pytest.raises(UsageError, match="overwrite: expected none beside resume"):
        idem_md.train(tiny, run, overwrite=True, resume=True)
    with pytest.raises(UsageError, match="out: expected a folder"):
        idem_md.train(tiny, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="out: cannot write"):
        idem_md.train(tiny, tmp_path / "file")
    # A folder with other things in it keeps them.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_text("")
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="already holds a run"):
        idem_md.train(tiny, tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="config.json that is not of a run"):
        idem_md.train(tiny, tmp_path / "theirs")
    assert (tmp_path / "theirs" / "config.json").read_text() == '{"mine": 1}'
    assert names(tmp_path / "mine") == ["config.json", "model.safetensors"]


# Sizes


@pytest.mark.parametrize(
    "line,message",
    [
        ("sample lj13 -n 99999999999999999999999", "n: expected at most"),
        ("sample lj13 --nfe 999999999999", "nfe: expected at most 100000"),
        ("baseline lj13 -n 99999999999999", "n: expected at most"),
        ("baseline lj13 -n 10 --steps 99999999999999999", "take more than a year"),
        ("baseline lj13 --minutes nan", "seconds: expected a finite number"),
        ("baseline lj13 --energy-calls 99999999999999999999", "energy_calls: expected at most"),
        (f"sample {'x' * 300}", "system: expected one of"),
        (f"sample lj13 --out {'x' * 300}.dcd", "cannot write"),
        ("bench score lj13 --sigma 1e300", "sigma: expected a number below"),
        ("bench score lj13 --sigma nan", "sigma: expected a finite number"),
        ("train lj13 --minutes nan", "minutes: expected a finite number"),
        ("train big.toml", "buffer.size"),
        ("train long.toml", "optimizer.batch"),
        ("train deep.toml", "not valid TOML"),
        ("train lj13 --out ''", "--out"),
        ("compare a.dcd b.dcd --out ' '", "--out"),
    ],
)
def test_what_would_never_end_is_refused(line, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "big.toml").write_text("system = 'lj13'\n[buffer]\nsize = 1000000000000")
    (tmp_path / "long.toml").write_text("system = 'lj13'\n[optimizer]\nbatch = 99999999")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["idem-md", *shlex.split(line)])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and message in err[-1], err
    assert names(tmp_path) == ["big.toml", "deep.toml", "long.toml"]


def test_files_are_not_overwritten_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def cli(line):
        monkeypatch.setattr(sys, "argv", ["idem-md", *line.split()])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err

    for line in ("sample gmm40 -n 5 --out a.dcd", "baseline gmm40 -n 5 --engine exact --out b.dcd"):
        assert cli(line)[0] == 0
        code, err = cli(line)
        assert code == 2 and "out: expected a name that is not taken" in err
        assert cli(f"{line} --overwrite")[0] == 0


# Surroundings

TASK = """
import sys
import numpy as np
np.seterr(all="raise")
import torch
torch.set_default_dtype(torch.float64)
import idem_md
from pathlib import Path
from idem_md import report
from idem_md.analysis import analyse, heat_capacity
ensemble = idem_md.load_sampler("lj13").sample(200, seed=0, nfe=4)
ensemble.expectation(lambda x: (x**2).sum(-1).mean(-1) ** 0.5), heat_capacity(ensemble), analyse(ensemble)
ensemble.save("small.dcd")
idem_md.load_ensemble("small.dcd").refine(20)
chains = idem_md.baselines.ENGINES["mala"].run("lj13", 200, 1000)
report.compare({"ours": ensemble, "chains": chains}, Path("report"), False)
print("done")
"""


@pytest.mark.slow
def test_flags_of_the_interpreter(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    words = [sys.executable, "-W", "error", "-c", TASK]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_only(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "HOME": "/nowhere"}
    with command("sample", "gmm40", "-n", 50, "--out", "x.dcd", folder=tmp_path, env=environment) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and "mean energy" in out and "Traceback" not in err


@pytest.mark.slow
def test_nobody_listens(tmp_path):
    line = f"{Path(sys.executable).parent / 'idem-md'} sample gmm40 -n 50 --out x.dcd --json >&- 2>&-"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=100)
    assert names(tmp_path) == ["x.dcd", "x.npz", "x.pdb"]


def test_shipped_checkpoints_have_checksums():
    for name in ("gmm40", "dw4", "lj13", "lj55"):
        with safe_open(Path(idem_md.__file__).parent / "checkpoints" / name / "model.safetensors", "pt") as handle:
            assert len(handle.metadata()["sha256"]) == 64
