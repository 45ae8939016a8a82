"""OpenMM Systems and ASE calculators as energies: agreement, refusals, executors, failures."""

import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import distributed
import failing_calculators as failing
import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import FileIOCalculator
from ase.calculators.emt import EMT
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.cluster import Icosahedron
from openmm import app, unit

import idem_md
from idem_md.baselines import ENGINES
from idem_md.chains import run_mala
from idem_md.energies import ASE, GaussianMixture, LennardJones, OpenMM, Topology
from idem_md.energies.ase import _apart
from idem_md.ensemble import refuse_other_potential
from idem_md.errors import EnergyError, UsageError
from idem_md.testing import check_energy, loose_lattice


def openmm_energy(name, **options):
    system = idem_md.get_system(name)
    topology = system.openmm_topology()
    made = app.ForceField(f"idem_md/{name}.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)
    options = {
        "temperature": system.units.temperature_kelvin,
        "length_angstrom": system.units.length_angstrom,
        "trap": 0,
    } | options
    return OpenMM(made, topology, **options)


def ase_lj13(**options):
    from idem_md.ase import LennardJonesCluster

    units = idem_md.get_system("lj13").units
    calculator = LennardJonesCluster(
        epsilon=2 * units.kT_eV, r_min=units.length_angstrom, trap=units.kT_eV / units.length_angstrom**2
    )
    return ASE(
        Atoms("Ar13", np.zeros((13, 3))),
        calculator,
        temperature_K=units.temperature_kelvin,
        length_angstrom=units.length_angstrom,
        trap=0,
        **options,
    )


def copper(calculator=EMT, **options):
    atoms = Icosahedron("Cu", 2)
    return ASE(atoms, calculator, temperature_K=1200, length_angstrom=2.55, **options)


def copper_positions(n, seed=0):
    x = torch.as_tensor(Icosahedron("Cu", 2).positions / 2.55)
    return x + 0.04 * torch.randn(n, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_native_openmm_and_ase_agree_on_lj13(lj13_samples):
    x = lj13_samples[:1000]
    u, f = LennardJones(13, 2.0, 1.0, 1.0)(x)
    for other in (openmm_energy("lj13"), ase_lj13()):
        u_other, f_other = other(x)
        assert ((u_other - u).abs() / u.abs()).max() < 1e-5, other
        assert ((f_other - f).abs().amax((1, 2)) / f.abs().amax((1, 2))).max() < 1e-4, other
        assert other.calls == 1000


@pytest.mark.parametrize("name", ["lj13", "lj55", "argon", "binary", "dw4"])
def test_force_fields_are_the_systems(name):
    """Found by OpenMM under idem_md/, and the same potential as the built-in system of that name."""
    native = idem_md.get_system(name).energy()
    other = openmm_energy(name, n_dims=native.n_dims, platform="Reference")
    x = loose_lattice(native, n=20)
    (u, f), (u_other, f_other) = native(x), other(x)
    assert torch.allclose(u_other, u, rtol=1e-5, atol=1e-5)
    assert torch.allclose(f_other, f, rtol=1e-4, atol=1e-4 * float(f.abs().max()))


@pytest.mark.parametrize(
    "make", [lambda: openmm_energy("lj13", platform="Reference"), ase_lj13, copper], ids=["openmm", "ase", "emt"]
)
def test_foreign_energies_keep_the_contract(make):
    check_energy(make())


def test_gmm40_is_a_normalised_mixture():
    energy = GaussianMixture()
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(6, 1, 2, generator=generator, dtype=torch.float64) - 0.5) * 60
    check_energy(energy, x, symmetric=False)
    assert energy.means.shape == (40, 2) and abs(energy.sd - 1.3133) < 1e-4
    torch.manual_seed(0)
    assert torch.equal(energy.means, ((torch.rand((40, 2)) - 0.5) * 80).double())
    # The integral of exp(-u) over the plane, on a grid.
    axis = torch.linspace(-55, 55, 441, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    assert abs(float(torch.exp(-energy(grid)[0]).sum()) * float(axis[1] - axis[0]) ** 2 - 1) < 1e-6


def test_openmm_dynamics_has_the_exact_mean():
    """20,000 steps of LangevinMiddle on the force field, its error from blocks."""
    system = idem_md.get_system("lj13")
    topology = system.openmm_topology()
    made = app.ForceField("idem_md/lj13.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)
    integrator = openmm.LangevinMiddleIntegrator(59.9, 2.0, 0.02)
    integrator.setRandomNumberSeed(3)
    context = openmm.Context(made, integrator, openmm.Platform.getPlatformByName("Reference"))
    start = loose_lattice(system.energy(), n=1)[0].numpy() * 0.38220
    context.setPositions(start)
    context.setVelocitiesToTemperature(59.9, 3)
    integrator.step(4000)
    u = []
    for _ in range(800):
        integrator.step(25)
        u.append(
            context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            / system.units.kT_kJ_per_mol
        )
    blocks = np.array(u).reshape(16, -1).mean(1)
    error = blocks.std(ddof=1) / 4
    assert error < 1.0 and abs(np.mean(u) + 42.92) < 4 * error


def test_serialised_systems_and_units():
    energy = openmm_energy("lj13")
    again = OpenMM(energy.xml, temperature=59.9 * unit.kelvin, platform="Reference", trap=0)  # x in Å
    x = loose_lattice(energy, n=3)
    (u, f), (u_again, f_again) = energy(x), again(x * 3.8220)
    assert torch.allclose(u, u_again, rtol=1e-6) and torch.allclose(f, f_again * 3.8220, rtol=1e-5, atol=1e-6)
    assert again.elements == ("Ar",) * 13  # guessed from the masses
    assert energy.platform in [
        openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())
    ]


def system_with(change):
    system = openmm.System()
    for _ in range(3):
        system.addParticle(40.0)
    force = openmm.CustomBondForce("r^2")
    for i, j in ((0, 1), (1, 2)):
        force.addBond(i, j, [])
    system.addForce(force)
    change(system)
    return system


def periodic(system):
    force = openmm.NonbondedForce()
    for _ in range(3):
        force.addParticle(0, 0.3, 1)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    system.addForce(force)


@pytest.mark.parametrize(
    "change,options,message",
    [
        (periodic, {}, "no periodic boundary"),
        (lambda s: s.addConstraint(0, 1, 0.1), {}, "no constraints"),
        (lambda s: s.setVirtualSite(2, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5)), {}, "no virtual sites"),
        (lambda s: s.setParticleMass(1, 0.0), {}, "no particles without mass"),
        (lambda s: None, dict(temperature=-3), "temperature: expected"),
        (lambda s: None, dict(platform="GPU9"), "platform: expected"),
        (lambda s: None, dict(topology=Topology.loose(["Ar"]).openmm(["Ar"])), "topology: expected 3"),
        (lambda s: None, dict(workers=2, executor=ThreadPoolExecutor(1)), "workers, executor: expected one"),
        (lambda s: s.removeForce(0), dict(trap=0), "trap: expected a positive"),
    ],
)
def test_openmm_systems_that_are_refused(change, options, message):
    with pytest.raises(UsageError, match=message):
        OpenMM(system_with(change), **({"temperature": 300} | options))


@pytest.mark.parametrize("system", ["<nonsense/>", 7, None])
def test_what_is_not_a_system_is_refused(system):
    with pytest.raises(UsageError, match="system: expected"):
        OpenMM(system, temperature=300)


@pytest.mark.parametrize(
    "make,message",
    [
        (
            lambda: ASE(Atoms("Cu2", [[0, 0, 0], [2, 0, 0]], pbc=True, cell=[9, 9, 9]), EMT(), temperature_K=300),
            "no periodic",
        ),
        (lambda: ASE(Atoms("Cu2", [[0, 0, 0], [2, 0, 0]]), temperature_K=300), "calculator: expected"),
        (lambda: ASE(Atoms("Cu2", [[0, 0, 0], [2, 0, 0]]), EMT(), temperature_K=0), "temperature_K: expected"),
        (lambda: ASE(Atoms("Cu"), EMT(), temperature_K=300), "atoms: expected"),
        (lambda: ASE("Cu13", EMT(), temperature_K=300), "atoms: expected"),
        (lambda: copper(trap=0), "trap: expected a positive"),
        (lambda: copper(trap=-1.0), "trap: expected"),
        (lambda: copper(lambda: EMT(), workers=2), "workers: expected a potential that pickles"),
    ],
)
def test_ase_inputs_that_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_default_trap_is_weak_and_reported():
    energy, bare = copper(), copper(trap=1e-12)
    x = copper_positions(4)
    expected = 0.5 * 0.05 * 2.55**2 * ((x - x.mean(1, keepdim=True)) ** 2).sum((1, 2))
    assert torch.allclose(energy(x)[0] - bare(x)[0], expected, rtol=1e-6)
    assert energy.parameters["trap_kT_per_angstrom2"] == 0.05 and "emt" in energy.parameters["calculator"].lower()


@pytest.mark.slow
def test_executors_give_identical_numbers():
    """In this process, threads, two processes, threads of Dask: bit for bit, as the cut into tasks is the same."""
    x = copper_positions(75)
    u, f = copper()(x)
    with ThreadPoolExecutor(4) as threads:
        results = [copper(failing.make_emt, executor=threads)(x)]
    pool = copper(failing.make_emt, workers=2)
    results.append(pool(x))
    pool.close()
    results.append(pool(x))  # starts again
    pool.close()
    with (
        distributed.LocalCluster(processes=False, n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        results.append(copper(EMT, executor=client.get_executor())(x))
    for u_other, f_other in results:
        assert torch.equal(u, u_other) and torch.equal(f, f_other)


def springs(calculator, **options):
    return ASE(Atoms("Ar3", np.zeros((3, 3))), calculator, temperature_K=1e4, trap=0, **options)


def springs_energy(x):
    return 0.5 * ((x - x.mean(1, keepdim=True)) ** 2).sum((1, 2))


def marked(n=50, at=None):
    x = torch.randn(n, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if at is not None:
        x[at, 0, 0] = 2 * failing.MARK
    return x


@pytest.mark.parametrize("options", [{}, {"workers": 2}], ids=["here", "pool"])
@pytest.mark.parametrize(
    "calculator,cause", [(failing.Raises, "RuntimeError: SCF did not converge"), (failing.GivesNan, "u = nan")]
)
def test_a_configuration_that_fails_is_named(calculator, cause, options):
    energy = springs(calculator, **options)
    with pytest.raises(EnergyError, match=cause) as caught:
        energy(marked(at=37))
    assert caught.value.index == 37 and "configuration 37" in str(caught.value)
    u, _ = energy(marked())  # it is none the worse for it
    assert torch.allclose(u, springs_energy(marked()) / energy.units.kT_eV)
    energy.close()


@pytest.mark.slow
def test_an_energy_with_processes_pickles():
    """To processes that sample: there it evaluates by itself."""
    energy = springs(failing.Raises, workers=2)
    u, f = energy(marked())
    again = pickle.loads(pickle.dumps(energy))
    energy.close()
    assert all(torch.equal(a, b) for a, b in zip((u, f), again(marked())))


def test_potentials_are_known_by_an_energy():
    """The name of a calculator says little, and where it was evaluated nothing."""
    atoms = Icosahedron("Cu", 2)
    one, same, other = (
        ASE(atoms, partial(EMT, asap_cutoff=cutoff), temperature_K=1200, workers=workers).parameters
        for cutoff, workers in ((False, None), (False, 2), (True, None))
    )
    refuse_other_potential("parts", one, same)
    with pytest.raises(UsageError, match="parts: expected the same potential, it gives"):
        refuse_other_potential("parts", one, other)
    refuse_other_potential("parts", one, {k: v for k, v in other.items() if k != "known"})  # an earlier version's
    # Of total energies the difference is a small part.
    large = one | {"known": one["known"] | {"energy_kT": -650_000.0}}
    for change, same in (
        ({"energy_kT": -650_000.3}, True),
        ({"energy_kT": -650_012.0}, False),
        ({"force_kT": 9.0}, False),
    ):
        with nullcontext() if same else pytest.raises(UsageError, match="expected the same potential"):
            refuse_other_potential("parts", large, large | {"known": large["known"] | change})
    with pytest.raises(UsageError, match="parts: expected the same parameters"):
        refuse_other_potential("parts", one, one | {"temperature_kelvin": 1300})
    atoms.rattle(0.1)  # another geometry says nothing
    refuse_other_potential("parts", one, ASE(atoms, partial(EMT, asap_cutoff=True), temperature_K=1200).parameters)
    lj13 = openmm_energy("lj13", platform="Reference").parameters
    refuse_other_potential("parts", lj13, lj13 | {"platform": "CUDA"})


def test_a_worker_that_dies_is_replaced_once(tmp_path, monkeypatch):
    monkeypatch.setenv("IDEM_TEST_DIED", str(tmp_path / "died"))
    energy = springs(failing.DiesOnce, workers=2)
    u, f = energy(marked(at=20))
    energy.close()
    assert os.path.exists(tmp_path / "died")
    x = marked(at=20)
    assert torch.allclose(u, springs_energy(x) / energy.units.kT_eV)
    assert torch.allclose(f, -(x - x.mean(1, keepdim=True)) / energy.units.kT_eV)


@pytest.mark.slow
def test_a_configuration_that_kills_is_reported():
    energy = springs(failing.Dies, workers=2)
    with pytest.raises(EnergyError, match="workers failed twice on configurations .*BrokenProcessPool") as caught:
        energy(marked(at=20))
    assert caught.value.index == 16  # the part that holds it, and no other
    u, _ = energy(marked())
    energy.close()
    assert torch.isfinite(u).all()


def test_an_overlap_in_foreign_code_is_infinite_not_zero():
    energy = openmm_energy("lj13", platform="Reference")
    x = loose_lattice(energy, n=2)
    x[1, 1] = x[1, 0] + 1e-30
    with pytest.raises(EnergyError, match="configuration 1"):
        energy(x)  # OpenMM says NaN here
    x[1, 1] = x[1, 0] + 1e-4
    u, f = energy(x)
    assert u[1] > 1e30 and torch.isfinite(f).all()
    u, f = energy(x.float())  # beyond float32
    assert u[1] == torch.inf and not f[1].any() and torch.isfinite(u[0]) and f[0].any()


def test_an_empty_batch_is_empty():
    u, f = copper()(torch.empty(0, 13, 3))
    assert u.shape == (0,) and f.shape == (0, 13, 3)


def test_forces_of_the_wrong_shape_are_not_spread_over_the_atoms(monkeypatch):
    energy = springs(failing.Springs)
    monkeypatch.setattr(Atoms, "get_forces", lambda self: np.ones((1, 3)))
    with pytest.raises(
        EnergyError, match="configuration 0 failed: ValueError: expected one energy and forces of shape"
    ):
        energy(marked(3))


def test_external_fields_and_unbound_ions_are_refused():
    field = openmm.CustomExternalForce("100*x^2")
    for i in range(3):
        field.addParticle(i, [])
    with pytest.raises(UsageError, match="does not depend on where the cluster is"):
        OpenMM(system_with(lambda s: s.addForce(field)), temperature=300)
    salt = openmm.System()
    coulomb = openmm.NonbondedForce()
    for i in range(8):
        salt.addParticle(30.0)
        coulomb.addParticle((-1) ** (i + i // 2 + i // 4), 0.25, 0.5)
    salt.addForce(coulomb)
    with pytest.raises(UsageError, match="lets atoms escape"):
        OpenMM(salt, temperature=300, trap=0, platform="Reference")


def test_force_fields_refuse_other_numbers_of_atoms():
    with pytest.raises(ValueError, match="expected 13 atoms"):
        app.ForceField("idem_md/lj13.xml").createSystem(
            Topology.loose(["Ar"] * 12).openmm(["Ar"] * 12), nonbondedMethod=app.NoCutoff
        )


def test_chains_of_a_single_point_keep_its_place():
    """One Gaussian off the origin: nothing is centred, and the moments are the Gaussian's."""
    energy = GaussianMixture(torch.tensor([[5.0, -3.0]]), sd=2.0)
    x, *_ = run_mala(energy, torch.zeros(4000, 1, 2), 1.0, 200, 0)
    z = (x[:, 0] - energy.means.float()) / 2
    assert (z.mean(0).abs() < 5 / 4000**0.5).all() and ((z**2).mean(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


@pytest.mark.slow
def test_in_a_fresh_interpreter(tmp_path):
    """Nothing that the tests import is needed, and modules are there by name."""
    code = (
        "import idem_md, openmm\n"
        "s = openmm.System(); [s.addParticle(39.948) for _ in range(2)]\n"
        "f = openmm.CustomBondForce('r^2'); f.addBond(0, 1, []); s.addForce(f)\n"
        "assert idem_md.energies.OpenMM(s, temperature=300).elements == ('Ar', 'Ar')\n"
        "assert idem_md.systems.SYSTEMS and idem_md.training.PRESETS and idem_md.analysis.energy_w2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)  # not beside the sources


def test_file_based_calculators_do_not_share_a_folder():
    class Files(FileIOCalculator):
        implemented_properties = ["energy", "forces"]
        command = "true"

    with pytest.raises(UsageError, match="directory of its own"):
        copper(Files.__new__(Files), workers=2)
    one, two, own = (_apart(Files(command="true", **options)) for options in ({}, {}, {"directory": "mine"}))
    assert os.path.isdir(one.directory) and one.directory != two.directory and own.directory == "mine"
    espresso = _apart(Espresso(profile=EspressoProfile("true", "."), pseudopotentials={"Ar": "ar.upf"}, kpts=None))
    espresso.write_inputfiles(Atoms("Ar"), ["energy"])
    assert any(espresso.directory.iterdir())
    folder = str(one.directory)
    del one
    gc.collect()
    assert not os.path.exists(folder)


def test_md_does_not_leave_the_plane():
    energy = openmm_energy("dw4", n_dims=2, platform="Reference")
    x = np.array([[0, 0], [4, 0], [0, 4], [4, 4]])
    plane = idem_md.System.of_energy(energy, x, name="plane")
    with pytest.raises(UsageError, match="engine: expected another than 'openmm' for 'plane'"):
        ENGINES["openmm"].run(plane, 10, 100)
