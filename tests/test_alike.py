"""Potentials that a system is made of: unlike atoms, topologies in another order, and energies without a floor."""

from dataclasses import replace

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from command import run
from openmm import app, unit

import idem_md
from idem_md import EnergyError, System, UsageError
from idem_md.ase import BoltzmannSampler
from idem_md.baselines import ENGINES
from idem_md.energies import OpenMM
from idem_md.sampler import Sampler

WATER = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.927, 0]])
DIMER = np.concatenate([WATER, WATER + [0.3, 0.1, 2.9]])
# Hydrogens of one water are alike, and no others.
LABELS = [0, 1, 1, 2, 3, 3]
UNLIKE = r"labels: expected the same label only for atoms that are interchangeable; exchanging atoms \d and \d \([HO]\)"


def water():
    """A flexible TIP3P dimer, whose hydrogens have charges and no repulsion, with its topology."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):
        residue = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    system = app.ForceField("tip3p.xml").createSystem(
        topology, constraints=None, rigidWater=False, nonbondedMethod=app.NoCutoff
    )
    return system, topology


@pytest.fixture(scope="module")
def dimer():
    system, topology = water()
    return OpenMM(system, topology, temperature=300.0, reference=DIMER, platform="Reference")


class Butane(Calculator):
    """Four atoms in a row, by springs."""

    implemented_properties = ["energy", "forces"]
    name = "butane"

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        f, u = np.zeros_like(x), 0.0
        for i, j, length, k in ((0, 1, 1.5, 10), (1, 2, 1.5, 10), (2, 3, 1.5, 10), (0, 2, 2.5, 2), (1, 3, 2.5, 2)):
            d = x[i] - x[j]
            r = np.linalg.norm(d)
            u += 0.5 * k * (r - length) ** 2
            f[i] -= k * (r - length) * d / r
            f[j] += k * (r - length) * d / r
        self.results = {"energy": u, "forces": f}


def butane():
    atoms = Atoms("C4", [[0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0], [3.5, 1.4, 0.2]])
    atoms.calc = Butane()
    return atoms


# Every way in


@pytest.fixture(scope="module")
def files(tmp_path_factory, smallest_toml):
    """The dimer and butane as the command line takes them."""
    folder = tmp_path_factory.mktemp("unlike")
    system, topology = water()
    (folder / "w2.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(folder / "w2.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, DIMER * unit.angstrom, handle)
    (folder / "w2.toml").write_text(smallest_toml("w2"))
    return folder


def test_a_trap_for_what_bonds_do_not_hold_together(dimer):
    system, topology = water()
    assert dimer.trap == 0.05 and OpenMM(system, topology, temperature=300.0, trap=0.3).trap == 0.3
    system.getForce(0).addBond(0, 3, 0.3, 0.0)  # of no stiffness
    assert OpenMM(system, topology, temperature=300.0).trap == 0.05
    system.getForce(0).addBond(0, 3, 0.3, 1.0)
    assert OpenMM(system, topology, temperature=300.0).trap == 0.0


def test_unlike_atoms_in_python(dimer):
    calls = dimer.calls
    assert System.of_energy(dimer, DIMER).labels == tuple(LABELS)  # by the bonds of the topology
    with pytest.raises(UsageError, match=f"{UNLIKE} alone takes the energy from .* to .* kT"):
        System.of_energy(dimer, DIMER, labels=[0, 1, 1, 0, 2, 2])  # the oxygens have other hydrogens
    assert dimer.calls > calls
    before = dimer.calls
    system = System.of_energy(dimer, DIMER, labels=LABELS)
    # Two, and one for each kind of two atoms; the floor comes with them.
    assert dimer.calls == before + 4 and system.energy().floor is not None and dimer.floor is None
    assert System.of_energy(dimer, DIMER, labels=range(6)).kinds == tuple(range(6))


@pytest.mark.parametrize("labels", [None, [0, 1, 1, 0]])
def test_the_ends_of_butane_are_not_alike(labels, tmp_path):
    """Exchanging them alone breaks two bonds."""
    with pytest.raises(UsageError, match="exchanging atoms . and . "):
        BoltzmannSampler(butane(), 300, labels=labels, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    sampler = BoltzmannSampler(butane(), 300, labels=range(4), cache=tmp_path / "cache")
    assert sampler.system.labels == (0, 1, 2, 3)


def test_labels_of_a_cache_are_its_own(tiny_presets, tmp_path):
    options = {"cache": tmp_path / "cache", "nfe": 4, "batch": 5, "minutes": None}
    BoltzmannSampler(butane(), 300, labels=range(4), **options).run(1)
    again = BoltzmannSampler(butane(), 300, **options)
    assert again.system.labels == (0, 1, 2, 3)
    again.run(1)
    with pytest.raises(idem_md.FileFormatError, match="holds a sampler for the labels"):
        BoltzmannSampler(butane(), 300, labels=[3, 2, 1, 0], **options)


def test_like_atoms_pass():
    for name in ("lj13", "dw4"):
        system = idem_md.get_system(name)
        assert system.labels is None
    atoms = butane()
    atoms.symbols = "CNOF"
    BoltzmannSampler(atoms, 300)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "w2.toml", "--temperature", 300, "--out", "run"),
        ("baseline", "w2", "--temperature", 300, "-n", 4, "--steps", 250, "--out", "b.dcd"),
    ],
)
def test_unlike_atoms_on_the_command_line(words, files, tmp_path):
    words = [files / word if str(word).endswith(".toml") else word for word in words]
    own = ("--xml", files / "w2.xml")
    refused = run(*words, *own, "--labels", "0,1,1,0,1,1", cwd=tmp_path, code=2).stderr
    assert "exchanging atoms" in refused and "--labels" in refused
    for labels, message in (("a", "expected whole numbers with commas"), ("1", "expected one for each of 6 atoms")):
        refused = run(*words, *own, "--labels", labels, cwd=tmp_path, code=2).stderr
        assert f"labels: {message}" in refused
    assert not list(tmp_path.iterdir())


def test_labels_on_the_command_line_are_the_networks(files, tmp_path):
    """From there on a run knows them."""
    own, few = ("--xml", files / "w2.xml"), ("-n", 4, "--nfe", 4, "--last-step", "plain", "--unweighted")
    refused = run("train", "lj13", "--labels", 0, cwd=tmp_path, code=2).stderr
    assert "labels: expected none for a built-in system" in refused
    toml = files / "w2.toml"
    labels = ("--temperature", 300, "--labels", "0,1,1,2,3,3", "--elastic-network-steps", 0)
    text = toml.read_text().replace("warmup_steps = 20", "warmup_steps = 0")
    toml.write_text(text.replace("refine_steps = 2", "refine_steps = 0"))
    run("train", toml, *own, *labels, "--out", "run", cwd=tmp_path)
    assert idem_md.load_sampler(tmp_path / "run").system.labels == tuple(LABELS)
    run("sample", "run", *own, *few, "--out", "s.dcd", cwd=tmp_path)


# Topologies


def gas(elements, masses=None):
    system = openmm.System()
    force = openmm.NonbondedForce()
    topology = app.Topology()
    chain = topology.addChain()
    for symbol in elements:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), topology.addResidue(symbol, chain))
    for mass in masses or [app.Element.getBySymbol(symbol).mass for symbol in elements]:
        system.addParticle(mass)
        force.addParticle(0.0, 0.36, 1.0)
    system.addForce(force)
    return system, topology


def test_a_topology_in_another_order_is_refused(tmp_path):
    krypton_first, argon_first = gas(["Kr", "Kr", "Ar", "Ar"]), gas(["Ar", "Ar", "Kr", "Kr"])
    message = (
        "topology: expected its atoms in the order of the System, atom 0 is Ar of 39.948 u, particle 0 of the System"
    )
    with pytest.raises(UsageError, match=message):
        OpenMM(krypton_first[0], argon_first[1], temperature=60.0)
    (tmp_path / "x.xml").write_text(openmm.XmlSerializer.serialize(krypton_first[0]))
    x = 4.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with open(tmp_path / "x.pdb", "w") as handle:
        app.PDBFile.writeFile(argon_first[1], x * unit.angstrom, handle)
    for words in (("train", "x"), ("baseline", "x")):
        done = run(*words, "--xml", "x.xml", "--temperature", 60, "--out", "out.dcd", cwd=tmp_path, code=2)
        assert message in done.stderr


@pytest.mark.parametrize(
    "masses", [[2.014, 1.008, 15.999], [3.024, 3.024, 11.967], [1.008, 1.008, 17.999], None], ids=str
)
def test_other_masses_are_allowed(masses):
    """Deuterium, repartitioned hydrogens, isotopes."""
    assert OpenMM(*gas(["H", "H", "O"], masses), temperature=300.0).elements == ("H", "H", "O")


# Without a floor


def test_energies_that_run_away_name_the_atoms(dimer):
    energy = System.of_energy(dimer, DIMER, labels=LABELS).energy()
    collapsed = DIMER.copy()
    collapsed[4] = collapsed[0] + [0.03, 0, 0]
    x = torch.from_numpy(np.stack([DIMER, collapsed]))
    message = r"configuration 1 has -\d+.* atoms 0 \(O\) and 4 \(H\) are 0.03 Å apart"
    with pytest.raises(EnergyError, match=message) as error:
        energy(x)
    assert error.value.index == 1
    with pytest.raises(EnergyError, match=message):
        System.of_energy(dimer, DIMER, labels=LABELS).at(310.0).energy()(x)
    assert torch.isfinite(dimer(x)[0]).all()  # the potential by itself is as it is


def test_chains_training_and_sampling_stop(dimer, smallest_toml, tmp_path, lj13_sampler):
    system = replace(System.of_energy(dimer, DIMER, "w2", LABELS), topology=None)  # from noise, as a cluster
    with pytest.raises(EnergyError, match="expected a potential with a floor"):
        ENGINES["mala"].run(system, 20, 2000, seed=0)
    (tmp_path / "tiny.toml").write_text(smallest_toml("w2").replace("warmup_steps = 20", "warmup_steps = 2000"))
    config = idem_md.training.load_config(tmp_path / "tiny.toml", built_in=False)
    with pytest.raises(EnergyError, match="expected a potential with a floor"):
        idem_md.train(config, tmp_path / "run", system=system)


def test_sampling_stops(tmp_path):
    """Argon that is pulled into itself: a network for argon finds the hole."""

    class Hole(Calculator):
        implemented_properties = ["energy", "forces"]

        def calculate(self, atoms=None, properties=None, system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            x = self.atoms.positions
            d = np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(len(x), 1)]
            self.results = {"energy": -float((100.0 / d**3).sum()), "forces": np.zeros_like(x)}

    atoms = Atoms("Ar13", 4.0 * np.random.default_rng(3).normal(size=(13, 3)))
    atoms.calc = Hole()
    energy = idem_md.energies.ASE(atoms, temperature_K=59.9, length_angstrom=1.0)
    system = System.of_energy(energy, atoms.positions)
    sampler = Sampler(idem_md.load_sampler("lj13").checkpoint, system)
    with pytest.raises(EnergyError, match="Å apart: nothing keeps them from falling into each other"):
        sampler.sample(20, nfe=4, seed=0, kernel="analytic", last_step="plain")


def test_deep_minima_are_no_holes(dimer):
    """Far below a poor geometry, all atoms at ordinary distances; and overlaps of high energy."""
    stretched = DIMER * 1.3
    energy = System.of_energy(dimer, stretched, labels=range(6)).energy()
    assert float(energy(torch.from_numpy(DIMER[None]))[0]) < energy.floor.energy - energy.floor.depth
    bound = idem_md.energies.Floor.of(0.0, ("Ar", "Ar"), 1.0)
    close = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0]]])
    bound.check("x", torch.tensor([1e9]), close)
    with pytest.raises(EnergyError):
        bound.check("x", torch.tensor([-41.0]), close)
    bound.check("x", torch.tensor([-41.0]), 30 * close)


def test_a_geometry_of_infinite_energy_is_none(dimer):
    class Wall(idem_md.energies.Energy):
        units, elements = idem_md.units.Units(), ("Ar",) * 3

        def evaluate(self, x):
            return torch.full((len(x),), torch.inf, dtype=x.dtype), torch.zeros_like(x)

    with pytest.raises(UsageError, match="positions: expected an ordinary geometry, the potential gives inf kT there"):
        System.of_energy(Wall(3, 3), DIMER[:3])


# What a second reading found


class Ring(idem_md.energies.Energy):
    """Atoms in a ring by springs: to turn it is a symmetry, and so is an exchange of two that are opposite; to exchange
    neighbours is none."""

    units, elements = idem_md.units.Units(), ("S",) * 4

    def evaluate(self, x):
        u, f = torch.zeros(len(x), dtype=x.dtype), torch.zeros_like(x)
        for i in range(4):
            j = (i + 1) % 4
            d = x[:, i] - x[:, j]
            r = d.norm(dim=-1)
            u = u + 50 * (r - 2) ** 2
            pull = (100 * (r - 2) / r)[:, None] * d
            f[:, i] -= pull
            f[:, j] += pull
        return u, f


def test_neighbours_in_a_ring_are_not_alike():
    x = 2 * np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    with pytest.raises(UsageError, match="exchanging atoms 0 and 1"):
        System.of_energy(Ring(4, 3), x)


class Hard(idem_md.energies.Energy):
    """Spheres that touch in the geometry: to shake it may be too much."""

    units, elements = idem_md.units.Units(), ("Ar",) * 4

    def evaluate(self, x):
        d = torch.cdist(x, x) + 10 * torch.eye(4, dtype=x.dtype)
        return torch.where((d < 0.9999).flatten(1).any(1), torch.inf, 0.0).to(x.dtype), torch.zeros_like(x)


def test_spheres_that_touch():
    x = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    System.of_energy(Hard(4, 3), x)


def test_total_energies_that_a_code_rounds():
    """An energy in steps of 128 kT, whatever its forces say."""

    class Rounded(Ring):
        def evaluate(self, x):
            u, f = super().evaluate(x)
            return (u.double() - 1.2e9).float().double(), f

    x = 4 * np.array([[0.0, 0, 0], [2.0, 0, 0], [1, 1, 0], [0, 1, 0]])
    with pytest.raises(UsageError, match="energy: expected total energies in double precision"):
        System.of_energy(Rounded(4, 3), x, labels=range(4))


def test_systems_without_a_geometry_are_tried_when_they_are_trained(smallest_toml, tmp_path):
    """On a sample of the first buffer; a single point has nothing to exchange."""
    (tmp_path / "ring.toml").write_text(smallest_toml("ring"))
    config = idem_md.training.load_config(tmp_path / "ring.toml", built_in=False)
    ring = System("ring", "", lambda: Ring(4, 3), ("S",) * 4, idem_md.units.Units(), 1.5)
    for k, system in enumerate((ring, System("ring", "", ring.at(310).make_energy, ("S",) * 4, ring.units, 1.5))):
        with pytest.raises(UsageError, match="exchanging atoms"):
            idem_md.train(config, tmp_path / str(k), system=system)
    idem_md.train(config, tmp_path / "labelled", system=replace(ring, labels=(0, 1, 2, 3)))
