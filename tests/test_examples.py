"""Every example runs; the tests call its `main` with small numbers."""

import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.cluster import Octahedron

import idem_md
from idem_md.errors import TrainingWarning
from idem_md.twin import FitSettings, TwinSettings

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
# A training that learns nothing to speak of.
LITTLE = {
    "network": {"channels": 16, "layers": 2},
    "target": {"name": "buffer"},
    "buffer": {"size": 16, "fresh": 4, "sampling_steps": 4, "relax_steps": 5, "warmup_steps": 40, "refine_steps": 1},
    "optimizer": {"batch": 8, "inner_steps": 5, "iterations": 3},
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_forgotten():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {p.stem for p in EXAMPLES.glob("*.py")} <= tested


def test_ase_lj_cluster(tmp_path, capsys):
    mean, error = load("ase_lj_cluster").main(tmp_path)
    exact = -42.92 * 119.8 / 2 * 8.617333262e-5
    assert abs(mean - exact) < 4 * error + 0.002 and 0 < error < 0.05  # 60 K, not 59.9
    assert "400 frames" in capsys.readouterr().out


def test_dcd_for_mdtraj(tmp_path, capsys):
    radius = load("dcd_for_mdtraj").main(tmp_path)
    assert 0.38 < radius < 0.50 and "effective samples" in capsys.readouterr().out


def test_openmm_system(capsys):
    (mean, error), (md_mean, md_error) = load("openmm_system").main()
    assert (
        abs(mean - md_mean) < 4.5 * (error**2 + md_error**2) ** 0.5 and "Langevin dynamics" in capsys.readouterr().out
    )


def test_pipeline(tmp_path, capsys):
    result = load("pipeline").main(tmp_path, n=60)
    assert result["n"] == 60 and capsys.readouterr().out.count("log_z") == 2


def test_butane(tmp_path, capsys):
    """With a network that learns nothing to speak of; what it gives with its own numbers is in docs/results.md."""
    example = load("butane")
    config = idem_md.TrainingConfig.parse({"system": "butane", **LITTLE}, "test")
    raw, (share, _), exact = example.main(tmp_path / "run", n=20, steps=3, config=config)
    assert 0 <= raw <= 1 and 0 <= share <= 1 and abs(exact - 0.6505) < 1e-4
    assert "by quadrature" in capsys.readouterr().out
    assert example.is_trans(example.all_trans()[None]).tolist() == [1.0]


def test_butane_all_atoms(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("idem_md.baselines.pt.TUNING_STEPS", 20)
    monkeypatch.setattr(sys.modules["idem_md.baselines.pt"].TemperingEngine, "minimum_steps", 40)
    monkeypatch.setitem(inspect.unwrap(idem_md.tuning.tune).__globals__, "LEVEL_SAMPLES", 8)
    example = load("butane_all_atoms")
    config = idem_md.TrainingConfig.parse({"system": "butane14", **LITTLE}, "test")
    raw, (share, _), exact = example.main(tmp_path, n=12, steps=3, config=config, reference_calls=9000)
    assert 0 <= raw <= 1 and 0 <= share <= 1 and 0 <= exact[0] <= 1 and "replica exchange" in capsys.readouterr().out
    assert example.system().labels == (0, 1, 2, 3, 4, 5, 4, 4, 5, 5, 6, 6, 7, 7)


def test_alanine_dipeptide(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("idem_md.baselines.pt.TUNING_STEPS", 20)
    monkeypatch.setattr(sys.modules["idem_md.baselines.pt"].TemperingEngine, "minimum_steps", 40)
    monkeypatch.setattr("idem_md.analysis.maps.MIN_ESS_FOR_SHAPES", 0.0)
    monkeypatch.setitem(inspect.unwrap(idem_md.tuning.tune).__globals__, "LEVEL_SAMPLES", 8)
    example = load("alanine_dipeptide")
    config = idem_md.TrainingConfig.parse({"system": "alanine", **LITTLE}, "test")
    e = example.main(tmp_path, n=12, steps=3, config=config)
    assert len(e) == 12 and e.system.topology.residues[1][0] == "ALA"
    assert len(example.reference(tmp_path, 12, 9000)) == 12
    example.compare(tmp_path)
    assert "of two halves of the reference" in capsys.readouterr().out and (tmp_path / "reference.png").exists()


def test_cu13_emt(tmp_path, monkeypatch, capsys):
    """The whole of it with small numbers; what it gives with its own is in README."""
    monkeypatch.setitem(inspect.unwrap(idem_md.tuning.tune).__globals__, "LEVEL_SAMPLES", 8)
    config = idem_md.TrainingConfig.parse({"system": "cu13", **LITTLE}, "test")
    energies = load("cu13_emt").main(tmp_path / "run", n=20, workers=None, refine_steps=3, config=config)
    assert all(len(u) == 20 for u in energies) and "all weights finite: True" in capsys.readouterr().out


def test_heat_capacity(tmp_path, monkeypatch):
    from idem_md import Sampler

    scan = Sampler.scan
    monkeypatch.setattr(Sampler, "scan", lambda self, *args, **rest: scan(self, *args, last_step_calls=8000, **rest))
    ours, theirs = load("heat_capacity").main(tmp_path / "c.png", "lj13", (56, 64), 300, 300, 2000)
    for a, b in zip(ours, theirs):
        (u, du), (v, dv) = a.mean_energy, b.mean_energy
        assert abs(u - v) < 5 * (du**2 + dv**2) ** 0.5 < 10
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_compare_with_md(tmp_path, monkeypatch, capsys):
    """With small numbers; what it gives with its own is in docs/guides/comparing-with-md.md."""
    example = load("compare_with_md")
    monkeypatch.setattr(example, "CORES", 1)
    monkeypatch.setattr(example, "LADDER", (1.0, 0.5))
    raced = example.race(tmp_path, n=200, seconds=0.5)
    for label, e in raced.items():
        mean, error = e.mean_energy
        assert e.ess < 30 or abs(mean + 42.92) < 5 * error + 0.1, label
    assert (tmp_path / "lj13" / "index.html").exists()
    crossed = example.barriers(n=2000, steps=3000, reference_steps=1000)
    (ours, error), _ = crossed["idem-md"]
    assert abs(ours - 0.826) < 4.5 * error + 0.02  # by tempering, with the example's own numbers
    assert crossed["openmm Langevin"][0][0] < 0.3 and crossed["native MALA"][0][0] < 0.5  # chains stay where they began
    covered = example.mixture(n=600, steps=3000)
    assert covered["idem-md"].missing < 0.15 < 0.5 < covered["ase Langevin"].missing
    example.figure(raced, crossed, covered, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000 and "modes found" in capsys.readouterr().out


def test_own_clusters(tmp_path, monkeypatch, capsys):
    """With a network that learns nothing to speak of; what it gives with its own numbers is in docs/results.md."""
    example = load("own_clusters")
    monkeypatch.setattr("idem_md.ase.first_use.ELASTIC_NETWORK_STEPS", 5)
    monkeypatch.setattr(
        "idem_md.ase.first_use.preset",
        lambda system, *_: idem_md.TrainingConfig.parse({"system": system.name, **LITTLE}, "test"),
    )
    (_, error), (_, other), row = example.main("cu8au5", tmp_path, seed=3, samples=20, chains=6, steps=250)
    assert 0 < other < 10 and (tmp_path / "cu8au5-3" / "model.safetensors").exists()
    out = capsys.readouterr().out
    assert "effective of 20" in out and "standard errors apart" in out and "gold inside" in out
    assert row.startswith("| cu8au5 | 1200 |") and row.count("|") == 11
    assert len(example.noble("Ar", 19)) == 19 and len(set(example.alloy().symbols)) == 2


@pytest.fixture
def little_twin(monkeypatch):
    """A twin and a network that learn nothing to speak of."""
    few = FitSettings(steps=20, batch=16)
    twin = TwinSettings({"name": "painn", "channels": 8, "layers": 1, "n_basis": 8}, 930, 30, 1, 0.0, "", few, few)
    monkeypatch.setattr("idem_md.twin.make.DEFAULT", twin)
    monkeypatch.setattr("idem_md.twin.gather.ROUND_STEPS", 2)
    monkeypatch.setattr("idem_md.ase.first_use.ELASTIC_NETWORK_STEPS", 5)
    monkeypatch.setattr(sys.modules["idem_md.tuning.tune"], "TWIN_NFES", ())
    monkeypatch.setattr(
        "idem_md.ase.first_use.preset",
        lambda system, *_: idem_md.TrainingConfig.parse({"system": system.name, **LITTLE}, "test"),
    )


def test_salt_xtb(tmp_path, monkeypatch, capsys, little_twin):
    """With a potential that is there."""
    example = load("salt_xtb")
    monkeypatch.setattr(example, "TIMES", 1)
    monkeypatch.setattr(example, "ROUNDS", 10)
    atoms = Atoms("Cu3Au2", Octahedron("Cu", 2).positions[:5], calculator=EMT())
    with pytest.warns(TrainingWarning, match="not yet good"):
        ours, theirs = example.main(tmp_path, 3, True, atoms, n=12, budget={"max_energy_calls": 2000}, chains=3)
    assert len(ours) == 12 and len(theirs) == 30 and (tmp_path / "salt-3.dcd").exists()
    total = example.shares(theirs, 3.1)[0].sum()
    out = capsys.readouterr().out
    assert abs(total - 1) < 1e-9 and "an effective sample" in out and "Langevin:" in out


def test_ethanol_xtb(tmp_path, monkeypatch, capsys, little_twin):
    """With a potential that is there, by which ethanol stays what it is for some steps."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = load("ethanol_xtb")
    atoms = molecule("CH3CH2OH", calculator=EMT())
    hydrogen, oxygen, carbon, methyl = example.hydroxyl(atoms)
    assert [atoms.symbols[k] for k in (hydrogen, oxygen, carbon, methyl)] == ["H", "O", "C", "C"]
    monkeypatch.setattr(sys.modules["salt_xtb"], "ROUNDS", 10)
    with pytest.warns(TrainingWarning, match="not yet good"):
        ours, theirs = example.main(tmp_path, 3, True, atoms, n=12, budget={"max_energy_calls": 2000}, chains=3)
    assert len(ours) == 12 and len(theirs) == 30 and (tmp_path / "ethanol-3.dcd").exists()
    out = capsys.readouterr().out
    assert "energy calls for the twin" in out and "Langevin:" in out
    x = []
    for degrees in (180, 60, -60, -70):
        atoms.set_dihedral(methyl, carbon, oxygen, hydrogen, degrees, indices=[hydrogen])
        x.append(atoms.positions.copy())
    turned = idem_md.WeightedEnsemble(np.array(x), np.zeros(4), np.zeros(4), ours.system, kind="equilibrium")
    assert np.allclose(example.shares(turned, (hydrogen, oxygen, carbon, methyl))[0], (0.25, 0.25, 0.5))
