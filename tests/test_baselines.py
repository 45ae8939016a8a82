"""Engines: what they sample, what they cost, and how many of their frames count."""

import json
import math
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron
from scipy.signal import lfilter
from scipy.stats import ks_2samp

import idem_md
from idem_bench import measure_engines
from idem_md import System, UsageError, WeightedEnsemble
from idem_md.baselines import ENGINES, AseEngine, OpenMMEngine
from idem_md.baselines.ase import Trap, maker
from idem_md.baselines.base import tuned_chains
from idem_md.baselines.correlation import equilibration, statistical_inefficiency
from idem_md.baselines.dynamics import curvature
from idem_md.energies import ASE, Harmonic, LennardJones, OpenMM
from idem_md.ensemble import WeightWarning
from idem_md.ensemble.estimators import Source
from idem_md.errors import EnergyError
from idem_md.geometry import centred
from idem_md.systems import built_in_name
from idem_md.units import Units


def autoregressive(n, phi, seed=0, start=0.0):
    """g = (1 + phi) / (1 - phi)."""
    noise = np.random.default_rng(seed).normal(size=n) * math.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, zi=[phi * start])[0]


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_inefficiency_of_known_series(phi, chains):
    """With a thousand independent samples each: a tenth off in the middle, rarely half."""
    g = (1 + phi) / (1 - phi)
    found = [
        statistical_inefficiency([autoregressive(int(1000 * g), phi, 100 * k + seed) for k in range(chains)]) / g
        for seed in range(12)
    ]
    assert abs(np.median(found) - 1) < 0.1 and 0.7 < min(found) and max(found) < 1.6


def test_inefficiency_of_two_draws_and_of_constants():
    a, b = np.random.default_rng(0).normal(size=(2, 4000))
    assert statistical_inefficiency(list(np.stack([a, 0.5 * a + math.sqrt(0.75) * b]).T)) == pytest.approx(
        1.5, abs=0.08
    )
    assert statistical_inefficiency(list(np.stack([a, b]).T)) == pytest.approx(1.0, abs=0.08)
    for n in (2, 3, 5, 10):  # ladders that stand still
        assert statistical_inefficiency([np.full(n, x) for x in a[:50]]) == pytest.approx(n)
    assert statistical_inefficiency([np.ones(10)]) == 1.0 and equilibration(np.ones(10)) == 0


def test_equilibration_leaves_out_the_start_and_never_more_than_half():
    series = autoregressive(4000, 0.9) + 40 * np.exp(-np.arange(4000) / 100)
    assert 300 <= equilibration(series) <= 1000
    assert equilibration(np.arange(1000.0)) <= 500


class Counted(Harmonic):
    """Energies that say how many configurations they evaluated."""

    evaluated = 0

    def evaluate(self, x):
        type(self).evaluated += len(x)
        return super().evaluate(x)

    def sample(self, n, generator):
        return centred(torch.randn(n, 4, 3, generator=generator, dtype=torch.float64)) / self.k**0.5


def harmonic(k=25.0, temperature=300.0):
    units = Units(3.0, temperature)
    return System("springs", "harmonic", lambda: Counted(4, 3, k), ("Ar",) * 4, units, k**-0.5)


def test_curvature_is_the_frequency_of_a_harmonic_cluster():
    system, k = harmonic(), 25.0
    x = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / k**0.5
    x -= x.mean(1, keepdim=True)
    f = system.energy()(x)[1]
    kT, m, length = system.units.kT_kJ_per_mol, 39.948, 0.3
    omega = math.sqrt(k * kT / m) / length
    # The centroid does not move: three quarters of the mean square.
    assert curvature(system, f, np.full(4, m)) == pytest.approx(omega * math.sqrt(0.75), rel=0.02)


@pytest.mark.slow
def test_ase_dynamics_of_a_harmonic_cluster():
    """Energy, kinetic temperature and spread against closed forms, errors by the frames' own inefficiency."""
    e = AseEngine().run(harmonic(), 1200, 12_000, seed=1)
    p = e.provenance
    assert e.kind == "chain" and p["chains"] == 1 and 1 < p["inefficiency"] / p["stride"] < 100
    mean, error = e.mean_energy
    assert abs(mean - 4.5) < 4.5 * error < 0.6
    assert (
        abs(p["kinetic_temperature"] - 1) < 4.5 * math.sqrt(2 / 12) * math.sqrt(p["inefficiency"] / p["steps"]) + 0.01
    )
    spread, error = e.expectation(lambda x: (x**2).sum((1, 2)))
    assert abs(spread - 9 / 25) < 4.5 * error


@pytest.mark.parametrize(
    "engine,n,options",
    [("mala", 50, {"n_steps": 300}), ("mala", 50, {"energy_calls": 40_000}), ("pt", 40, {"energy_calls": 700_000})],
)
def test_calls_are_counted_and_budgets_of_calls_kept(engine, n, options):
    e = ENGINES[engine].run(harmonic(), n, seed=0, **options)
    calls = e.provenance["energy_calls"]
    assert calls == ENGINES[engine].calls(n, e.provenance["steps"])
    assert 0.95 * options.get("energy_calls", 0) < calls <= options.get("energy_calls", math.inf)


def test_dynamics_keep_budgets():
    before = Counted.evaluated
    e = AseEngine().run(harmonic(), 20, energy_calls=3000, seed=0)
    assert 0.9 * 3000 < e.provenance["energy_calls"] <= 3000
    assert Counted.evaluated - before <= e.provenance["energy_calls"] + 60  # at the start a constraint may ask again
    e = AseEngine().run(harmonic(), 20, seconds=2.0, seed=0)
    assert 0.5 < e.provenance["seconds"] < 4
    for options, message in (
        ({"n_steps": 20}, "steps: expected at least 30 for 20 samples, got 20"),
        ({"energy_calls": 100}, "energy_calls: expected at least"),
        ({"seconds": 1.0, "energy_calls": 5}, "energy_calls: expected one of"),
        ({"seconds": -1.0}, "seconds: expected a number above"),
    ):
        with pytest.raises(UsageError, match=message):
            AseEngine().run(harmonic(), 20, **options)
    with pytest.raises(UsageError, match="energy_calls: expected none for the engine 'exact'"):
        ENGINES["exact"].run("gmm40", 20, energy_calls=100)


def test_chains_that_are_too_short_to_know_themselves_are_warned_of():
    with pytest.warns(WeightWarning, match="fewer than 100 independent samples in a chain"):
        AseEngine(timestep_fs=5.0).run(harmonic(), 100, 600, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightWarning)
        AseEngine(timestep_fs=5.0, inefficiency=4).run(harmonic(), 100, 600, seed=0)


def test_overrides():
    e = AseEngine(discard=0.25, inefficiency=400, timestep_fs=5.0).run(harmonic(), 100, 3000, seed=0)
    p = e.provenance
    assert p["discarded"] == pytest.approx(0.25, abs=0.01) and p["timestep_fs"] == 5.0
    assert e.ess == pytest.approx(0.75 * 3000 / 400, rel=0.02) and "ask for more steps" in e.advice
    error = e.energies.std() / math.sqrt(e.ess)
    assert e.mean_energy[1] == pytest.approx(error, rel=1e-9)
    with pytest.raises(UsageError, match="discard: expected none for the engine 'mala'"):
        ENGINES["mala"].configured(discard=0.5)
    with pytest.raises(UsageError, match="discard: expected a number below 1"):
        ENGINES["ase"].configured(discard=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["lj13", "dw4"])
def test_engines_agree(system):
    """Mean energies with the exact one and between engines; distributions of thinned chains with tempering's."""
    runs = {
        "openmm": OpenMMEngine().run(system, 2000, 100_000, seed=1),
        "pt": ENGINES["pt"].run(system, 500, 2000, seed=1),
        "mala": ENGINES["mala"].run(system, 500, 6000, seed=1),
    }
    exact = idem_md.get_system(system).exact_mean_energy
    means = [e.mean_energy for e in runs.values()]
    for mean, error in means:
        for other, its_error in (exact, *means):
            assert abs(mean - other) <= 4.5 * math.hypot(error, its_error)
    md = runs["openmm"]
    assert md.ess > 10 and abs(md.provenance["kinetic_temperature"] - 1) < 0.03
    thin = md.energies[:: math.ceil(len(md) / md.ess)]
    assert ks_2samp(thin, runs["pt"].energies).pvalue > 1e-4


@pytest.mark.slow
def test_ase_dynamics_of_lj13_by_its_own_calculator_and_at_other_temperatures():
    system = idem_md.get_system("lj13")
    x = torch.tensor(ENGINES["mala"].run("lj13", 3, 500, seed=0).positions)
    for target in (system, system.at(50)):
        atoms = maker(target.energy(), target)()
        assert type(atoms.calc.mixer.calcs[0]).__module__ == "ase.calculators.lj"
        u, f = target.energy()(x)
        for k in range(3):
            atoms.positions = x[k].numpy() * target.units.length_angstrom
            assert atoms.get_potential_energy() / target.units.kT_eV == pytest.approx(float(u[k]), rel=1e-6)
            force = atoms.get_forces() * target.units.length_angstrom / target.units.kT_eV
            assert np.allclose(force, f[k].numpy(), rtol=1e-6, atol=1e-6)
    e = AseEngine(workers=2).run(system.at(54), 40, 400, seed=0)
    assert e.provenance["chains"] == 2 and abs(e.provenance["kinetic_temperature"] - 1) < 0.2


@pytest.mark.parametrize("name", ["argon", "binary", "dw4", "lj13"])
def test_force_fields_are_the_systems_at_any_temperature(name):
    system = idem_md.get_system(name)
    assert built_in_name(system) == built_in_name(system.at(77)) == name
    e = OpenMMEngine().run(system.at(1.2 * system.units.temperature_kelvin), 10, 100, seed=0)
    assert e.system.units.temperature_kelvin == pytest.approx(1.2 * system.units.temperature_kelvin)


def copper(temperature=900.0):
    atoms = Icosahedron("Cu", 2)
    return System.of_energy(ASE(atoms, EMT, temperature_K=temperature), atoms.positions, name="cu13")


@pytest.mark.slow
def test_ase_dynamics_of_a_foreign_calculator():
    system = copper()
    for target in (system, system.at(800)):
        atoms, x = maker(target.energy(), target)(), torch.randn(1, 13, 3, dtype=torch.float64) * 2.5
        x -= x.mean(1, keepdim=True)
        atoms.positions = x[0].numpy() * target.units.length_angstrom + 3.0
        assert atoms.get_potential_energy() / target.units.kT_eV == pytest.approx(
            float(target.energy()(x)[0]), rel=1e-6
        )
    assert built_in_name(system) is None
    assert AseEngine().run(system, 10, 30, seed=0).kind == "chain"
    with pytest.raises(UsageError, match="engine: expected another than 'openmm' for 'cu13'"):
        OpenMMEngine().run(system, 10, 30)
    with pytest.raises(UsageError, match="engine: expected another than 'openmm' for 'gmm40'"):
        OpenMMEngine().run("gmm40", 10, 30)


@pytest.mark.slow
def test_traps_of_own_openmm_systems_are_kept():
    """Three springs between argon atoms, with the weak trap that is added to every foreign potential."""
    import openmm

    bare = openmm.System()
    force = openmm.HarmonicBondForce()
    for _ in range(3):
        bare.addParticle(39.948)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        force.addBond(i, j, 0.38, 2000.0)
    bare.addForce(force)
    bare.addForce(openmm.CMMotionRemover())
    energy = OpenMM(bare, temperature=100, trap=0.5)
    x = 3.8 * np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 0.87, 0]])
    system = System.of_energy(energy, x, name="triangle")
    e = OpenMMEngine().run(system.at(120), 500, 20_000, seed=0)  # refuses other energies than the system's
    mala = ENGINES["mala"].run(system.at(120), 200, 600, seed=0)
    (a, da), (b, db) = e.mean_energy, mala.mean_energy
    assert abs(a - b) < 4.5 * math.hypot(da, db)


def test_other_potentials_are_refused(monkeypatch):
    monkeypatch.setattr(Trap, "calculate", lambda self, *a: self.results.update(energy=0.0, forces=np.zeros((13, 3))))
    with pytest.raises(EnergyError, match="potential: expected the engine's to be that of the system"):
        AseEngine().run("lj13", 5, 10)


def test_chains_keep_their_errors(tmp_path):
    e = AseEngine().run(harmonic(), 100, 3000, seed=0)
    e.save(tmp_path / "md.dcd")
    again = idem_md.load_ensemble(tmp_path / "md.dcd")
    assert again.kind == "chain" and again.ess == e.ess and math.isnan(again.log_z) and math.isnan(again.pareto_k)
    assert again.mean_energy == e.mean_energy
    copies = again.resample(1000, seed=0)
    assert copies.ess == e.ess and copies.mean_energy[1] == pytest.approx(e.mean_energy[1], rel=0.3)


@pytest.mark.slow
def test_baseline_command(tmp_path):
    command = ["baseline", "lj13", "--engine", "openmm", "-n", "60", "--energy-calls", "9000", "--temperature", "55"]
    done = subprocess.run(
        [sys.executable, "-m", "idem_md.cli", *command, "--out", "md.dcd", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["energy_calls"] <= 9000 and found["n"] <= 60 and found["ess"] < 60 and found["log_z"] is None
    assert found["method"] == "openmm" and found["inefficiency"] > 1 and found["nfe"] is None
    e = idem_md.load_ensemble(tmp_path / "md.dcd")
    assert e.system.units.temperature_kelvin == 55 and e.ess == pytest.approx(found["ess"])


@pytest.mark.slow
def test_engines_are_measured():
    """A row an engine; the dynamics beside runs ten times as long."""
    rows = list(measure_engines(harmonic(), ("mala", "ase"), n=200, steps=2000, seed=3))
    assert [row["engine"] for row in rows] == ["mala", "ase"] and "inefficiency" not in rows[0]
    md = rows[1]
    assert 0.5 < md["inefficiency"] / md["longer_inefficiency"] < 2 and abs(md["longer_kinetic_temperature"] - 1) < 0.05
    assert all(row["ks_p"] > 1e-4 and row["z"] is None for row in rows)


def test_ladders_of_ones_own():
    engine = ENGINES["pt"].configured(betas=(1.0, 0.5, 0.25))
    e = engine.run(harmonic(), 50, 1000, seed=0)
    assert e.provenance["betas"] == [1.0, 0.5, 0.25] and e.provenance["energy_calls"] == engine.calls(50, 1000)
    with pytest.raises(UsageError, match="betas: expected two or more that fall from one"):
        ENGINES["pt"].configured(betas=(0.9, 0.5))


def test_forward_paths_start_from_chains_by_their_weights(lj13_sampler):
    """Frames of next to no weight, here exploded ones, are no samples of the system."""
    md = ENGINES["mala"].run("lj13", 40, 1000, seed=0)
    x = np.concatenate([md.positions, 0.7 * md.positions])
    u = md.system.energy()(torch.from_numpy(x))[0].numpy()
    log_w = np.repeat([0.0, -1000.0], 40)
    chain = WeightedEnsemble(x, u, log_w, md.system, {}, "chain", Source(80, 80.0, math.nan, math.nan))
    forward = lj13_sampler.forward(chain, lj13_sampler.plan(6, last_step="plain"), n=80)
    worst = lj13_sampler.forward(md, lj13_sampler.plan(6, last_step="plain"), n=80).log_weights.min()
    assert forward.log_weights.min() > worst - 30


def test_tempering_makes_fewer_ladders_for_a_budget_of_an_expensive_potential():
    told = []
    e = ENGINES["pt"].run(harmonic(), 60, energy_calls=250_000, seed=1, progress=lambda *a: told.append(a))
    p = e.provenance
    assert p["energy_calls"] <= 250_000 and 2 <= p["ladders"] < 30 and p["steps"] >= 1000 and len(e) == 60
    mean, error = e.mean_energy
    assert abs(mean - 4.5) < 5 * error
    with pytest.raises(UsageError, match="energy_calls: expected at least .* energy calls for 60 samples by"):
        ENGINES["pt"].run(harmonic(), 60, energy_calls=9000)
    with pytest.raises(UsageError, match="seconds: expected at least .* energy calls for 60 samples by"):
        ENGINES["pt"].run(harmonic(), 60, seconds=0.001)
    assert ENGINES["pt"].calls(60, 1000) > 250_000  # of all ladders again


@pytest.mark.slow
def test_tempering_keeps_to_seconds():
    start = time.perf_counter()
    e = ENGINES["pt"].run(harmonic(), 60, seconds=3.0, seed=1)
    assert e.provenance["ladders"] < 60 and time.perf_counter() - start < 30.0  # by a machine that may be busy


def test_chains_start_at_the_geometry_where_noise_fails():
    """Electrons of quantum chemistry converge for molecules and not for noise."""

    class OnlyNear(LennardJones):
        def evaluate(self, x):
            if bool((torch.cdist(x, x) > 2.0).any()):
                raise EnergyError("not converged")
            return super().evaluate(x)

    energy = OnlyNear(3, epsilon=8.0, r_min=1.0, trap=0.1)
    triangle = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, 0.866, 0.0))
    system = replace(idem_md.get_system("lj13").with_energy(energy), elements=("Ar",) * 3, geometry=triangle)
    with pytest.warns(WeightWarning, match="start near the geometry, as the potential fails on noise: not converged"):
        state, _ = tuned_chains(system, system.energy(), 4, 100, torch.Generator().manual_seed(0))
    assert len(state.u) == 4 and bool((state.u < -10).all())
    with pytest.raises(EnergyError):
        tuned_chains(replace(system, geometry=None), system.energy(), 4, 100, torch.Generator().manual_seed(0))
