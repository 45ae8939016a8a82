"""Files for other programs, read back by them."""

import json
import warnings

import ase.io
import mdtraj
import numpy as np
import pytest

import idem_md
from idem_md import UsageError, WeightedEnsemble
from idem_md.ensemble.formats import FORMATS


@pytest.fixture(scope="module")
def some(lj13_samples):
    """Weighted samples, the second of which failed."""
    x = lj13_samples[:6].numpy().copy()
    system = idem_md.get_system("lj13")
    u = system.energy()(lj13_samples[:6].double())[0].numpy().copy()
    x[1], u[1] = np.nan, np.inf
    log_w = np.array([59.0, -np.inf, 61.5, 60.0, 40.0, 60.25])
    return WeightedEnsemble(x, u, log_w, system)


ALIVE = [0, 2, 3, 4, 5]


def angstrom(e):
    return e.positions * e.system.units.length_angstrom


@pytest.mark.parametrize("suffix,digits", [(".dcd", 1e-4), (".xtc", 6e-3)])
def test_trajectories_for_mdtraj_and_mdanalysis(some, tmp_path, suffix, digits):
    path = tmp_path / f"a{suffix}"
    assert [p.suffix for p in some.save(path)] == [suffix, ".pdb", ".npz"]
    t = mdtraj.load(str(path), top=str(tmp_path / "a.pdb"))
    assert t.n_frames == 6 and np.allclose(10 * t.xyz[ALIVE], angstrom(some)[ALIVE], atol=digits)
    with warnings.catch_warnings():
        import MDAnalysis

        warnings.simplefilter("ignore")  # of readers, about what a PDB may say and what a release to come will change
        u = MDAnalysis.Universe(str(tmp_path / "a.pdb"), str(path))
        frames = np.array([ts.positions.copy() for ts in u.trajectory])
    assert np.allclose(frames[ALIVE], angstrom(some)[ALIVE], atol=digits)
    again = idem_md.load_ensemble(path)
    assert np.array_equal(again.log_weights, some.log_weights) and again.ess == some.ess


def test_extended_xyz_for_ase(some, tmp_path):
    some.save(tmp_path / "a.extxyz")
    frames = ase.io.read(tmp_path / "a.extxyz", ":")
    assert [f.info["log_weight"] for f in frames] == [59.0, 61.5, 60.0, 40.0, 60.25]
    assert "larger" not in frames[0].info["log_weight_is"] and "mean of exp" in frames[0].info["log_weight_is"]
    assert np.allclose([f.positions for f in frames], angstrom(some)[ALIVE], atol=1e-7)
    kT = some.system.units.kT_eV
    assert np.allclose([f.get_potential_energy() for f in frames], some.energies[ALIVE] * kT, rtol=1e-6)
    assert frames[0].get_chemical_formula() == "Ar13"


def test_h5md_for_mdanalysis(some, tmp_path):
    some.save(tmp_path / "a.h5md")
    some.save(tmp_path / "a.dcd")
    with warnings.catch_warnings():
        import MDAnalysis

        warnings.simplefilter("ignore")
        u = MDAnalysis.Universe(str(tmp_path / "a.pdb"), str(tmp_path / "a.h5md"))
        assert u.trajectory.n_frames == 6
        for k, ts in enumerate(u.trajectory):
            assert ts.data["log_weight"] == some.log_weights[k]
            assert np.allclose(ts.positions, angstrom(some)[k], atol=1e-4, equal_nan=True)


def test_h5md_follows_its_specification(some, tmp_path):
    import h5py

    some.save(tmp_path / "a.h5md")
    with h5py.File(tmp_path / "a.h5md") as file:
        assert list(file["h5md"].attrs["version"]) == [1, 1] and file["h5md/creator"].attrs["name"] == "idem-md"
        for name in ("particles/atoms/position", "observables/log_weight", "observables/reduced_energy"):
            assert {"step", "time", "value"} <= set(file[name]) and len(file[name]["value"]) == 6
        assert file["particles/atoms/position/value"].attrs["unit"] == "Angstrom"
        assert "Z" in file["observables/log_weight/value"].attrs["description"]
        assert np.array_equal(file["observables/log_weight/value"], some.log_weights)


def test_colvar_for_plumed(some, tmp_path):
    some.save(tmp_path / "a.colvar")
    lines = (tmp_path / "a.colvar").read_text().splitlines()
    heads = [line.split() for line in lines if line.startswith("#!")]
    assert heads[0] == ["#!", "FIELDS", "time", "energy", "logweights"]
    assert all(head[1] == "SET" and len(head) == 4 for head in heads[1:])  # the only other form that PLUMED reads
    rows = np.array([line.split() for line in lines if not line.startswith("#!")], dtype=float)
    assert np.array_equal(rows[:, 0], ALIVE) and np.allclose(rows[:, 2], some.log_weights[ALIVE])
    assert np.allclose(rows[:, 1], some.energies[ALIVE])
    # What a histogram with LOGWEIGHTS makes of them.
    w = np.exp(rows[:, 2] - rows[:, 2].max())
    assert np.average(rows[:, 1], weights=w) == pytest.approx(some.mean_energy[0])


def test_weights_for_numpy(some, tmp_path):
    some.save(tmp_path / "a.weights")
    w = np.loadtxt(tmp_path / "a.weights")
    assert np.array_equal(w, some.weights) and w[1] == 0 and "sum to one" in (tmp_path / "a.weights").read_text()
    chain = WeightedEnsemble(some.positions[ALIVE], some.energies[ALIVE], np.zeros(5), some.system)
    chain.save(tmp_path / "b.weights")
    assert "up to a constant" in (tmp_path / "b.weights").read_text()


def test_a_pdb_is_no_set_of_samples(some, tmp_path):
    """It is the topology beside others."""
    with pytest.raises(UsageError, match="out: expected a file name ending in one of"):
        some.save(tmp_path / "a.pdb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".pdb"])
@pytest.mark.parametrize("name", ["gmm40", "dw4"])
def test_every_format_takes_particles_in_the_plane(suffix, name, tmp_path):
    system = idem_md.get_system(name)
    x = np.random.default_rng(0).normal(size=(3, system.n_atoms, 2))
    e = WeightedEnsemble(x, np.zeros(3), np.zeros(3), system)
    paths = e.save(tmp_path / f"a{suffix}")
    assert paths[0] == tmp_path / f"a{suffix}" and all(p.stat().st_size for p in paths)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_exports_hold_no_ensemble(some, tmp_path):
    some.save(tmp_path / "a.extxyz")
    with pytest.raises(UsageError, match=r"path: expected a file name ending in one of \.dcd, \.npz, \.xtc"):
        idem_md.load_ensemble(tmp_path / "a.extxyz")
    some.save(tmp_path / "a.npz")
    assert idem_md.load_ensemble(tmp_path / "a.npz").ess == some.ess
    json.dumps(dict(some.provenance))
