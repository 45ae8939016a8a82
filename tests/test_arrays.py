"""What goes into an ensemble and comes out of it: nothing is lost on the way, and nobody shares its memory."""

import copy
import json
import math
import pickle
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from openmm import unit

import idem_md
from idem_md import FileFormatError, UsageError, WeightedEnsemble
from idem_md.analysis import (
    analyse,
    bootstrap,
    distribution,
    energy_w2,
    free_energy_profile,
    heat_capacity,
    plain_w2,
    radial_distribution,
    reweighted,
    total_variation,
)
from idem_md.analysis.observables import OBSERVABLES
from idem_md.energies import GaussianMixture
from idem_md.ensemble import ForwardWeights
from idem_md.ensemble.estimators import weighted_variance
from idem_md.units import as_numbers

SYSTEM = idem_md.get_system("lj13")
N = 400


def arrays(n=N, spread=0.7):
    generator = np.random.default_rng(3)
    return generator.normal(size=(n, 13, 3)), generator.normal(-43, 3, n), spread * generator.normal(size=n)


@pytest.fixture
def e():
    return WeightedEnsemble(*arrays(), SYSTEM)


# What would be lost


class Pandas:
    """Stands for a series with missing values: an array of objects."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, None] * (N // 2), dtype=object)


class Pint:
    units = "kJ/mol"


def masked(a):
    return np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 5)


REFUSED = {
    "mask": (masked, "a masked array, whose mask would be lost"),
    "no mask": (lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool)), "a masked array"),
    "list of masks": (lambda a: [np.ma.masked_array(row, row == row.max()) for row in a], "a masked array"),
    "masked number": (lambda a: [np.ma.masked, *a[1:]], "a masked array"),
    "objects": (lambda a: a.astype(object), "objects"),
    "pandas NA": (lambda a: Pandas(), "pandas' NA"),
    "gradients": (lambda a: torch.tensor(a, requires_grad=True), "requires gradients"),
    "list of tensors": (lambda a: [torch.tensor(row, requires_grad=True) for row in a], "requires gradients"),
    "quantity": (lambda a: a * unit.kilojoule_per_mole, "a quantity"),
    "list of quantities": (lambda a: [row * unit.kilojoule_per_mole for row in a], "a quantity"),
    "one quantity": (lambda a: [Pint(), *a[1:]], "a quantity"),
    "complex": (lambda a: a * 1j, "complex128"),
    "text": (lambda a: a.astype(str), "expected real numbers"),
    "times": (lambda a: a.astype("timedelta64[s]"), "expected real numbers"),
    "ragged": (lambda a: [[1.0], [1.0, 2.0]], "expected"),
}

PLACES = {
    "positions": lambda f: WeightedEnsemble(f(arrays()[0]), *arrays()[1:], SYSTEM),
    "energies": lambda f: WeightedEnsemble(arrays()[0], f(arrays()[1]), arrays()[2], SYSTEM),
    "log_weights": lambda f: WeightedEnsemble(*arrays()[:2], f(arrays()[2]), SYSTEM),
    "fn": lambda f: WeightedEnsemble(*arrays(), SYSTEM).expectation(lambda x: f(x[:, 0, 0])),
    "values": lambda f: distribution(WeightedEnsemble(*arrays(), SYSTEM), f(arrays()[1])),
    "bins": lambda f: distribution(WeightedEnsemble(*arrays(), SYSTEM), arrays()[1], f(np.linspace(-60.0, -20, N))),
    "a": lambda f: energy_w2(f(arrays()[1]), arrays()[1]),
    "weights_a": lambda f: energy_w2(arrays()[1], arrays()[1], f(np.ones(N))),
    "x": lambda f: OBSERVABLES["rg"](f(arrays()[0])),
    "b": lambda f: plain_w2(arrays()[0][:20], f(arrays()[0])),
    "statistic": lambda f: bootstrap(WeightedEnsemble(*arrays(), SYSTEM), lambda r: f(r.energies[:5]), n=2),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("place", PLACES)
def test_what_would_be_lost_is_refused(place, what):
    change, message = REFUSED[what]
    with pytest.raises(UsageError, match=f"^{place}: .*{message}"):
        PLACES[place](change)


@pytest.mark.parametrize("what", ["mask", "gradients", "objects", "complex"])
def test_geometries_too(what):
    change, message = REFUSED[what]
    energy = SYSTEM.energy()
    energy.units, energy.elements = SYSTEM.units, SYSTEM.elements
    for call in (
        lambda x: idem_md.System.of_energy(energy, x),
        idem_md.systems.nearest_neighbour_distance,
    ):
        with pytest.raises(UsageError, match=f"positions: .*{message}"):
            call(change(arrays()[0][0]))
    with pytest.raises(UsageError, match=f"log_weights: .*{message}"):
        ForwardWeights(change(arrays()[2]))


def test_what_holds_numbers_is_taken():
    a = arrays()[1]
    for same in (a.tolist(), tuple(a), torch.tensor(a), [torch.tensor(v) for v in a], np.ma.masked_array(a)):
        assert np.array_equal(as_numbers("x", same), a)
    assert as_numbers("x", [True, 2]).tolist() == [1.0, 2.0] and as_numbers("x", a) is a
    assert as_numbers("x", a.astype(np.float32)).dtype == np.float64


# Shapes


@pytest.mark.parametrize("name,shape", [("dw4", (4, 3)), ("lj13", (13, 2)), ("lj13", (12, 3)), ("gmm40", (1, 3))])
def test_positions_have_the_shape_of_the_system(name, shape, tmp_path):
    system = idem_md.get_system(name)
    x = np.zeros((3, *shape))
    with pytest.raises(UsageError, match=rf"positions: expected shape \(n, {system.n_atoms}, {system.n_dims}\) of"):
        WeightedEnsemble(x, np.zeros(3), np.zeros(3), system)
    right = WeightedEnsemble(np.zeros((3, system.n_atoms, system.n_dims)), np.zeros(3), np.zeros(3), system)
    right.save(tmp_path / "x.dcd")
    with np.load(tmp_path / "x.npz") as z:
        contents = dict(z)
    np.savez(tmp_path / "x.npz", **{**contents, "positions": x})
    for suffix in (".dcd", ".npz"):
        with pytest.raises(FileFormatError, match="positions: expected shape"):
            idem_md.load_ensemble(tmp_path / f"x{suffix}")


# Shared memory


def test_what_comes_in_is_a_copy():
    """Memory of anything that can still be written to."""
    buffers = [np.array(a) for a in arrays()]
    views = [buffers[0][:], np.asarray(memoryview(buffers[1])), torch.from_numpy(buffers[2])]
    views[0].flags.writeable = False
    e = WeightedEnsemble(*views, SYSTEM)
    before = e.mean_energy, e.log_z, e.positions.sum()
    for buffer in buffers:
        buffer *= 2
    assert (e.mean_energy, e.log_z, e.positions.sum()) == before


def whole_family(e, tmp_path):
    """All that hands the arrays of an ensemble on."""
    e.save(tmp_path / "x.dcd")
    yield from (e, reweighted(e, 60.0), e.resample(), replace(e, provenance={}), copy.copy(e), copy.deepcopy(e))
    yield from (pickle.loads(pickle.dumps(e)), idem_md.load_ensemble(tmp_path / "x.dcd"), e.refine(5))
    yield WeightedEnsemble.concatenate([replace(e, provenance={"seed": k}) for k in (0, 1)])


def test_what_goes_out_is_read_only(e, tmp_path):
    before = [a.copy() for a in (e.positions, e.energies, e.log_weights)]
    for other in whole_family(e, tmp_path):
        for name in ("positions", "energies", "log_weights"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(other, name)[:] *= 2
    e.expectation(lambda x: x.__imul__(2)[:, 0, 0])  # an observable may do with its argument what it likes
    e.to_mdtraj().xyz[:] = 0
    e.to_ase()[0].positions[:] = 0
    e.weights[:] = 0
    for now, then in zip((e.positions, e.energies, e.log_weights), before):
        assert np.array_equal(now, then)


def test_large_sets_are_not_copied(monkeypatch):
    """Positions that were drawn are out of anyone's reach already."""
    from idem_md.rows import Rows, owned

    for limit in (2**28, 0):
        monkeypatch.setattr("idem_md.rows.LIMIT", limit)
        rows = Rows((13, 3))
        rows.append(arrays()[0])
        x = rows.array()
        assert owned(x) is x and not x.flags.writeable
        part = x[:10]
        assert owned(part) is part
    ours = arrays()[0]
    assert owned(ours) is not ours and np.array_equal(owned(ours), ours)


def test_potentials_keep_their_own():
    means = torch.zeros(2, 2, dtype=torch.float64)
    mixture = GaussianMixture(means)
    means += 5
    assert not mixture.means.any()


# A value of Python


def test_equality_and_hash(e):
    again, other = WeightedEnsemble(*arrays(), SYSTEM), WeightedEnsemble(*arrays(), SYSTEM, kind="raw")
    assert e == again and hash(e) == hash(again) and e in [again] and len({e, again, other}) == 2
    assert e != other and e != WeightedEnsemble(*arrays(), SYSTEM.at(50)) and e != 3 and e not in [other, None]
    failed = [np.array(a) for a in arrays()]
    failed[0][0], failed[1][0], failed[2][0] = np.nan, np.inf, -np.inf
    assert WeightedEnsemble(*failed, SYSTEM) == WeightedEnsemble(*failed, SYSTEM)
    assert copy.copy(e) == e == copy.deepcopy(e) == pickle.loads(pickle.dumps(e))
    assert bool(e) and len(e) == N


@pytest.mark.parametrize("use", [lambda e: e[0], lambda e: e[::2], lambda e: e[e.energies < 0], list, lambda e: 3 in e])
def test_an_ensemble_has_no_parts(e, use):
    with pytest.raises(UsageError, match="ensemble: expected no index and no loop over it"):
        use(e)


def with_failures():
    x, u, log_w = arrays(60)
    x[7], u[7], log_w[7] = np.nan, np.inf, -np.inf
    log_w[9] = -np.inf
    return WeightedEnsemble(x, u, log_w, SYSTEM)


def test_failed_samples_are_no_atoms(tmp_path):
    """In ASE's hands as in its files."""
    import ase.io

    e = with_failures()
    e.save(tmp_path / "x.extxyz")
    frames, read = e.to_ase(), ase.io.read(tmp_path / "x.extxyz", ":")
    assert len(frames) == len(read) == 58
    assert [f.info["sample"] for f in frames] == [k for k in range(60) if k not in (7, 9)]
    for frame, other in zip(frames, read):
        assert np.isfinite(frame.positions).all() and np.allclose(frame.positions, other.positions, atol=1e-7)
        assert frame.info["log_weight"] == pytest.approx(other.info["log_weight"])
        k = frame.info["sample"]
        assert np.array_equal(frame.positions, e.positions[k] * SYSTEM.units.length_angstrom)
    assert len(e.to_mdtraj()) == 60


# Numbers


def test_no_error_from_next_to_nothing():
    for n in (1, 2, 4):
        few = WeightedEnsemble(*(a[:n] for a in arrays()[:2]), np.full(n, 0.3), SYSTEM)
        assert math.isnan(few.log_z_err) and math.isnan(few.mean_energy[1]) and few.log_z == pytest.approx(0.3)
    assert math.isnan(heat_capacity(WeightedEnsemble(*arrays(20), SYSTEM))[1])


def methods(e):
    """Everything that an ensemble computes."""
    names = ("weights", "ess", "ess_fraction", "pareto_k", "advice", "log_z", "log_z_err", "log_z_lower", "mean_energy")
    for name in names:
        yield name, lambda name=name: getattr(e, name)
    yield "expectation", lambda: e.expectation(OBSERVABLES["rg"])
    yield "resample", lambda: e.resample(50, seed=1)
    yield "to_mdtraj", lambda: float(e.to_mdtraj().xyz[e.alive].sum())
    yield "to_ase", lambda: [atoms.info for atoms in e.to_ase()]
    yield "heat_capacity", lambda: heat_capacity(e)
    yield "reweighted", lambda: reweighted(e, 61.0).mean_energy
    yield "analyse", lambda: [(f.name, f.refused) for f in analyse(e)]  # rounding of threads is not compared
    yield "profile", lambda: free_energy_profile(e, e.energies[e.alive])
    yield "rdf", lambda: radial_distribution(e)
    yield "bootstrap", lambda: bootstrap(e, lambda r: r.energies.mean(), n=5)
    yield "energy_w2", lambda: energy_w2(e.energies[e.alive], e.energies[e.alive], e.weights[e.alive])
    yield "total_variation", lambda: total_variation(e.positions[e.alive], e.positions[e.alive], e.weights[e.alive])


@pytest.mark.parametrize("spread", [0.7, 400.0])
def test_floating_point_errors_of_the_caller_change_nothing(spread):
    """Weights that vanish beside others are no error."""
    x, u, log_w = arrays(spread=spread)
    x[3], u[3], log_w[3] = np.nan, np.inf, -np.inf
    e = WeightedEnsemble(x, u, log_w, SYSTEM)
    for name, method in methods(e):
        outcomes = []
        for state in ("warn", "raise"):
            with np.errstate(all=state), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                try:
                    outcomes.append(method())
                except idem_md.IdemError as error:
                    outcomes.append(str(error))
        assert repr(outcomes[0]) == repr(outcomes[1]), name


def test_files_have_all_digits(tmp_path):
    x, u, log_w = arrays()
    e = WeightedEnsemble(x, u - 1e8, log_w + 1e8, SYSTEM)
    e.save(tmp_path / "x.colvar")
    _, energies, weights = np.loadtxt(tmp_path / "x.colvar", unpack=True)
    assert np.array_equal(energies, e.energies) and np.array_equal(weights, e.log_weights)


# Coverage of errors


@pytest.mark.parametrize("shape", [2.0, 15.0])
@pytest.mark.parametrize("ess", [30, 100, 300, 1000])
def test_coverage_of_variances(shape, ess):
    """Energies of a Gamma distribution, as of oscillators, with lognormal weights: intervals hold what they say."""
    spread = 0.6
    n, generator, repeats = int(ess * math.exp(spread**2)), np.random.default_rng(ess), 400
    z_variance, z_mean, z_log_z = [], [], []
    for _ in range(repeats):
        u, log_w = generator.gamma(shape, size=n), spread * generator.normal(size=n) - spread**2 / 2
        e = WeightedEnsemble(np.zeros((n, 1, 2)), u, log_w, idem_md.get_system("gmm40"))
        variance, error = weighted_variance(u, e.weights, e.ess)
        z_variance.append((variance - shape) / error)
        z_mean.append((e.mean_energy[0] - shape) / e.mean_energy[1])
        z_log_z.append(e.log_z / e.log_z_err)
    # Four standard errors of a share of 0.68 or 0.95 of 400 are 0.09 and 0.04.
    for z in map(np.array, (z_variance, z_mean, z_log_z)):
        # 30 samples of so skewed a distribution are not all that it takes.
        assert np.mean(abs(z) < 1) > 0.68 - 0.09 and np.mean(abs(z) < 1.96) > (0.87 if ess == 30 else 0.906)
        assert np.mean(abs(z) < 1) < 0.68 + 0.12


# Surroundings


def test_python_dash_m(tmp_path):
    import subprocess

    done = subprocess.run([sys.executable, "-m", "idem_md", "systems", "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and "lj13" in json.dumps(json.loads(done.stdout))


def test_on_windows_it_says_where_it_runs():
    import subprocess

    code = "import os, pathlib, typing, importlib; os.name = 'nt'; import idem_md"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "expected Linux or macOS, got Windows" in done.stderr
