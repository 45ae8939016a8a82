"""Lennard-Jones potentials of ASE calculators are evaluated natively, and travel with the files."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.cluster import Icosahedron
from command import run as command

import idem_md
from idem_md.ase import LennardJonesCluster
from idem_md.energies import ASE, LennardJones
from idem_md.energies.native_ase import added_trap, native_energy, native_potential
from idem_md.training import default_preset

EPSILON, SIGMA = 0.0103, 3.405


def argon(**options):
    atoms = Icosahedron("Ar", 2, latticeconstant=5.4)
    atoms.calc = AseLennardJones(epsilon=EPSILON, sigma=SIGMA, **options)
    return atoms


def test_ases_own_without_a_cutoff_is_native():
    atoms = argon(rc=1000.0)
    energy = native_energy(atoms, 60.0, added_trap(atoms))
    assert isinstance(energy, LennardJones) and energy.units.length_angstrom == pytest.approx(2 ** (1 / 6) * SIGMA)
    scale = energy.units.length_angstrom
    x = (atoms.positions - atoms.positions.mean(0))[None] / scale
    foreign = ASE(atoms, temperature_K=60.0, length_angstrom=scale)
    (u, f), (v, g) = energy(torch.from_numpy(x)), foreign(torch.from_numpy(x))
    assert torch.allclose(u, v, rtol=1e-6) and torch.allclose(f, g, rtol=1e-5, atol=1e-5)
    in_angstrom = native_energy(atoms, 60.0, added_trap(atoms), 1.0)
    assert torch.allclose(in_angstrom(torch.from_numpy(x * scale))[0], u, rtol=1e-9)
    assert default_preset(idem_md.System.of_energy(energy, atoms.positions, "ar13")) == "refined"
    assert default_preset(idem_md.System.of_energy(foreign, atoms.positions, "ar13")) == "frugal"
    assert default_preset(idem_md.System.of_energy(foreign, atoms.positions, "ar13"), 8000, twin=True) == "twin"


class Halved(AseLennardJones):
    """Not what it seems."""


@pytest.mark.parametrize("options", [{}, {"rc": 60.0}, {"rc": 1000.0, "smooth": True}])
def test_with_a_cutoff_it_is_not(options):
    assert native_potential(argon(**options)) is None


def test_what_else_is_not(monkeypatch):
    atoms = argon(rc=1000.0)
    atoms.calc = Halved(epsilon=EPSILON, sigma=SIGMA, rc=1000.0)
    assert native_potential(atoms) is None and added_trap(atoms) == 0.05
    atoms = argon(rc=1000.0)
    get = Atoms.get_potential_energy  # a version of ASE with another formula
    monkeypatch.setattr(Atoms, "get_potential_energy", lambda self: 1.01 * get(self))
    assert native_potential(atoms) is None


def test_a_description_has_the_potential():
    atoms = argon()
    atoms.calc = LennardJonesCluster(epsilon=EPSILON, r_min=3.8, trap=1e-4)
    assert added_trap(atoms) == 0.0
    system = idem_md.System.of_energy(native_energy(atoms, 60.0, 0.0), atoms.positions, "ar13")
    again = idem_md.System.described(json.loads(json.dumps(system.describe())))
    x = torch.from_numpy(np.array(system.geometry))[None]
    assert again.has_energy and torch.equal(again.energy()(x)[0], system.energy()(x)[0])
    assert again.parameters == system.parameters and again.units == system.units
    cold = idem_md.System.described(system.at(30.0).describe())
    assert cold.energy()(x)[0] == pytest.approx(2 * float(system.energy()(x)[0]))
    table = {**system.describe(), "potential": {"lennard_jones": {"epsilon": -1.0}}}
    with pytest.raises(ValueError, match="epsilon: expected"):
        idem_md.System.described(table)
    built_in = idem_md.get_system("binary")
    assert idem_md.System.described({**built_in.describe(), "name": "other"}).parameters == built_in.parameters


@pytest.mark.slow
def test_commands_take_the_folder_alone(tmp_path, tiny_toml):
    """A network for a calculator's Lennard-Jones is trained, sampled, gone on with and checked by its folder."""
    (tmp_path / "my.py").write_text(
        "from ase.calculators.lj import LennardJones\nfrom ase.cluster import Icosahedron\n\n\ndef argon():\n"
        "    atoms = Icosahedron('Ar', 2, latticeconstant=5.4)\n"
        f"    atoms.calc = LennardJones(epsilon={EPSILON}, sigma={SIGMA}, rc=1000.0)\n    return atoms\n"
    )
    (tmp_path / "ar13.toml").write_text(tiny_toml(2).replace("'lj13'", "'ar13'"))
    own = ("--calculator", "./my.py:argon", "--temperature", 60)
    command("train", "ar13.toml", *own, "--out", "cache", "--elastic-network-steps", 0, cwd=tmp_path)
    sampler = idem_md.load_sampler(tmp_path / "cache")
    assert isinstance(sampler.system.energy(), LennardJones)
    base = ("-n", 20, "--nfe", 4, "--last-step", "plain", "--json")
    found = json.loads(command("sample", "cache", *base, "--out", "a.dcd", cwd=tmp_path).stdout)
    assert found["n"] == 20
    command("extend", "a.dcd", "-n", 5, "--sampler", "cache", cwd=tmp_path)
    command("baseline", "cache", "--engine", "pt", "-n", 30, "--steps", 1000, "--out", "pt.dcd", cwd=tmp_path)
    facts = json.loads(command("check", "a.dcd", "--reference", "pt.dcd", "-n", 10, "--json", cwd=tmp_path).stdout)
    assert facts["basins"]
