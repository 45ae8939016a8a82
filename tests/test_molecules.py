"""Molecules: which atoms are alike, files with the user's names, torsions, and samples that have left the molecule."""

import inspect
import json
import warnings
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import mdtraj
import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from command import run
from openmm import app

import idem_md
from idem_md import UsageError
from idem_md.analysis import analyse, departures, free_energy_map, torsion_values, torsions_of
from idem_md.analysis.basins import basins
from idem_md.ase import BoltzmannSampler
from idem_md.baselines import ENGINES
from idem_md.baselines.base import RELAX_STEPS
from idem_md.energies import ASE, Energy, OpenMM, Scaled, Topology
from idem_md.ensemble import WeightedEnsemble
from idem_md.errors import FileFormatError, WeightWarning
from idem_md.report.plots import plots
from idem_md.systems import torsions
from idem_md.training import default_preset, run_config
from idem_md.units import Units

ALANINE = Path(__file__).parent.parent / "examples" / "alanine_dipeptide.pdb"
PHI, PSI = (4, 6, 8, 14), (6, 8, 14, 16)


class Springs(Calculator):
    """Springs between all atoms: any two of one element may be exchanged, as nuclei may be."""

    implemented_properties = ("energy", "forces")
    weak: int | None = None  # an atom that is held by weaker ones

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = atoms.positions - atoms.positions.mean(0)
        k = np.where(np.arange(len(x)) == self.weak, 1.0, 2.0)[:, None]
        self.results = {"energy": float(0.5 * (k * x**2).sum()), "forces": -k * x + (k * x).mean(0)}


def of_ase(name, weak=None):
    atoms = molecule(name)
    atoms.calc = Springs()
    atoms.calc.weak = weak
    return idem_md.System.of_energy(ASE(atoms, temperature_K=300.0), atoms.positions, "m")


@pytest.fixture(scope="module")
def alanine():
    pdb = app.PDBFile(str(ALANINE))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    energy = OpenMM(system, pdb.topology, temperature=300.0, platform="Reference")
    return idem_md.System.of_energy(energy, pdb.positions, "alanine")


def ensemble_of(system, x, log_w=None):
    x = np.asarray(x)
    log_w = np.zeros(len(x)) if log_w is None else log_w
    return WeightedEnsemble(x, np.zeros(len(x)), log_w, system, {}, kind="importance")


def turned(system, phi, psi):
    """Positions (n, N, 3) with these torsions of the backbone, all else as in the geometry."""
    x = np.repeat(np.array(system.geometry)[None], len(phi), 0)
    for atoms, angles in ((PHI, phi), (PSI, psi)):
        near, (_, b, c, _) = system.topology.neighbours(), atoms
        side, stack = set(), [c]
        while stack:
            k = stack.pop()
            side.add(k)
            stack += [j for j in near[k] if j not in side and (k, j) != (c, b)]
        moved = sorted(side - {c})
        axis = x[:, c] - x[:, b]
        axis /= np.linalg.norm(axis, axis=1)[:, None]
        angle = np.radians(angles - torsions(x, atoms))[:, None, None]
        r = x[:, moved] - x[:, c][:, None]
        along = (r * axis[:, None]).sum(-1, keepdims=True) * axis[:, None]
        spun = np.cos(angle) * (r - along) + np.sin(angle) * np.cross(axis[:, None], r) + along
        x[:, moved] = x[:, c][:, None] + spun
    return x


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("CH3CH2OH", (0, 1, 2, 3, 4, 4, 5, 5, 5)),
        ("C2H6", (0, 1, 2, 2, 2, 3, 3, 3)),  # two groups, exchanged by two exchanges at once at least
        ("H2O", None),  # what elements say as well
        ("C60", None),  # a cluster of atoms
        ("LiF", None),
    ],
)
def test_atoms_are_alike_that_may_be_exchanged_alone(name, labels):
    assert of_ase(name).labels == labels


def test_a_potential_has_the_last_word_on_which_atoms_are_alike():
    assert of_ase("C2H6", weak=3).labels == tuple(range(8))


def test_what_had_best_be_looked_at_is_said(alanine):
    assert [note.split()[0] for note in alanine.notes] == ["22", "mirror"] and "16 kinds: 21 bonds" in alanine.notes[0]
    assert not idem_md.get_system("lj13").notes and not of_ase("C60").notes
    (length,) = replace(of_ase("C60"), geometry=2.0 * np.array(of_ase("C60").geometry)).notes
    assert length.startswith("nearest neighbours are 2.8 units of length apart") and "length_angstrom=2.77" in length
    (bonds, radical) = of_ase("CH3").notes
    assert "do not alone" in of_ase("C2H6", weak=3).notes[0]
    assert "by the distances say" in bonds and "odd number of electrons" in radical
    pair = molecule("H2O") + molecule("CH4")
    pair.positions[3:] += 4.0
    pair.calc = Springs()
    notes = idem_md.System.of_energy(ASE(pair, temperature_K=300.0), pair.positions, "m").notes
    assert len(notes) == 2 and notes[1].startswith("2 molecules")


def test_bonds_of_a_force_field_without_a_topology():
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(4):
        system.addParticle(12.011)
    for i in range(3):
        bonds.addBond(i, i + 1, 0.153, 2.5e5)
    system.addForce(bonds)
    x = np.array([[0, 0, 0], [1.5, 0, 0.1], [2.3, 1.3, 0], [3.7, 1.2, 0.4]])
    butane = idem_md.System.of_energy(OpenMM(system, temperature=300.0, platform="Reference"), x, "b")
    assert butane.labels == (0, 1, 2, 3) and butane.topology.source == "force field"
    assert torsions_of(butane) == ["dihedral:0,1,2,3"]
    with pytest.raises(UsageError, match="exchanging atoms 0 and 3"):
        idem_md.System.of_energy(OpenMM(system, temperature=300.0, platform="Reference"), x, "b", labels=(0, 1, 1, 0))


def test_files_have_the_names_residues_and_bonds_of_the_topology(alanine, tmp_path):
    e = ensemble_of(alanine, turned(alanine, np.array([-80.0, 60.0]), np.array([70.0, -40.0])))
    for suffix in (".dcd", ".h5md", ".extxyz"):
        e.save(tmp_path / f"a{suffix}")
    trajectory = mdtraj.load(str(tmp_path / "a.dcd"), top=str(tmp_path / "a.pdb"))
    assert [residue.name for residue in trajectory.topology.residues] == ["ACE", "ALA", "NME"]
    assert trajectory.topology.n_bonds == len(alanine.topology.bonds) == 21
    assert np.allclose(np.degrees(mdtraj.compute_phi(trajectory)[1][:, 0]), [-80, 60], atol=0.1)
    assert [trajectory.topology.atom(k).name for k in trajectory.topology.select("backbone")][-2:] == ["N", "C"]
    again = app.PDBFile(str(tmp_path / "a.pdb"))
    app.ForceField("amber14-all.xml").createSystem(again.topology)
    known = idem_md.load_ensemble(tmp_path / "a.dcd").system
    assert known.topology == alanine.topology and known.chemistry.centres == alanine.chemistry.centres
    with h5py.File(tmp_path / "a.h5md") as file:
        assert file["connectivity/bonds"].shape == (21, 2)
    frame = ase.io.read(tmp_path / "a.extxyz", index=0)
    assert frame.arrays["residuenames"].tolist()[6] == "ALA" and frame.arrays["atomtypes"].tolist()[8] == "CA"
    assert Topology.of_atoms(frame).labels(frame.get_chemical_symbols()) == alanine.labels


def test_torsions_are_those_of_mdtraj(alanine):
    x = np.random.default_rng(0).normal(size=(200, 22, 3))
    trajectory = ensemble_of(alanine, x).to_mdtraj()
    assert np.allclose(torsions(x, PHI), np.degrees(mdtraj.compute_phi(trajectory)[1][:, 0]), atol=1e-2)


def test_observables_of_torsions_with_basins_and_a_map(alanine, tmp_path):
    """Two thirds near (-80, 70), a third near (60, -40), by weights as by numbers."""
    rng, n = np.random.default_rng(1), 6000
    left = rng.random(n) < 0.5
    phi = np.where(left, -80.0, 60.0) + 12 * rng.standard_normal(n)
    psi = np.where(left, 70.0, -40.0) + 12 * rng.standard_normal(n)
    e = ensemble_of(alanine, turned(alanine, phi, psi), np.where(left, np.log(2.0), 0.0))
    (found,) = (f for f in analyse(e, ["phi"], ["phi"]) if f.basins)
    shares = sorted((basin.share, basin.error) for basin in found.basins)
    assert len(shares) == 2 and all(abs(s - want) < 4.5 * d for (s, d), want in zip(shares, (1 / 3, 2 / 3)))
    for name in ("phi", "phi2", "dihedral:4,6,8,14"):
        (mean,) = analyse(e, [name])
        assert mean.value is None and np.isclose((mean.curve.values * np.diff(mean.curve.edges)).sum(), 1.0)
    plane = free_energy_map(e, "phi", "psi")
    i, j = np.unravel_index(np.nanargmin(plane.values), plane.values.shape)
    assert abs(plane.x_edges[i] + 6 + 80) < 13 and abs(plane.y_edges[j] + 6 - 70) < 13
    e.save(tmp_path / "a.dcd")
    out = run("analyse", "a.dcd", "--observable", "dihedral:4,6,8,14,rg", "--profile", "psi", "--map", "phi,psi",
              "--plot", "m.png", "--json", cwd=tmp_path).stdout  # fmt: skip
    shown = run("analyse", "a.dcd", "--observable", "rg", "--map", "phi,psi", cwd=tmp_path).stdout
    assert "map of phi" in shown and "lowest at" in shown
    table = json.loads(out)
    assert [f["name"] for f in table["findings"]] == ["dihedral:4,6,8,14", "rg", "free energy along psi"]
    assert len(table["findings"][2]["basins"]) == 2 and len(table["map"]["values"]) == 30
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_few_samples_of_one_basin_are_one_basin(alanine):
    rng = np.random.default_rng(0)
    for n in (120, 400, 3000):
        phi = (-60 + 60 * rng.standard_normal(n) + 180) % 360 - 180
        e = ensemble_of(alanine, turned(alanine, phi, np.full(n, 70.0)))
        assert basins(e, phi) == ()


def test_a_comparison_with_a_file_without_names(alanine):
    e = ensemble_of(alanine, turned(alanine, np.linspace(-90, -60, 150), np.linspace(60, 80, 150)))
    e = replace(e, energies=np.linspace(0, 1, 150))
    bare = replace(e, system=replace(alanine, topology=None))
    for sets in ({"a": e, "b": bare}, {"b": bare, "a": e}):
        assert {"phi", "psi"} <= {plot.key for plot in plots(sets)}


def test_residues_with_numbers_of_all_kinds(alanine):
    top = alanine.topology
    x = np.array(alanine.geometry)[None]
    for residues, name in (
        ((("ACE", "-2", "A"), ("ALA", "-1", "A"), ("NME", "0", "A")), "phi-1"),
        ((("ACE", "2", "A"), ("ALA", "2", "B"), ("NME", "2", "C")), "phi2"),
    ):
        e = ensemble_of(replace(alanine, topology=replace(top, residues=residues)), x)
        assert np.isclose(torsion_values(e, name)[0], torsions(x, PHI)[0])
        assert torsions_of(e.system) == ["phi", "psi"]
    apart = tuple(bond for bond in top.bonds if set(bond) != {4, 6})
    assert "phi" not in torsions_of(replace(alanine, topology=replace(top, bonds=apart)))


@pytest.mark.parametrize(
    "name", ["phi3", "dihedral:0,1,2", "dihedral:0,1,2,99", "dihedral:0,1,1,2", "dihedral:a,b,c,d"]
)
def test_torsions_that_are_not_there(alanine, name):
    e = ensemble_of(alanine, np.array(alanine.geometry)[None])
    with pytest.raises(UsageError, match="observable|dihedral"):
        analyse(e, [name])


def test_samples_that_have_left_the_molecule_are_named(alanine, tmp_path):
    x = np.array(alanine.geometry)
    broken = x.copy()
    broken[9] += broken[9] - broken[8]
    hydrogen = x[17] - x[16]
    cis = x.copy()  # the last methyl group in the place of the hydrogen atom, and that in its
    cis[17] = x[16] + (x[18] - x[16]) / np.linalg.norm(x[18] - x[16]) * np.linalg.norm(hydrogen)
    shift = x[16] + hydrogen / np.linalg.norm(hydrogen) * np.linalg.norm(x[18] - x[16]) - x[18]
    cis[18:22] += shift
    found = {one.what: one for one in departures(ensemble_of(alanine, [x, x, -x, broken, cis]))}
    assert {what: one.samples for what, one in found.items()} == {
        "bond ALA2-CA ALA2-HA broken": 1,
        "stereocentre ALA2-CA inverted": 1,
        "torsion about ALA2-C NME3-N turned": 1,
    }
    assert all(np.isclose(one.share, 0.2) for one in found.values())
    assert not departures(ensemble_of(idem_md.get_system("lj13"), np.zeros((2, 13, 3))))
    ensemble_of(alanine, [x] * 40 + [broken]).save(tmp_path / "a.dcd")
    (only,) = json.loads(run("check", "a.dcd", "--json", cwd=tmp_path).stdout)["departures"]
    assert only["what"] == "bond ALA2-CA ALA2-HA broken" and only["samples"] == 1
    assert "bond ALA2-CA ALA2-HA broken" in run("check", "a.dcd", cwd=tmp_path).stdout


def test_atoms_that_are_alike_do_not_turn_a_double_bond():
    for name in ("CH3CONH2", "C2H4", "C3H6_Cs", "butadiene"):
        assert not of_ase(name).chemistry.rigid
    assert len(of_ase("trans-butane").chemistry.turning) == 1 and not of_ase("C2H4").chemistry.turning


class Handed(Springs):
    """Springs, and a term that tells mirror images apart, which vanishes with its gradient nowhere but in a plane."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        a, b, c, _ = (atoms.positions[k] - atoms.positions[4] for k in range(4))
        self.results["energy"] += 0.05 * float(np.dot(a, np.cross(b, c)))


def test_a_potential_that_tells_mirror_images_apart_keeps_them():
    """A carbon atom with four different others, three of which are in its plane in the geometry."""
    made = []
    for calculator in (Springs(), Handed()):
        atoms = Atoms("FClBrHC", positions=[[1.35, 0, 0], [-0.8, 1.55, 0], [-0.9, -1.7, 0], [0, 0, 1.09], [0, 0, 0]])
        atoms.calc = calculator
        made.append(idem_md.System.of_energy(ASE(atoms, temperature_K=300.0), atoms.positions, "m"))
    assert [len(s.chemistry.centres) for s in made] == [1, 1]
    assert [s.mirror_images for s in made] == [True, False]
    assert not made[0].with_energy(made[1].energy()).mirror_images


def test_molecules_in_the_plane_have_no_chemistry():
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(3):
        system.addParticle(12.011)
    bonds.addBond(0, 1, 0.15, 2e5)
    bonds.addBond(1, 2, 0.15, 2e5)
    system.addForce(bonds)
    energy = OpenMM(system, temperature=300.0, n_dims=2, platform="Reference")
    plane = idem_md.System.of_energy(energy, np.array([[0, 0], [1.5, 0.2], [2.2, 1.6]]), "p")
    assert plane.labels == (0, 1, 0) and plane.chemistry is None and not plane.rotations.bonds


def test_mirror_images_are_reflected_back(alanine):
    x = np.array(alanine.geometry, dtype=np.float32)
    assert alanine.mirror_images and not of_ase("CH3CH2OH").mirror_images
    folded = alanine.of_one_hand(np.stack([x, -x, np.full_like(x, np.nan)]))
    assert np.array_equal(folded[0], x) and np.array_equal(folded[1], x) and np.isnan(folded[2]).all()
    assert folded.dtype == np.float32


def test_chains_of_a_molecule_begin_at_its_geometry(alanine):
    e = ENGINES["mala"].configured().run(alanine, 8, 250, seed=0)
    assert not departures(e)


class Chain(Energy):
    """Four carbon atoms in a chain of springs, with a torsion: 8 (1 + cos 3 phi) + 0.6 (1 + cos phi), kT."""

    def __init__(self):
        super().__init__(4, 3)
        self.units, self.elements = Units(1.53, 300.0), ("C",) * 4
        self.topology = Topology.of_bonds(self.elements, ((0, 1), (1, 2), (2, 3)), "topology")

    def evaluate(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            a, b, c = y[:, 1] - y[:, 0], y[:, 2] - y[:, 1], y[:, 3] - y[:, 2]
            u, v, cosine = torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.nn.functional.cosine_similarity
            t = cosine(u, v)
            lengths = torch.stack([w.norm(dim=-1) for w in (a, b, c)])
            bends = torch.stack([cosine(a, b), cosine(b, c)])
            torsion = 8 * (1 + 4 * t**3 - 3 * t) + 0.6 * (1 + t)
            energy = 100 * ((lengths - 1) ** 2).sum(0) + 60 * ((bends - 0.4) ** 2).sum(0) + torsion
            (gradient,) = torch.autograd.grad(energy.sum(), y)
        return energy.detach(), -gradient


def test_tempering_turns_the_bonds_of_molecules(monkeypatch):
    """From trans alone over barriers of 16 kT; the calls that are counted are those that are made."""
    monkeypatch.setattr("idem_md.baselines.pt.TUNING_STEPS", 100)
    x = np.array([[-0.6, 1.4, 0], [0, 0, 0], [1.53, 0, 0], [2.1, -1.4, 0.1]])
    butane = idem_md.System.of_energy(Chain(), x, "b")
    engine = ENGINES["pt"].configured()
    monkeypatch.setattr(engine, "minimum_steps", 400, raising=False)
    e = engine.run(butane, 100, 400, seed=0)
    spared = 100 * 8 * RELAX_STEPS  # which noise takes
    assert e.provenance["energy_calls"] == engine.calls(100, 400) - spared and len(e.provenance["betas"]) == 8
    phi = np.linspace(-np.pi, np.pi, 20_001)
    weight = np.exp(-8 * (1 + np.cos(3 * phi)) - 0.6 * (1 + np.cos(phi)))
    exact = weight[np.abs(phi) > 2 * np.pi / 3].sum() / weight.sum()
    share = (np.abs(torsions(e.positions, range(4))) > 120).mean()
    assert abs(share - exact) < 4.5 * (exact * (1 - exact) / 100) ** 0.5
    budget = ENGINES["pt"].configured().run(butane, 5, energy_calls=60_000, seed=0)
    assert budget.provenance["energy_calls"] <= 60_000
    engine = ENGINES["pt"].configured()
    engine._rotations = butane.rotations.bonds
    assert [engine._legs(k) for k in (0, 1, 10, 11, 21, 25)] == [[], [1], [10], [11], [10, 11], [10, 10, 5]]


def test_cheap_potentials_get_more_walkers(alanine):
    energy = alanine.energy()
    ours = [replace(alanine, make_energy=lambda e=e: e) for e in (energy, Scaled(energy, 0.5))]
    for seconds, name in ((3e-5, "classical"), (1e-3, "frugal"), (0.0, "frugal")):
        energy.seconds_a_call = seconds
        assert {default_preset(s, calls) for s in ours for calls in (None, 100_000)} == {name}
    assert default_preset(alanine, twin=True) == "twin"
    few, many = (idem_md.preset(alanine, "classical", max_energy_calls=n).buffer for n in (100_000, 10**8))
    assert 32 <= few.walkers < many.walkers == 512 == 2 * idem_md.preset(alanine, "frugal").buffer.walkers


def test_molecules_get_a_ladder(alanine):
    config = idem_md.preset(alanine, "frugal")
    assert (config.ladder.coldest, config.ladder.hottest, config.ladder.cold, config.least_gain) == (300, 900, 0.5, 0)
    assert (config.optimizer.batch, config.optimizer.inner_steps, config.optimizer.iterations) == (64, 200, 120)
    assert idem_md.preset(alanine, "frugal", temperatures=(300, 500)).ladder.hottest == 500
    twin = idem_md.preset(alanine, "twin")
    assert twin.ladder is None and twin.buffer.torsions > 0 and idem_md.preset(of_ase("H2O"), "frugal").ladder is None
    assert idem_md.preset(of_ase("C60"), "frugal").ladder is None
    networks = [config.network, twin.network, idem_md.preset(of_ase("H2O"), "frugal").network]
    assert [(n.pair_factors, n.refinements) for n in networks] == [(True, 1), (True, 1), (False, 0)]
    assert [n.normalised for n in networks] == [True, True, False]
    classical, frugal = (idem_md.preset(alanine, name).model_dump() for name in ("classical", "frugal"))
    more = {"walkers": 512, "refine_steps": 50}
    assert classical == {**frugal, "buffer": {**frugal["buffer"], **more}}


def test_a_molecule_from_training_to_samples_of_one_hand(alanine, tiny_presets, tmp_path):
    checkpoint = idem_md.train(idem_md.preset(alanine, "frugal"), tmp_path / "run", system=alanine)
    assert checkpoint.system.labels == alanine.labels and len(checkpoint.rungs) >= 2
    again = idem_md.train(run_config(tmp_path / "run"), tmp_path / "run", system=alanine, resume=True)
    assert again.digest == checkpoint.digest
    e = idem_md.load_sampler(tmp_path / "run", alanine).sample(24, nfe=4, kernel="ddpm", last_step="plain", seed=0)
    assert e.alive.all() and not alanine.chemistry.inverted(e.positions).any()  # half of them, without
    e.save(tmp_path / "a.dcd")
    assert mdtraj.load(str(tmp_path / "a.dcd"), top=str(tmp_path / "a.pdb")).topology.n_bonds == 21


def molecule_of(atoms):
    """Another copy with a calculator."""
    other = atoms.copy()
    other.positions = molecule("CH3CH2OH").positions
    other.calc = EMT()
    return other


def test_boltzmann_sampler_of_a_molecule(tiny_presets, tmp_path, monkeypatch):
    """Its arrays stay, its labels are by its bonds, its walkers are in a ladder."""
    monkeypatch.setitem(inspect.unwrap(idem_md.tuning.tune).__globals__, "LEVEL_SAMPLES", 8)
    atoms = molecule("CH3CH2OH")
    atoms.calc = EMT()
    atoms.set_array("names", np.array([f"a{k}" for k in range(9)]))
    dyn = BoltzmannSampler(atoms, 300.0, cache=tmp_path / "cache", max_energy_calls=20_000, nfe=4, batch=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)  # of a network that has learnt nothing
        dyn.run(3)
    assert dyn.system.labels == (0, 1, 2, 3, 4, 4, 5, 5, 5) and dyn.sampler.temperatures_K == (300.0, 900.0)
    older = json.loads((tmp_path / "cache" / "potential.json").read_text()) | {"labels": None}
    (tmp_path / "cache" / "potential.json").write_text(json.dumps(older))
    again = BoltzmannSampler(molecule_of(atoms), 300.0, cache=tmp_path / "cache")
    assert again.system.labels is None  # as a version had it that did not know bonds
    (tmp_path / "cache" / "potential.json").write_text(json.dumps(older | {"isomer": "of another"}))
    with pytest.raises(FileFormatError, match="another isomer"):
        BoltzmannSampler(molecule_of(atoms), 300.0, cache=tmp_path / "cache").run(1)
    assert atoms.arrays["names"][8] == "a8" and dyn.ensemble.to_ase()[0].arrays["atomtypes"][2] == "O1"
