"""Potentials of one's own on the command line, from training to a report."""

import json
import os
import sys
from dataclasses import replace

import pytest
from command import run

import idem_md
from idem_md import UsageError
from idem_md.checkpoint import load_checkpoint
from idem_md.cli.potential import atoms_of, own_system, system_of_network
from idem_md.training import PRESETS
from idem_md.units import trap_stiffness

COPPER = """
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron


def atoms():
    cluster = Icosahedron("Cu", 2)
    cluster.calc = EMT()
    return cluster


def nothing():
    return None
"""


ARGON = """
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron


def atoms():
    cluster = Icosahedron("Ar", 2, 3.8)
    cluster.calc = LennardJones(sigma=3.405, epsilon=0.0103, rc=100)
    return cluster


def native():
    cluster = Icosahedron("Ar", 2, 3.8)
    cluster.calc = LennardJones(sigma=3.405, epsilon=0.0103, rc=1000)
    return cluster


def shifted():
    cluster = Icosahedron("Ar", 2, 3.8)
    cluster.calc = LennardJones(sigma=3.41, epsilon=0.0102, rc=25.0)
    return cluster


def trapped():
    from idem_md.ase import LennardJonesCluster

    cluster = Icosahedron("Ar", 2, 3.8)
    cluster.calc = LennardJonesCluster(trap=0.001)
    return cluster
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, smallest_toml):
    folder = tmp_path_factory.mktemp("own")
    (folder / "copper.py").write_text(COPPER)
    (folder / "tiny.toml").write_text(smallest_toml("cu13"))
    return folder


def cli(folder, *args, code=0):
    done = run(*args, cwd=folder, code=code)
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("function,kelvin", [("copper:atoms", 900.0), ("argon:native", 60.0), ("argon:trapped", 60.0)])
def test_the_trap_of_a_training_is_that_of_what_comes_after(folder, monkeypatch, function, kelvin):
    """For foreign potentials, native ones, and native ones with a trap of their own."""
    monkeypatch.chdir(folder)
    (folder / "argon.py").write_text(ARGON)
    system = own_system("mine", function, None, kelvin, trap=0.3)
    assert trap_stiffness(system.parameters, system.units.length_angstrom) == pytest.approx(0.3)
    shipped = idem_md.load_sampler("lj13").checkpoint
    for told in (system, idem_md.System.described(system.describe())):
        network = replace(shipped, system=told, provenance={"trap_kT_per_angstrom2": 0.3})
        again = system_of_network(network, function, None)
        assert trap_stiffness(again.parameters, again.units.length_angstrom) == pytest.approx(0.3)
    usual = system_of_network(shipped, function, None)  # whose trap is not that of a network for another potential
    expected = 0.001 / usual.units.kT_eV if function == "argon:trapped" else 0.05
    assert trap_stiffness(usual.parameters, usual.units.length_angstrom) == pytest.approx(expected)
    with pytest.raises(UsageError, match="trap: expected none for a built-in system, got 0.3"):
        own_system("lj13", None, None, None, trap=0.3)
    if function == "argon:trapped":
        with pytest.raises(UsageError, match="trap: expected at least that of the calculator, 0.193"):
            own_system("mine", function, None, kelvin, trap=0.1)


@pytest.mark.slow
def test_a_calculator_from_training_to_samples(folder):
    own = ("--calculator", "copper:atoms")
    cli(
        folder,
        "train",
        "tiny.toml",
        *own,
        "--temperature",
        900,
        "--trap",
        0.1,
        "--out",
        "run",
        "--elastic-network-steps",
        0,
    )
    assert load_checkpoint(folder / "run" / "model.safetensors").provenance["trap_kT_per_angstrom2"] == 0.1
    assert json.loads(cli(folder, "info", "run", "--json"))["system"] == "cu13"
    sampled = ("sample", "run", "-n", 12, "--nfe", 4, "--last-step", "plain")
    # Without the potential there is nothing to weigh with.
    assert "the potential of 'cu13' is not part of this file" in cli(folder, *sampled, code=2)
    found = json.loads(cli(folder, *sampled, *own, "--out", "s.dcd", "--json"))
    assert found["n"] == 12 and found["energy_calls"] == 12

    def trap(file):
        return idem_md.load_ensemble(folder / file).provenance["parameters"]["trap_kT_per_angstrom2"]

    assert trap("s.dcd") == 0.1
    # A run that was killed before its model was written knows its trap, and so does one that goes on.
    (folder / "run" / "model.safetensors").unlink()
    cli(folder, *sampled, *own, "--out", "k.dcd", "--json")
    assert trap("k.dcd") == 0.1
    again = ("train", "tiny.toml", *own, "--temperature", 900, "--out", "run", "--elastic-network-steps", 0, "--resume")
    assert "the trap was 0.1 kT/Å^2 in that run, now it is 0.2" in cli(folder, *again, "--trap", 0.2, code=2)
    md = ("baseline", "run", "--engine", "ase", *own, "-n", 12, "--steps", 40)
    assert json.loads(cli(folder, *md, "--out", "md.dcd", "--json"))["chains"] >= 1
    e = idem_md.load_ensemble(folder / "md.dcd")
    assert e.system.units.temperature_kelvin == 900 and e.system.elements == ("Cu",) * 13
    assert trap("md.dcd") == 0.1


def test_a_shipped_network_for_a_calculator(folder):
    sampled = ("sample", "lj13", "-n", 12, "--nfe", 4, "--last-step", "plain", "--calculator", "argon:atoms")
    (folder / "argon.py").write_text(ARGON)
    assert json.loads(cli(folder, *sampled, "--out", "a.dcd", "--json"))["n"] == 12
    e = idem_md.load_ensemble(folder / "a.dcd")
    assert e.system.name == "lj13-own" and e.system.units == idem_md.get_system("lj13").units
    # Paths end on a cheaper one, whose calls are counted apart; to go on takes it again.
    by_twin = ("--calculator", "argon:shifted", "--twin-calculator", "argon:native")
    result = json.loads(cli(folder, "sample", "lj13", "-n", 12, "--nfe", 6, *by_twin, "--out", "c.dcd", "--json"))
    assert result["energy_calls"] <= 12 < result["twin_calls"]
    more = json.loads(cli(folder, "extend", "c.dcd", "-n", 6, *by_twin, "--json"))
    assert more["n"] == 18 and more["energy_calls"] <= 18
    assert "twin-calculator: expected --calculator or --xml beside it" in cli(
        folder, "sample", "lj13", "-n", 2, *by_twin[2:], "--out", "d.dcd", code=2
    )
    # Its samples are those of the built-in potential, of no use for plans of another one.
    tuning = cli(folder, "tune", "lj13", "--calculator", "argon:atoms", "--out", "tuned", code=2)
    assert "name: expected one that is not taken by a built-in system, got 'lj13'" in tuning


@pytest.mark.slow
def test_an_openmm_system_by_its_file(folder):
    import openmm
    from openmm import app

    top = app.Topology()
    chain = top.addChain()
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(3):
        top.addAtom("Ar", app.Element.getBySymbol("Ar"), top.addResidue("AR", chain))
        system.addParticle(39.948)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        bonds.addBond(i, j, 0.38, 2000.0)
    system.addForce(bonds)
    (folder / "triangle.xml").write_text(openmm.XmlSerializer.serialize(system))
    nm = [openmm.Vec3(0, 0, 0), openmm.Vec3(0.38, 0, 0), openmm.Vec3(0.19, 0.33, 0)]
    with open(folder / "triangle.pdb", "w") as file:
        app.PDBFile.writeFile(top, nm * openmm.unit.nanometer, file)
    md = ("baseline", "triangle", "--engine", "openmm", "--xml", "triangle.xml", "--temperature", 120)
    found = json.loads(cli(folder, *md, "-n", 200, "--steps", 4000, "--out", "t.dcd", "--json"))
    assert found["ess"] > 10 and abs(found["kinetic_temperature"] - 1) < 0.3
    # Three bonds of 1/2 kT each, three centres in a weak trap that holds their distances no further.
    assert 0.8 < found["mean_energy"] < 3.5
    e = idem_md.load_ensemble(folder / "t.dcd")
    assert e.system.units.length_angstrom == pytest.approx(3.8, abs=0.01)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("x", "copper", None, 900), "calculator: expected MODULE:FUNCTION, got 'copper'"),
        (("x", "nowhere:atoms", None, 900), "'nowhere:atoms' failed .ModuleNotFoundError"),
        (("x", "copper:magic", None, 900), "'copper:magic' failed .AttributeError"),
        (("x", "copper:nothing", None, 900), "expected ase.Atoms with a calculator"),
        (("x", "copper:atoms", None, None), "temperature: expected one, in kelvin"),
        (("lj13", "copper:atoms", None, 900), "name: expected one that is not taken"),
    ],
)
def test_what_is_wrong_is_said(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    with pytest.raises(UsageError, match=message):
        own_system(*arguments)
    assert len(atoms_of("copper:atoms")) == 13


def test_files_that_are_not_there_are_said(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="xml: cannot read nowhere.xml and nowhere.pdb"):
        own_system("x", None, folder.__class__("nowhere.xml"), 100)
    with pytest.raises(UsageError, match="xml: expected none beside --calculator"):
        own_system("x", "copper:atoms", folder.__class__("a.xml"), 100)
    assert own_system("lj13", None, None, None) is None
    assert os.getcwd() == str(folder)


@pytest.mark.slow
def test_training_goes_on_with_another_budget(folder, tiny, monkeypatch):
    """With the settings that the first budget chose."""
    table = {
        "network": tiny.network.model_dump(),
        "target": {"name": "buffer"},
        "buffer": {
            "size": 128,
            "walkers": 64,
            "fresh": 4,
            "weighted": 128,
            "sampling_steps": 4,
            "relax_steps": 20,
            "warmup_steps": 60,
            "refine_steps": 5,
        },
        "optimizer": {"batch": 8, "inner_steps": 2, "iterations": 20},
    }
    monkeypatch.setitem(PRESETS._parts, "frugal", {"any": table})
    own = ("--calculator", "copper:atoms", "--temperature", 900)
    train = ("train", "cu13", *own, "--out", "again", "--json")
    first = json.loads(cli(folder, *train, "--max-energy-calls", 4000))
    assert first["energy_calls"] <= 4000
    config = json.loads((folder / "again" / "config.json").read_text())
    assert config["buffer"]["walkers"] == 32
    more = json.loads(cli(folder, *train, "--max-energy-calls", 5000, "--resume"))
    assert first["energy_calls"] <= more["energy_calls"] <= 5000
    # A run of another system is not gone on with.
    assert "cannot resume: system was 'cu13'" in cli(folder, "train", "lj13", "--out", "again", "--resume", code=2)
