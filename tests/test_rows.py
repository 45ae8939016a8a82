"""More samples than memory: the same bits from a file, and nothing on the way makes a copy of all."""

import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import idem_md
from idem_md import rows
from idem_md.rows import Rows, blocks_of, check_room


@given(st.lists(st.integers(0, 7), max_size=6), st.sampled_from([(), (3,), (2, 3)]), st.booleans())
def test_rows_come_back(lengths, shape, in_a_file):
    blocks = [np.random.default_rng(k).normal(size=(n, *shape)) for k, n in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "LIMIT", 64 if in_a_file else 2**28)
        found = Rows(shape)
        for block in blocks:
            found.append(block)
        assert np.array_equal(found.array(), np.concatenate([np.empty((0, *shape)), *blocks]))


@given(st.integers(0, 50), st.integers(1, 5))
def test_blocks_make_the_whole(n, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK", 100)
        x = np.arange(n * width, dtype=float).reshape(n, width)
        parts = [x[part] for part in blocks_of(x)]
        assert np.array_equal(np.concatenate([np.empty((0, width)), *parts]), x)
        assert all(part.nbytes <= 100 for part in parts)


def test_samples_in_a_file_are_the_same(tmp_path, monkeypatch):
    sampler = idem_md.load_sampler("dw4")
    options = dict(nfe=4, kernel="analytic", last_step="plain", seed=3)
    inside = sampler.sample(600, **options)
    inside.save(tmp_path / "a.dcd")
    monkeypatch.setattr(rows, "LIMIT", 1000)
    monkeypatch.setattr(rows, "BLOCK", 1000)
    outside = sampler.extend(sampler.sample(500, **options), 100)
    outside.save(tmp_path / "b.dcd")
    for name in ("positions", "energies", "log_weights"):
        assert np.array_equal(getattr(inside, name), getattr(outside, name))
    assert outside.positions.base is not None  # a view of a file's pages
    for suffix in (".dcd", ".pdb"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_memory_does_not_grow_with_the_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LIMIT", 2**20)
    monkeypatch.setattr(rows, "BLOCK", 2**20)
    n, shape = 200_000, (13, 3)
    rng = np.random.default_rng(0)
    system = idem_md.get_system("lj13")
    idem_md.WeightedEnsemble(rng.normal(size=(1, *shape)), [0.0], [0.0], system).save(tmp_path / "x.dcd")  # imports
    tracemalloc.start()
    positions = Rows(shape)
    for _ in range(100):
        positions.append(rng.normal(size=(n // 100, *shape)))
    x, u = positions.array(), np.zeros(n)
    ensemble = idem_md.WeightedEnsemble(x, u, rng.normal(size=n), system)
    ensemble.save(tmp_path / "y.dcd")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert x.nbytes > 60e6 > 2.5 * peak  # NumPy writes 16 MiB at a time


def test_no_room_is_said_before_the_work(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2**40, 0, 2**30))
    check_room("n", 10**6, (13, 3))
    with pytest.raises(idem_md.UsageError, match=r"n: expected at most 34\d+, got 100000000, which take 29.1 GiB"):
        check_room("n", 10**8, (13, 3))
    with pytest.raises(idem_md.UsageError, match=r"n: expected at most .* \(TMPDIR\)"):
        idem_md.load_sampler("gmm40").sample(10**8)
