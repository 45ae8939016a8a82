"""Weighted observables, their distributions and their errors, against closed forms."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.cluster import Icosahedron
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import sph_harm_y

import idem_md
from idem_md import ResultError, UsageError, WeightedEnsemble
from idem_md.analysis import (
    ANALYSES,
    OBSERVABLES,
    Finding,
    analyse,
    bootstrap,
    distribution,
    free_energy_profile,
    heat_capacity,
    potential_energies,
    radial_distribution,
    register_analysis,
    register_observable,
    reweighted,
    steinhardt,
    trap_energies,
)
from idem_md.ase import LennardJonesCluster
from idem_md.baselines import ENGINES
from idem_md.cli.results import _energies
from idem_md.energies import Harmonic
from idem_md.energies.native_ase import native_energy
from idem_md.ensemble.estimators import Source
from idem_md.geometry import centred
from idem_md.rounding import with_error
from idem_md.systems import System
from idem_md.units import Units

K = 4.0
SYSTEM = System("springs", "harmonic", lambda: Harmonic(4, 3, K), ("Ar",) * 4, Units(2.0, 100.0), K**-0.5)


def samples(n, spread=1.0, seed=0):
    """Importance samples of the harmonic cluster from one that is wider by a factor."""
    x = centred(torch.randn(n, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    scale = spread * K**-0.5
    u = 0.5 * K * scale**2 * (x**2).sum((1, 2))
    log_q = -0.5 * (x**2).sum((1, 2)) - 4.5 * math.log(2 * math.pi * scale**2)
    return WeightedEnsemble((scale * x).numpy(), u.numpy(), (-u - log_q).numpy(), SYSTEM, kind="importance")


def test_densities_of_a_known_distribution():
    """u of nine quadratic degrees of freedom is Gamma distributed."""
    e = samples(20_000, 1.2)
    curve = distribution(e, e.energies, np.linspace(0, 15, 31))
    from scipy.stats import gamma

    exact = np.diff(gamma(4.5).cdf(curve.edges)) / np.diff(curve.edges)
    seen = curve.errors > 0
    z = (curve.values - exact)[seen] / curve.errors[seen]
    assert seen.sum() > 25 and abs(z[exact[seen] > 1e-3]).max() < 4.5 and 0.6 < z[exact[seen] > 1e-3].std() < 1.6
    assert (curve.values * np.diff(curve.edges)).sum() == pytest.approx(1, abs=0.01)


def test_free_energy_along_a_coordinate():
    e = samples(40_000, 1.1)
    s = e.positions[:, 0, 0]  # Gaussian of variance 3/4 / K
    curve = free_energy_profile(e, s, np.linspace(-1, 1, 21), "x (Å)")
    exact = curve.centres**2 * K / 1.5
    shift = np.average(curve.values - exact, weights=curve.errors**-2)
    assert (abs(curve.values - exact - shift) < 4.5 * curve.errors + 0.01).all() and np.nanmin(curve.values) == 0
    wide = free_energy_profile(e, s, np.linspace(-9, 9, 19))
    assert np.isnan(wide.values[0]) and np.isnan(wide.errors[0])


def test_radial_distribution_counts_the_others():
    """Integrated over shells it gives the number of other atoms; distances of Gaussians are Maxwellian."""
    e = samples(20_000, 1.1)
    curve = radial_distribution(e, np.linspace(0, 12, 121))
    shells = 4 / 3 * np.pi * np.diff(curve.edges**3)
    assert (curve.values * shells).sum() == pytest.approx(3, abs=1e-6)
    variance = 2 / K * SYSTEM.units.length_angstrom**2
    exact = 3 * np.exp(-(curve.centres**2) / (2 * variance)) / (2 * np.pi * variance) ** 1.5
    inner = (curve.centres > 0.5) & (curve.centres < 4)
    assert (abs(curve.values - exact) < 4.5 * curve.errors + 0.02 * exact)[inner].all()
    with pytest.raises(UsageError, match="rdf: expected two or more atoms"):
        radial_distribution(ENGINES["exact"].run("gmm40", 200))


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.7, 1.4), spread=st.floats(1.0, 1.15), seed=st.integers(0, 99))
def test_reweighting_is_exact_for_a_harmonic_cluster(factor, spread, seed):
    """The mean of u is 9/2 at any temperature, and log Z is known."""
    e = reweighted(samples(4000, spread, seed), 100 * factor)
    assert e.kind == "importance" and e.system.units.temperature_kelvin == pytest.approx(100 * factor)
    assert abs(e.mean_energy[0] - 4.5) < 5 * e.mean_energy[1]
    exact = 4.5 * math.log(2 * math.pi * factor / K)
    assert abs(e.log_z - exact) < 5 * e.log_z_err
    c, error = heat_capacity(e)
    assert abs(c - 9) < 6 * error


def test_reweighting_costs_effective_samples_and_keeps_errors_of_chains():
    e = samples(2000)
    assert reweighted(e, 100).ess == pytest.approx(e.ess) and reweighted(e, 80).ess < 0.9 * e.ess
    equal = WeightedEnsemble(e.positions, e.energies, np.zeros(2000), SYSTEM, kind="equilibrium")
    chain = WeightedEnsemble(
        e.positions, e.energies, np.zeros(2000), SYSTEM, {}, "chain", Source(2000, 100.0, math.nan, math.nan)
    )
    one, few = reweighted(equal, 90), reweighted(chain, 90)
    assert one.kind == few.kind == "chain" and math.isnan(one.log_z)
    assert few.ess == pytest.approx(one.ess / 20) and few.mean_energy[0] == one.mean_energy[0]
    assert few.mean_energy[1] == pytest.approx(one.mean_energy[1] * math.sqrt(20))
    assert reweighted(few, 100).ess == pytest.approx(100)
    assert math.isnan(chain.pareto_k) and reweighted(chain, 60).pareto_k > -1  # weights are told of where they differ
    failed = WeightedEnsemble([[[math.nan] * 3] * 4, e.positions[0]], [math.inf, 1.0], [-math.inf, 0.0], SYSTEM)
    assert reweighted(failed, 90).weights.tolist() == [0, 1]
    raw = WeightedEnsemble(e.positions, e.energies, np.zeros(2000), SYSTEM, kind="raw")
    with pytest.raises(ResultError, match="raw ones have none to change"):
        reweighted(raw, 90)
    with pytest.raises(UsageError, match="temperature_K: expected a number above"):
        reweighted(e, -1.0)


def test_bootstrap_agrees_with_the_delta_method():
    e = samples(4000, 1.2)
    value, error = bootstrap(e, lambda r: float((r.weights * r.energies).sum()))
    assert value == pytest.approx(e.mean_energy[0]) and error == pytest.approx(e.mean_energy[1], rel=0.2)
    variance = lambda r: (r.weights * r.energies**2).sum() - (r.weights * r.energies).sum() ** 2  # noqa: E731
    value, error = bootstrap(e, variance)
    c, its_error = heat_capacity(e)
    value, error = value / (1 - 1 / e.ess), error / (1 - 1 / e.ess)  # right on average
    assert value + 4.5 == pytest.approx(c) and error == pytest.approx(its_error, rel=0.25)


def test_bootstrap_knows_of_correlation():
    phi, n = 0.9, 20_000
    noise = np.random.default_rng(0).normal(size=n) * math.sqrt(1 - phi**2)
    u = lfilter([1], [1, -phi], noise)
    x, g = np.zeros((n, 4, 3)), (1 + phi) / (1 - phi)
    chain = WeightedEnsemble(x, u, np.zeros(n), SYSTEM, {}, "chain", Source(n, n / g, math.nan, math.nan))
    _, error = bootstrap(chain, lambda r: r.energies.mean())
    assert error == pytest.approx(math.sqrt(g / n), rel=0.25)
    assert error == pytest.approx(chain.mean_energy[1], rel=0.25)
    source = samples(2000, 1.2)
    copies = source.resample(4000)
    _, error = bootstrap(copies, lambda r: r.energies.mean())
    assert error == pytest.approx(copies.mean_energy[1], rel=0.2)
    few = WeightedEnsemble(x, u, np.zeros(n), SYSTEM, {}, "chain", Source(n, 1.5, math.nan, math.nan))
    assert math.isnan(bootstrap(few, lambda r: r.energies.mean(), 2)[1])


def directly(x, order):
    """Q_l as it is defined, bond by bond."""
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    reach, mean = 1.4 * np.median(d.min(1)), []
    for i in range(len(x)):
        r = x[d[i] < reach] - x[i]
        if len(r):
            theta, phi = np.arccos(r[:, 2] / np.linalg.norm(r, axis=1)), np.arctan2(r[:, 1], r[:, 0])
            mean.append([sph_harm_y(order, m, theta, phi).mean() for m in range(-order, order + 1)])
    return math.sqrt(4 * math.pi / (2 * order + 1) * (abs(np.mean(mean, 0)) ** 2).sum())


@pytest.mark.parametrize("order", [4, 6])
def test_steinhardt_order_is_what_its_definition_says(order, lj13_samples):
    gas = np.random.default_rng(1).normal(size=(5, 13, 3))  # where some atoms have no bond
    for x in (lj13_samples[:10].numpy().astype(float), gas):
        assert np.allclose(steinhardt(x, order), [directly(y, order) for y in x], atol=2e-5)
    from ase.cluster import FaceCenteredCubic, Icosahedron

    assert steinhardt(FaceCenteredCubic("Cu", [(1, 0, 0), (1, 1, 1)], [3, 3]).positions[None], 6) == pytest.approx(
        0.5745, abs=1e-3
    )
    assert steinhardt(Icosahedron("Cu", 2).positions[None], 6) < 0.05
    with pytest.raises(UsageError, match="observable: expected two or more atoms in three dimensions"):
        steinhardt(np.zeros((2, 4, 2)), order)


def test_observables_take_trajectories(lj13_samples):
    system = idem_md.get_system("lj13")
    x = lj13_samples[:20].numpy().astype(float)
    trajectory = WeightedEnsemble(x, np.zeros(20), np.zeros(20), system).to_mdtraj()
    for name in OBSERVABLES:
        observable = OBSERVABLES[name]
        unit = system.units.length_angstrom / 10 if name in ("rg", "pair-distances") else 1.0
        assert np.allclose(observable(trajectory), observable(x) * unit, rtol=1e-3, atol=1e-4), name
    import mdtraj

    assert np.allclose(OBSERVABLES["rg"](trajectory), mdtraj.compute_rg(trajectory, np.ones(13)), rtol=1e-5)


def test_too_few_samples_are_refused_with_the_reason():
    few, none = samples(60), samples(20)
    found = {f.name: f for f in analyse(few, profiles=["rg"])}
    assert set(found) == {*ANALYSES, *OBSERVABLES, "free energy along rg"}
    assert found["energy"].value and found["energy"].curve is None
    assert "expected at least 100 effective samples, got 60" in found["heat-capacity"].refused
    assert "at least 100" in found["free energy along rg"].refused and found["rdf"].curve is None
    assert all("at least" in f.refused for f in analyse(none))
    raw = WeightedEnsemble(few.positions, few.energies, np.zeros(60), SYSTEM, kind="raw")
    assert all("got raw ones" in f.refused for f in analyse(raw))
    flat = ENGINES["pt"].run("dw4", 200, 1000)
    assert {f.name for f in analyse(flat)} == {
        "energy",
        "potential_energy",
        "heat-capacity",
        "rdf",
        "rg",
        "pair-distances",
    }
    for names, profiles, message in (
        (["magic"], [], "observable: expected some of energy, potential_energy, heat-capacity, rdf, rg"),
        (["q6"], [], "three dimensions"),
        ([], ["pair-distances"], "profile: expected an observable of one value a sample"),
        ([], ["magic"], "observable: expected one of"),
    ):
        with pytest.raises(UsageError, match=message):
            analyse(flat, names, profiles)


def test_observables_and_analyses_of_ones_own():
    @register_observable("spread", power=2)
    def spread(x):
        return (x**2).sum((1, 2))

    @register_analysis("count")
    def count(e):
        return Finding("count", "", float(len(e)), 0.0)

    e = samples(2000)
    try:
        found = {f.name: f for f in analyse(e)}
        assert found["spread"].unit == "Å^2" and found["count"].value == 2000
        assert abs(found["spread"].value - 9 / K * 4) < 4.5 * found["spread"].error
    finally:
        OBSERVABLES._parts.pop("spread")
        ANALYSES._parts.pop("count")


@pytest.mark.slow
def test_lj13_at_other_temperatures_against_tempering(lj13_sampler):
    """Heat capacity, energy, radius and radial distribution at 0.9 T and 1.1 T from samples at T."""
    e = lj13_sampler.sample(800, seed=11)
    for factor in (0.9, 1.1):
        kelvin = factor * e.system.units.temperature_kelvin
        ours = reweighted(e, kelvin)
        theirs = ENGINES["pt"].run(e.system.at(kelvin), 400, 2000, seed=5)
        assert ours.ess > 100
        for of in (heat_capacity, lambda e: e.mean_energy, lambda e: e.expectation(OBSERVABLES["rg"])):
            (a, da), (b, db) = of(ours), of(theirs)
            assert abs(a - b) < 4.5 * math.hypot(da, db)
        edges = np.linspace(3.4, 12, 20)
        a, b = radial_distribution(ours, edges), radial_distribution(theirs, edges)
        assert (abs(a.values - b.values) < 5 * np.hypot(a.errors, b.errors)).all()


def test_analyse_command(tmp_path, capsys, monkeypatch):
    from idem_md.cli.analyse import analyse as command

    e = ENGINES["pt"].run("lj13", 300, 2000, seed=0)
    e.save(tmp_path / "a.dcd")
    command(tmp_path / "a.dcd", "rg,rdf", "energy", None, True)
    found = json.loads(capsys.readouterr().out)
    names = [f["name"] for f in found["findings"]]
    assert found["n"] == 300 and names == ["rg", "rdf", "free energy along energy"]
    mean, error = e.expectation(OBSERVABLES["rg"])
    length = e.system.units.length_angstrom
    assert found["findings"][0]["value"] == pytest.approx(mean * length)
    assert found["findings"][0]["error"] == pytest.approx(error * length) and found["findings"][0]["unit"] == "Å"
    assert len(found["findings"][1]["curve"]["edges"]) == len(found["findings"][1]["curve"]["values"]) + 1
    command(tmp_path / "a.dcd", "", "", 40.0, False)
    text = capsys.readouterr()
    assert "refused" in text.out and "lj13-40K at 40 K" in text.out


def test_energies_without_the_trap():
    """Energies as the calculator gives them, at the temperature that they were made for and at another."""
    atoms = Icosahedron("Ar", 2, latticeconstant=5.4)
    atoms.calc = LennardJonesCluster(epsilon=0.0103, r_min=3.8)
    native = native_energy(atoms, 60.0, 0.05)
    foreign = idem_md.energies.ASE(atoms, temperature_K=60.0, length_angstrom=3.8, trap=0.05)
    x = np.array(idem_md.System.of_energy(native, atoms.positions).geometry)[None]
    for energy in (native, foreign):
        system = idem_md.System.of_energy(energy, atoms.positions, "ar13")
        for here in (system, system.at(30.0), system.at(30.0).at(45.0)):
            u = here.energy()(torch.from_numpy(x))[0].numpy()
            e = idem_md.WeightedEnsemble(x.repeat(60, 0), u.repeat(60), np.zeros(60), here)
            expected = atoms.get_potential_energy() / here.units.kT_eV
            assert potential_energies(e) == pytest.approx(np.full(60, expected), rel=1e-6)
            (found,) = analyse(e, ["potential_energy"])
            assert found.unit == "eV" and found.value == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
            rows = dict(_energies(e, e.mean_energy))
            assert "without the trap" in rows and f"{atoms.get_potential_energy():.5g} ± 0 eV" in str(rows)
    assert trap_energies(replace(e, system=idem_md.System.described(here.describe()))) is None


@pytest.mark.parametrize(
    "value,error,expected",
    [
        (-78.4567, 0.2012, "-78.46 ± 0.20"),
        (-0.40572, 0.00104, "-0.4057 ± 0.0010"),
        (12345.6, 12.3, "12346 ± 12"),
        (1.0, 0.0, "1 ± 0"),
        (2.5, None, "2.5 ± unknown"),
        (123456.7, float("nan"), "123457 ± unknown"),
        (-1.3566e9, 0.08, "-1356600000.000 ± 0.080"),
    ],
)
def test_numbers_have_as_many_digits_as_their_errors_allow(value, error, expected):
    assert with_error(value, error) == expected
