"""Benchmarks report what they measured; no test looks at a speed."""

import numpy as np
import pytest
import torch
from command import run

from idem_bench import bench_workers, measure_coverage, measure_methods, methods, methods_table, plot_methods
from idem_bench.cli import main as bench
from idem_md import FileFormatError, WeightedEnsemble, get_system, load_sampler
from idem_md.energies import LennardJones, lennard_jones_reference
from idem_md.errors import UsageError
from idem_md.geometry import standard_normal
from idem_md.measurements import BENCHMARKS, measure_weights, run_benchmark, score_reference
from idem_md.targets import dem_scores_reference
from idem_md.testing import loose_lattice


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("system", ["lj13", "lj55"])
def test_every_benchmark_runs(name, system):
    samples = None if name == "energy" else 8
    row = run_benchmark(name, system, batch=4, samples=samples, repeats=2)
    assert row["bench"] == name and row["system"] == system and row["batch"] == 4 and row["repeats"] == 2
    for key in ("seconds", "reference_seconds", "speedup", "flop", "bytes", "peak_flop_per_second"):
        assert row[key] > 0, key
    assert 0 < row["share_of_peak"] < 1
    assert row["extra_memory_mib"] is None or row["extra_memory_mib"] >= 0
    assert "speedup" not in run_benchmark(name, system, batch=2, samples=samples, repeats=1, reference=False)


def test_the_reference_is_the_same_target():
    """vmap of grad of logsumexp against the weighted sum of forces: one formula, two ways."""
    energy = LennardJones(13, 2.0, 1.0, 1.0)
    x = loose_lattice(energy, 3)
    sigma = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    eps = standard_normal((3 * 50, 13, 3), torch.Generator().manual_seed(0)).reshape(3, 50, 13, 3)
    want = dem_scores_reference(lambda x: lennard_jones_reference(x, **energy.parameters), x, sigma, eps)[0]
    assert torch.allclose(score_reference(energy, x, sigma, eps), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n_atoms,n_dims", [(2, 3), (13, 3), (55, 3), (4, 2)])
def test_operations_are_counted(n_atoms, n_dims):
    """Counted by hand, a pair costs 6 D + 10: 3 D for differences and square, 3 D for both forces, 10 for scaling,
    reciprocal, powers, energy, force and sum; an atom 7 D + 1; and a few once."""
    by_hand = n_atoms * (n_atoms - 1) // 2 * (6 * n_dims + 10) + n_atoms * (7 * n_dims + 1)
    assert 0 <= LennardJones(n_atoms, n_dims=n_dims).flop - by_hand < 30


@pytest.mark.parametrize(
    "arguments,name",
    [
        (dict(name="speed"), "benchmark"),
        (dict(name="energy", samples=3), "samples"),
        (dict(name="target", system="binary"), "system"),
        (dict(name="energy", system="dw4"), "system"),
        (dict(name="energy", batch=0), "batch"),
        (dict(name="energy", device="tpu"), "device"),
        (dict(name="mala", repeats=0), "repeats"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(UsageError, match=f"{name}: expected"):
        run_benchmark(**arguments)


@pytest.mark.slow
def test_workers_give_the_same_numbers():
    row = bench_workers(batch=40, repeats=1)
    assert row["identical"] and row["speedup"] > 0


@pytest.mark.slow
def test_weights_are_measured(lj13_sampler):
    rows = list(measure_weights(lj13_sampler, (16,), ("ddpm", "analytic"), ("plain", "nested"), calls=3, n=60))
    parts = [(r["kernel"], r["last_step"]) for r in rows]
    assert parts == [("ddpm", "plain"), ("ddpm", "nested"), ("analytic", "plain"), ("analytic", "nested")]
    assert all(0 < r["ess_fraction"] <= 1 and r["energy_w2_raw"] > 0 and r["seconds"] > 0 for r in rows)
    assert 60 - rows[0]["failed"] == rows[0]["energy_calls"] and rows[3]["energy_calls"] > 120


def test_methods_are_measured_once(tmp_path, monkeypatch):
    """One table of kernels and last steps; rows that are there are taken as they are."""
    monkeypatch.setattr(methods, "METHODS_NFES", {"elastic": (4,), "analytic": (4, 6)})
    monkeypatch.setattr(methods, "FORWARD", 50)
    out, sampler = tmp_path / "rows.jsonl", load_sampler("gmm40")
    rows = list(measure_methods(sampler, out, n=50))
    parts = [(r["kernel"], r["asked"], r["nfe"], r["last_step"]) for r in rows]
    assert parts == [
        ("analytic", asked, k, last) for asked, last in (("plan", "annealed"), ("plain", "plain")) for k in (4, 6)
    ]
    assert all(0 < r["forward_ess_fraction"] <= 1 and r["seconds"] > 0 for r in rows)
    table = methods_table(rows).splitlines()
    assert len(table) == 6 and len({line.count("|") for line in table}) == 1
    plot_methods({"gmm40": rows}, tmp_path / "ess.png")
    assert (tmp_path / "ess.png").read_bytes().startswith(b"\x89PNG")

    assert methods.kept_methods(sampler, out, 50, 0) == rows
    assert not methods.kept_methods(sampler, out, 60, 0)
    monkeypatch.setattr(methods, "measure_row", None)
    assert list(measure_methods(sampler, out, n=50)) == rows
    out.write_text('{"kernel": 3}\n')
    with pytest.raises(FileFormatError, match="expected rows of an earlier measurement"):
        list(measure_methods(sampler, out, n=50))


def test_coverage_of_a_large_set(tmp_path):
    """Coverage for samples with lognormal weights, by few subsets; and a set that is too small for it."""
    generator, n = np.random.default_rng(0), 8000
    x = generator.normal(size=(n, 13, 3))
    whole = WeightedEnsemble(x, generator.gamma(18, size=n), 0.3 * generator.normal(size=n), get_system("lj13"))
    rows = list(measure_coverage(whole, sizes=(100,), repeats=60))
    assert [row["quantity"] for row in rows][:3] == ["mean energy", "heat capacity", "log Z"] and len(rows) == 5
    for row in rows:
        assert row["within_68"] > 0.45 and row["within_95"] > 0.8 and row["below_95"] < 0.2, row
    whole.resample(100).save(tmp_path / "x.dcd")
    refused = run("coverage", tmp_path / "x.dcd", code=2, entry=bench)
    assert "expected importance weights and 3000" in refused.stderr
