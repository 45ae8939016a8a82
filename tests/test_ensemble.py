"""Weighted ensembles: estimates against closed forms, files that round-trip, failures that are loud."""

import json
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from idem_md import FileFormatError, ResultError, UsageError, WeightedEnsemble, get_system, load_ensemble
from idem_md.analysis import reweighted
from idem_md.ensemble import WeightWarning
from idem_md.units import Units

SYSTEM = get_system("lj13")


def ensemble(n=50, seed=0, log_weights=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 13, 3))
    lw = rng.normal(size=n) if log_weights is None else log_weights
    return WeightedEnsemble(x, rng.normal(size=n), lw, SYSTEM, {"seed": seed, "seconds": 1.0}, kind="importance")


@given(arrays(np.float64, st.integers(2, 40), elements=st.floats(-50, 50)), st.floats(-1000, 1000))
@settings(max_examples=60, deadline=None)
def test_weights_do_not_depend_on_a_constant(log_weights, shift):
    a, b = (ensemble(len(log_weights), log_weights=w) for w in (log_weights, log_weights + shift))
    assert 1 - 1e-9 <= a.ess <= len(a) * (1 + 1e-9)
    assert np.isclose(a.weights.sum(), 1.0)
    assert np.isclose(a.ess, b.ess, rtol=1e-6)
    assert np.isclose(b.log_z - a.log_z, shift, atol=1e-6)


def test_importance_sampling_of_a_gaussian_has_honest_errors():
    """Sample N(0, 1.5^2), weight to N(0, 1): <x^2> = 1 and log Z = log sqrt(2 pi), z-scores over 200 repeats."""
    z_mean, z_log_z = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = np.zeros((400, 13, 3))
        x[:, 0, 0] = 1.5 * rng.normal(size=400)
        r = x[:, 0, 0]
        lw = -0.5 * r**2 + 0.5 * (r / 1.5) ** 2 + np.log(1.5 * np.sqrt(2 * np.pi))
        e = WeightedEnsemble(x, 0.5 * r**2, lw, SYSTEM)
        value, error = e.expectation(lambda x: x[:, 0, 0] ** 2)
        z_mean.append((value - 1) / error)
        z_log_z.append((e.log_z - 0.5 * np.log(2 * np.pi)) / e.log_z_err)
    for z in (np.array(z_mean), np.array(z_log_z)):
        assert abs(z.mean()) < 0.35 and 0.8 < z.std() < 1.25


def test_vector_observables_and_bad_ones():
    e = ensemble()
    value, error = e.expectation(lambda x: x.mean(1))
    assert value.shape == error.shape == (3,)
    with pytest.raises(UsageError, match="fn: expected an array of length 50"):
        e.expectation(lambda x: x[:-1, 0, 0])
    with pytest.raises(UsageError, match="finite"):
        e.expectation(lambda x: x[:, 0, 0] * np.nan)


def test_failed_samples_stay_in_the_count():
    lw = np.zeros(10)
    lw[3] = -np.inf
    x = np.zeros((10, 13, 3))
    x[3] = np.nan
    u = np.zeros(10)
    u[3] = np.inf
    e = WeightedEnsemble(x, u, lw, SYSTEM, kind="importance")
    assert len(e) == 10 and np.isclose(e.ess, 9) and np.isclose(e.ess_fraction, 0.9)
    assert np.isclose(e.log_z, np.log(0.9))
    assert np.allclose(e.expectation(lambda x: np.ones(len(x))), (1.0, 0.0))


@pytest.mark.parametrize(
    "change",
    [
        {"positions": np.zeros((4, 13, 3))},
        {"log_weights": np.array([0, 0, np.nan])},
        {"log_weights": np.array([0, 0, np.inf])},
        {"energies": np.array([0, np.nan, 0])},
        {"positions": np.full((3, 13, 3), np.nan)},
    ],
)
def test_nonsense_is_refused(change):
    good = {"positions": np.zeros((3, 13, 3)), "energies": np.zeros(3), "log_weights": np.zeros(3)}
    with pytest.raises(UsageError):
        WeightedEnsemble(**{**good, **change}, system=SYSTEM)


def test_nothing_left_to_average():
    e = ensemble(3, log_weights=np.full(3, -np.inf))
    assert e.log_z == -np.inf
    with pytest.raises(ResultError, match="every sample has weight zero"):
        e.ess  # noqa: B018


def test_resampling_keeps_averages_and_log_z():
    e = ensemble(2000)
    r = e.resample(100_000, seed=1)
    assert np.isclose(r.log_z, e.log_z) and np.ptp(r.weights) < 1e-15
    assert abs(r.mean_energy[0] - e.mean_energy[0]) < 1e-3
    # Copies carry no information: the errors and the effective size are those of the source.
    assert np.isclose(r.ess, e.ess) and r.log_z_err == e.log_z_err
    assert np.isclose(r.mean_energy[1], e.mean_energy[1], rtol=0.1)
    assert np.array_equal(e.resample(seed=2).positions, e.resample(seed=2).positions)


def test_files_round_trip(tmp_path):
    e = ensemble()
    files = e.save(tmp_path / "a.dcd")
    assert sorted(p.name for p in files) == ["a.dcd", "a.npz", "a.pdb"] == sorted(p.name for p in tmp_path.iterdir())
    back = load_ensemble(tmp_path / "a.dcd")
    for key in ("positions", "energies", "log_weights"):
        assert np.array_equal(getattr(e, key), getattr(back, key))
    assert back.provenance == {**e.provenance, "system": "lj13"}
    t = mdtraj.load(str(tmp_path / "a.dcd"), top=str(tmp_path / "a.pdb"))
    assert t.n_frames == 50 and t.n_atoms == 13 and all(a.element.symbol == "Ar" for a in t.topology.atoms)
    angstrom = e.positions * SYSTEM.units.length_angstrom
    assert np.allclose(t.xyz * 10, angstrom, atol=1e-5)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as z:
        assert set(z.files) == {"positions", "energies", "log_weights", "provenance"}
        assert json.loads(str(z["provenance"]))["system"] == "lj13"


def test_same_samples_same_bytes(tmp_path, monkeypatch):
    import time

    ensemble().save(tmp_path / "a.dcd")
    year = time.time() + 4e7
    monkeypatch.setattr(time, "time", lambda: year)
    ensemble().save(tmp_path / "b.dcd")
    for kind in ("dcd", "pdb", "npz"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    # No date may hide in the DCD's title records or the PDB's remarks.
    year_now = str(time.localtime().tm_year).encode()
    assert year_now not in (tmp_path / "a.dcd").read_bytes()[:400] and year_now not in (tmp_path / "a.pdb").read_bytes()


def test_views(tmp_path):
    e = ensemble(5)
    frames = e.to_ase()
    assert len(frames) == 5 and frames[2].info["log_weight"] == e.log_weights[2]
    assert np.isclose(frames[2].get_potential_energy(), e.energies[2] * SYSTEM.units.kT_eV)
    assert np.allclose(
        frames[0].get_distance(0, 1), np.linalg.norm(e.positions[0, 0] - e.positions[0, 1]) * 3.8220, rtol=1e-5
    )
    assert e.to_mdtraj().n_frames == 5


def test_two_dimensions_are_padded(tmp_path):
    e = WeightedEnsemble(np.random.default_rng(0).normal(size=(3, 4, 2)), np.zeros(3), np.zeros(3), get_system("dw4"))
    e.save(tmp_path / "d.dcd")
    assert not mdtraj.load(str(tmp_path / "d.dcd"), top=str(tmp_path / "d.pdb")).xyz[..., 2].any()


@pytest.mark.parametrize("damage", ["truncate", "foreign", "missing array", "missing file", "no provenance"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "a.dcd"
    ensemble().save(path)
    npz = path.with_suffix(".npz")
    if damage == "truncate":
        npz.write_bytes(npz.read_bytes()[: npz.stat().st_size // 2])
    elif damage == "foreign":
        npz.write_bytes(b"not an archive at all")
    elif damage == "missing array":
        np.savez(npz, positions=np.zeros((1, 13, 3)), provenance="{}")
    elif damage == "no provenance":
        np.savez(npz, positions=np.zeros((1, 13, 3)), energies=np.zeros(1), log_weights=np.zeros(1), provenance="{}")
    else:
        npz.unlink()
    with pytest.raises(FileFormatError, match="a.npz"):
        load_ensemble(path)


def test_unwritable_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        ensemble().save(tmp_path / "nowhere" / "a.dcd")
    with pytest.raises(UsageError, match=r"ending in one of .*\.dcd, \.extxyz"):
        ensemble().save(tmp_path / "a.gro")
    assert not list(tmp_path.iterdir())


def test_one_effective_sample_has_no_error():
    e = ensemble(3, log_weights=np.array([0.0, -50.0, -50.0]))
    assert np.isnan(e.mean_energy[1]) and np.isnan(e.log_z_err)
    value, error = e.expectation(lambda x: x[:, 0])
    assert np.isfinite(value).all() and np.isnan(error).all()


def test_a_failed_first_sample_can_be_saved(tmp_path):
    lw = np.zeros(4)
    lw[:2] = -np.inf
    x = np.random.default_rng(0).normal(size=(4, 13, 3))
    x[0], x[1] = np.nan, 1e9
    WeightedEnsemble(x, np.array([np.inf, np.inf, 0, 0]), lw, SYSTEM).save(tmp_path / "a.dcd")
    t = mdtraj.load(str(tmp_path / "a.dcd"), top=str(tmp_path / "a.pdb"))
    assert t.n_frames == 4 and np.isnan(t.xyz[0]).all() and np.isfinite(t.xyz[2:]).all()
    back = load_ensemble(tmp_path / "a.dcd")
    assert len(back) == 4 and np.isclose(back.ess, 2)


def test_a_folder_in_the_way_leaves_nothing(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UsageError, match="a.npz"):
        ensemble().save(tmp_path / "a.dcd")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.slow
def test_refinement_turns_poor_samples_into_equilibrium(lj13_sampler):
    """Raw samples of few steps, moved by Markov chains: the exact mean, whichever way they start."""
    ensemble = lj13_sampler.sample(400, nfe=20, seed=1, kernel="ddpm")
    for resample in (True, False):
        refined = ensemble.refine(2000, seed=2, resample=resample)
        u = refined.energies
        assert abs(u.mean() + 42.92) < 4.5 * u.std() / 20
        assert 0.4 < refined.provenance["refined"]["acceptance"] < 0.75
        assert refined.provenance["energy_calls"] > 400 * 2000
        assert np.isnan(refined.log_z) != resample
    assert np.array_equal(ensemble.refine(50, seed=3).positions, ensemble.refine(50, seed=3).positions)
    assert refined.ess == pytest.approx(400)  # weights were put aside
    assert ensemble.refine(1, seed=0).ess == pytest.approx(ensemble.ess)


def test_refinement_brings_exploded_samples_back(lj13_samples):
    """One sample at 1e5 kT or worse must neither stay there nor hold up the others."""
    x = lj13_samples[:200].numpy().copy()
    system = get_system("lj13")
    for close in (0.5, 0.05):
        x[3, 1] = x[3, 0] + [close, 0, 0]
        u, _ = system.energy()(torch.from_numpy(x))
        assert u[3] > 1e3
        ensemble = WeightedEnsemble(x, u.numpy(), np.zeros(200), system, {"method": "mala"})
        refined = ensemble.refine(400, seed=1, resample=False)
        assert 0.4 < refined.provenance["refined"]["acceptance"] < 0.75
        assert refined.energies.max() < 0 and np.abs(refined.positions - x).max((1, 2)).min() > 1e-2
    with pytest.raises(UsageError, match="step: expected"):
        ensemble.refine(30, step=-1.0)


def test_an_ensemble_of_an_unknown_system_is_refused(tmp_path, lj13_sampler):
    ensemble = lj13_sampler.sample(3, nfe=2)
    ensemble.save(tmp_path / "a.dcd")
    with np.load(tmp_path / "a.npz") as data:
        columns, provenance = dict(data), json.loads(str(data["provenance"]))
    for change in ({"system": "mystery", "system_description": None}, {"system": "lj55"}):
        columns["provenance"] = np.array(json.dumps(provenance | change))
        np.savez(tmp_path / "a.npz", **columns)
        with pytest.raises(FileFormatError, match="mystery|'lj55' .* described as 'lj13'"):
            load_ensemble(tmp_path / "a.dcd")


def test_a_name_of_a_built_in_system_is_not_enough(tmp_path):
    """Krypton by the name of lj13 comes back as krypton, with its own potential."""
    krypton = replace(get_system("lj13"), elements=("Kr",) * 13, units=Units(4.04, 85.0))
    x = np.random.default_rng(0).normal(size=(3, 13, 3))
    WeightedEnsemble(x, np.zeros(3), np.zeros(3), krypton).save(tmp_path / "kr.dcd")
    e = load_ensemble(tmp_path / "kr.dcd")
    assert e.system.elements == krypton.elements and e.system.units == krypton.units
    assert e.system.has_energy and e.system.parameters == krypton.parameters
    # And another temperature needs no energy.
    assert reweighted(e, 90.0).system.units.temperature_kelvin == 90.0


def test_weights_that_cannot_be_trusted_are_warned_of(lj13_sampler):
    with pytest.warns(WeightWarning, match="fewer than 30 effective samples"):
        lj13_sampler.sample(20, nfe=3, last_step="plain")
    rng = np.random.default_rng(0)
    even = ensemble(4000, log_weights=0.3 * rng.normal(size=4000))
    # exp of an exponential variable of mean m has a Pareto tail of shape m.
    heavy = ensemble(4000, log_weights=rng.exponential(0.85, size=4000))
    assert even.pareto_k < 0.5 and even.advice == ""
    assert heavy.pareto_k == pytest.approx(0.85, abs=0.12)
    assert "Pareto k" in heavy.advice and heavy.ess > 30
    share = even.ess_fraction
    for expected, said in ((1.5 * share, ""), (2.5 * share, "% of the samples are effective, where the plan")):
        told = replace(even, provenance={"expected_ess_fraction": expected})
        assert said in told.advice and bool(told.advice) == bool(said)
    # Tails that double precision has no numbers for are not light ones.
    for spread, smallest in ((100.0, 5.0), (1000.0, np.inf)):
        wild = spread * np.random.default_rng(0).standard_normal(4000)
        assert WeightedEnsemble(even.positions, even.energies, wild, SYSTEM).pareto_k >= smallest
    assert np.isnan(ensemble(40).pareto_k) and np.isnan(even.resample(seed=1).pareto_k)
    for weights in (np.zeros(4000), np.log(2.0) * (np.arange(4000) % 2)):  # all, or the largest of them, are equal
        assert np.isnan(WeightedEnsemble(even.positions, even.energies, weights, SYSTEM).pareto_k)


# Parts put together


def part(seed, **changed):
    record = {
        "seed": seed,
        "energy_calls": 5,
        "seconds": 1.5,
        "failed": 0,
        "method": "diffusion",
        "plan": {"a": [1, 2]},
    }
    e = ensemble(20, seed)
    return WeightedEnsemble(e.positions, e.energies, e.log_weights, SYSTEM, record | changed, kind="importance")


def test_parts_are_joined_with_their_weights_and_costs(tmp_path):
    parts = [part(1), part(2, failed=1), part(3)]
    parts[1].save(tmp_path / "b.dcd")  # tuples come back from files as lists
    parts[1] = load_ensemble(tmp_path / "b.dcd")
    whole = WeightedEnsemble.concatenate(parts)
    assert np.array_equal(whole.log_weights, np.concatenate([e.log_weights for e in parts]))
    assert np.array_equal(whole.positions[20:40], parts[1].positions) and whole.kind == "importance"
    p = whole.provenance
    assert (p["seeds"], p["energy_calls"], p["seconds"], p["failed"]) == ([1, 2, 3], 15, 4.5, 1) and "seed" not in p
    # Z of the whole is the mean of that of its parts.
    assert whole.log_z == pytest.approx(np.log(np.mean([np.exp(e.log_z) for e in parts])))
    more = WeightedEnsemble.concatenate([whole, part(4)])
    assert more.provenance["seeds"] == [1, 2, 3, 4] and len(more) == 80


@pytest.mark.parametrize(
    "other,message",
    [
        (lambda: part(1), "expected different random numbers, got seed 1 beside seed 1"),
        (lambda: part(2, plan={"a": [1, 3]}), "part 1: expected the same plan"),
        (lambda: part(2, checkpoint="other"), "part 1: expected the same checkpoint"),
        (lambda: part(2, method="consistency"), "part 1: expected the same method"),
        (lambda: part(2).resample(), "part 1: expected the same kind"),
    ],
)
def test_what_does_not_belong_together_is_refused(other, message):
    with pytest.raises(UsageError, match=message):
        WeightedEnsemble.concatenate([part(1), other()])


def test_neither_nothing_nor_frames_of_chains_are_joined():
    with pytest.raises(UsageError, match="one ensemble or more, got none"):
        WeightedEnsemble.concatenate([])
    with pytest.raises(UsageError, match="got 'resampled'"):
        WeightedEnsemble.concatenate([part(1).resample()])
