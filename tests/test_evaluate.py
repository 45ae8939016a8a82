"""The meter, the metrics' protocols, baselines, and the table from nothing: closed forms where there are any."""

import json
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
import torch

from idem_bench import compare_networks, held_out_error, raw_table, reproduce
from idem_bench.mixture_figures import plot_mixture
from idem_bench.pieces import PROTOCOLS, pieces_of
from idem_bench.target_figures import measure_estimators, plot_bias_by_energy, plot_estimators
from idem_md import BudgetExhausted, IdemError, Interrupted, ResultError, UsageError, train
from idem_md.analysis import Reference, mode_weights, negative_log_likelihood, plain_w2, raw_metrics
from idem_md.baselines import ENGINES, reference_engine
from idem_md.checkpoint import build_denoiser, load_checkpoint, save_checkpoint
from idem_md.diffusion import Denoiser
from idem_md.energies import GaussianMixture, Harmonic
from idem_md.geometry import standard_normal
from idem_md.measurements import measure_score, read_meter
from idem_md.provenance import sources
from idem_md.report import plot_energies, plot_histograms
from idem_md.targets import BufferTarget
from idem_md.training import preset

pytestmark = pytest.mark.slow

K, SIGMA = 4.0, 0.4


@pytest.fixture(scope="module")
def harmonic():
    """Equilibrium samples of a harmonic cluster and its exact denoiser, x_t k^-1/(k^-1 + sigma^2)."""
    x = K**-0.5 * standard_normal((400, 5, 3), torch.Generator().manual_seed(0))
    return Harmonic(5, 3, K), x, lambda x, sigma: x / (1 + K * sigma[:, None, None] ** 2)


def test_meter_reads_zero_for_the_exact_denoiser(harmonic):
    energy, x, exact = harmonic
    row = read_meter(exact, energy, x, SIGMA, 0.1, chains=4, n_steps=100)
    assert abs(row.error) < 4.5 * row.standard_error and row.standard_error < 0.1
    assert 0.3 < row.acceptance < 1 and row.target_noise > 0
    # |x_t - D|^2/sigma^2 = d sigma^2 / (1/k + sigma^2) on average, d = 12.
    assert row.size == pytest.approx(12 * SIGMA**2 / (1 / K + SIGMA**2), rel=0.1)


def test_meter_reads_a_known_error(harmonic):
    """D off by a constant vector: |shift|^2 / sigma^2 exactly, however noisy the chains."""
    energy, x, exact = harmonic
    shift = 0.1 * standard_normal((1, 5, 3), torch.Generator().manual_seed(1), torch.float32)
    row = read_meter(lambda x, s: exact(x, s) + shift, energy, x, SIGMA, 0.1, chains=4, n_steps=100, seed=1)
    assert row.error == pytest.approx(float((shift**2).sum()) / SIGMA**2, abs=4.5 * row.standard_error)
    assert row.error > 4.5 * row.standard_error


def test_meter_refuses_one_sample(harmonic):
    energy, x, exact = harmonic
    with pytest.raises(UsageError, match="x_0"):
        read_meter(exact, energy, x[:1], SIGMA, 0.1)
    with pytest.raises(UsageError, match="sigma"):
        read_meter(exact, energy, x, 0.0, 0.1)


def test_meter_on_the_shipped_checkpoint(lj13_sampler):
    """Far below what a network that does nothing would have; how far is for the benchmark to say."""
    (row,) = measure_score(lj13_sampler, (0.05,), n=24, chains=8, n_steps=400)
    assert 0 < row["error"] < 0.05 * row["size"]
    assert row["checkpoint"] == lj13_sampler.checkpoint.digest


def test_held_out_error_of_the_exact_denoiser(harmonic):
    """|D - x_0|^2 per coordinate is sigma^2/(1 + k sigma^2); weighted with s^2 = 1/k it is one at every level."""
    _, x, exact = harmonic
    error, deviation = held_out_error(exact, x.repeat(10, 1, 1).float(), 0.05, 2.0, K**-0.5)
    assert error == pytest.approx(1.0, abs=4.5 * deviation) and deviation < 0.02


def test_networks_are_compared():
    ours, theirs = compare_networks("dw4", seconds=0.1, n=64, n_steps=250)
    assert (ours["network"], theirs["network"]) == ("painn", "egnn")
    for row in (ours, theirs):
        assert row["steps"] >= 10 and row["held_out_error"] > 0 and row["milliseconds_per_sample"] > 0


def test_plain_w2_of_a_shift_is_its_length():
    x = np.random.default_rng(0).normal(size=(50, 4, 3))
    shift = np.array([0.3, 0.0, 0.4])
    assert plain_w2(x, x + shift) == pytest.approx(0.5 * 2, rel=1e-6)


def test_mode_weights():
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    x = np.array([[[0.1, 0]], [[9, 1]], [[11, 0]], [[1, 1]]])
    assert mode_weights(x, centres).tolist() == [0.5, 0.5, 0.0]
    assert mode_weights(x, centres, [1, 0, 0, 0]).tolist() == [1, 0, 0]


def test_negative_log_likelihood_of_a_gaussian_is_its_entropy():
    x = np.random.default_rng(1).normal(size=(4000, 1, 2))
    value, error = negative_log_likelihood(lambda x: -0.5 * (x**2).sum((1, 2)) - np.log(2 * np.pi), x)
    assert value == pytest.approx(1 + np.log(2 * np.pi), abs=4.5 * error) and error < 0.03
    with pytest.raises(UsageError, match="log_density"):
        negative_log_likelihood(lambda x: x[:, 0, 0] * np.nan, x)


def test_raw_metrics_count_explosions_and_find_modes():
    a, b = (ENGINES["exact"].run("gmm40", 2000, seed=s) for s in (1, 2))
    energy = GaussianMixture()
    metrics = raw_metrics(a.positions, a.energies, Reference.of(b), energy.means)
    assert (
        metrics["modes"] == 40 and metrics["mode_tv"] < 0.1 and metrics["exploded"] == 0 and metrics["energy_w2"] < 0.2
    )
    u = a.energies.copy()
    u[:3] = 1e5
    worse = raw_metrics(a.positions, u, Reference.of(b))
    assert worse["exploded"] == 3 and worse["energy_w2"] < 0.2 and worse["energy_w2_all"] > 1000
    with pytest.raises(ResultError, match="every one of 2000"):
        raw_metrics(a.positions, u + 1e6, Reference.of(b))


@pytest.mark.parametrize("system,n_steps", [("lj13", 4000), ("dw4", 1000)])
def test_tempering_baseline(system, n_steps):
    e = ENGINES["pt"].run(system, 600, n_steps, seed=1)
    exact, error = e.system.exact_mean_energy
    assert abs(e.energies.mean() - exact) < 4.5 * np.hypot(e.energies.std() / 600**0.5, error)
    assert 0.3 < e.provenance["acceptance"] < 0.9 and min(e.provenance["swaps"]) > 0.1
    assert np.isnan(e.log_z)


def test_tempering_spreads_samples_over_ladders():
    e = ENGINES["pt"].run("lj13", 1500, 2000, seed=0)
    assert len(e) == 1500 and e.provenance["ladders"] == 1000
    with pytest.raises(UsageError, match="steps: expected at least"):
        ENGINES["pt"].run("lj13", 100_000, 1000)


def test_exact_baseline():
    e = ENGINES["exact"].run("gmm40", 4000, seed=3)
    exact, error = e.system.exact_mean_energy
    assert abs(e.energies.mean() - exact) < 4.5 * e.energies.std() / 4000**0.5
    with pytest.raises(UsageError, match="engine: expected another than 'exact' for 'lj13'"):
        ENGINES["exact"].run("lj13", 5)
    with pytest.raises(UsageError, match="steps: expected none"):
        ENGINES["exact"].run("gmm40", 5, 100)


def test_networks_suit_their_systems():
    from idem_md.systems import get_system

    network = preset("gmm40").network
    with pytest.raises(UsageError, match="network.name: expected one for particles, painn or egnn, for 'lj13'"):
        build_denoiser(network, get_system("lj13"))
    with pytest.raises(UsageError, match="network.name: expected one for a single point, such as mlp, for 'gmm40'"):
        build_denoiser(preset("lj13").network, get_system("gmm40"))
    with pytest.raises(UsageError, match="atoms are of several kinds"):
        build_denoiser(preset("lj13", "idem").network, get_system("binary"))


def test_score_output_is_the_score():
    class Twice(torch.nn.Module):
        def forward(self, x, log_sigma):
            return 2 * x

    denoiser = Denoiser(Twice(), 0.7, "score")
    x, sigma = torch.randn(3, 4, 2), torch.tensor([0.1, 1.0, 3.0])
    assert torch.allclose((denoiser(x, sigma) - x) / sigma[:, None, None] ** 2, 2 * x, rtol=1e-4)
    with pytest.raises(UsageError, match="output"):
        Denoiser(torch.nn.Module(), 0.7, "noise")


def test_estimators_have_the_noise_that_a_prototype_measured(tmp_path):
    """At K = 1024 that of S_T, S_D and the mix, per coordinate, by an independent prototype."""
    rows = measure_estimators(draws=(256, 1024), points=16, repeats=32, chains=8, steps=800)
    plot_estimators(tmp_path / "estimators.png", rows)
    assert (tmp_path / "estimators.png").read_bytes().startswith(b"\x89PNG")
    prototype = {0.01: (0.2, 4.6, 0.2), 0.1: (27, 7.5, 6.3), 0.2: (117, 4.6, 4.6), 0.8: (12, 0.94, 0.90)}
    for row in rows[1::2]:
        assert row.draws == 1024
        noise, bias = list(row.noise.values()), list(row.bias.values())
        for got, expected in zip(noise, prototype[row.sigma]):
            assert expected / 1.7 < got < expected * 1.7, row
        assert noise[2] <= 1.05 * min(noise[:2]) + 0.1 * row.scale  # the mix is never much worse than either
        assert all(b < row.scale + n for b, n in zip(bias, noise))


@pytest.fixture
def sketch(monkeypatch):
    """Trainings of a second, and figures that take no measurements."""
    full = preset("gmm40")
    small = full.model_copy(
        update={
            "buffer": full.buffer.model_copy(update={"size": 64, "fresh": 8, "sampling_steps": 4}),
            "target": BufferTarget.Options(name="buffer"),
            "optimizer": full.optimizer.model_copy(update={"inner_steps": 20, "iterations": 3}),
        }
    )
    monkeypatch.setattr("idem_bench.pieces.preset", lambda *_: small)
    quick = partial(plot_bias_by_energy, points=4, repeats=3)
    monkeypatch.setattr("idem_bench.reproduction.plot_bias_by_energy", quick)
    monkeypatch.setattr("idem_bench.methods.METHODS_NFES", {"analytic": (6, 12)})
    return small


def test_the_table_from_nothing(tmp_path, sketch):
    """A sketch of a run: everything is measured once, written, and found again."""
    said = []
    rows = reproduce(["gmm40"], ["refined"], 1, tmp_path, n=64, on_run=said.append)
    settings = ["exact, second set", "shipped, raw, 6", "shipped, raw, 25", "shipped, weighted", "shipped, best method"]
    assert [r["settings"] for r in rows] == [*settings, "refined", "published: iDEM"]
    trained, text = rows[5], (tmp_path / "table.md").read_text()
    assert trained["training_energy_calls"] > 0 and "plain_w2" in trained and trained["code"] == sources()
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert raw_table(rows) in text and "not run" not in text and f"Code {sources()} on" in text
    for name in ("energies", "samples", "scores", "bias"):
        assert (tmp_path / f"gmm40-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"gmm40-{name}.png, drawn in" in text
    (model,) = tmp_path.glob("gmm40-refined-0-*/model.safetensors")
    before = model.stat().st_mtime_ns
    again = []
    assert reproduce(["gmm40"], ["refined"], 1, tmp_path, n=64, on_run=again.append) == rows
    assert said and not [what for what in again if not what.startswith("figure")]
    assert model.stat().st_mtime_ns == before
    other = reproduce(["gmm40"], ["refined"], 1, tmp_path, n=60)
    assert other[1]["n"] == 60  # another question has another answer
    with pytest.raises(UsageError, match="systems: expected some of"):
        reproduce(["argon"], out=tmp_path)


def test_the_table_is_made_in_pieces(tmp_path, sketch, monkeypatch):
    """A budget that ends in the midst of a training: the table says so, and the next call goes on with it."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    trained = []

    def interrupted(config, folder, *, stop, **options):
        def on_iteration(*_):
            trained.append(str(folder))
            now[0] += 40.0

        return train(config, folder, stop=stop, on_iteration=on_iteration, **options)

    monkeypatch.setattr("idem_bench.pieces.train", interrupted)
    rows = reproduce(["gmm40"], ["refined"], 1, tmp_path, budget_minutes=1.0, n=64)
    assert len(trained) == 2 and [r["settings"] for r in rows if r.get("missing")] == [
        "shipped, best method",
        "refined",
    ]
    assert "| refined | " in (tmp_path / "table.md").read_text() and "1 of 1 not run" in raw_table(rows)
    rows = reproduce(["gmm40"], ["refined"], 1, tmp_path, budget_minutes=1e6, n=64)
    assert len(trained) == 3 and not [r for r in rows if r.get("missing")]
    (model,) = tmp_path.glob("gmm40-refined-0-*/model.safetensors")
    assert load_checkpoint(model).provenance["iterations"] == 3


def test_the_table_of_the_documentation_is_what_the_command_writes(tmp_path):
    """From the rows beside it, nothing measured, no figure drawn."""
    docs = Path(__file__).parents[1] / "docs" / "reproduction"
    out = copytree(docs, tmp_path / "out", ignore=ignore_patterns("table.md"))
    reproduce(list(PROTOCOLS), out=out, budget_minutes=1e-9)
    written, shown = (path.joinpath("table.md").read_text().partition("\n## Figures")[0] for path in (out, docs))
    assert written == shown


def trainings(out, seeds=1, minutes=5.0):
    return [p for p in pieces_of("gmm40", ("refined",), seeds, minutes, 64, out) if p.seed is not None]


def test_a_training_whose_time_is_up_is_done(tmp_path, sketch, monkeypatch):
    """On a slow machine before the schedule is at its end; it is not gone on with; other minutes make another."""
    folders = []

    def cut(config, folder, **options):
        folders.append(folder)
        trained = train(config, folder)
        minutes = 60 * 5 * 0.97
        save_checkpoint(
            folder / "model.safetensors",
            replace(trained, provenance=trained.provenance | {"finished": False, "seconds": minutes}),
        )

    monkeypatch.setattr("idem_bench.pieces.train", cut)
    (piece,) = trainings(tmp_path)
    for _ in range(2):
        assert piece.name == "gmm40-refined-0" and piece.measure(math.inf)["training_seconds"] == 60 * 5 * 0.97
    assert len(folders) == 1
    (other,) = trainings(tmp_path, minutes=4.0)
    assert other.name == piece.name and other.asked != piece.asked and other.measure(math.inf)
    assert len(folders) == 2 and folders[0] != folders[1]


@pytest.mark.parametrize("error", [IdemError("training diverged: of course"), BudgetExhausted("minutes: too few")])
def test_a_training_that_fails_does_not_end_the_table(tmp_path, sketch, monkeypatch, error):
    def diverges(*_, **__):
        raise error

    monkeypatch.setattr("idem_bench.pieces.train", diverges)
    assert [p.measure(math.inf) for p in trainings(tmp_path, 2)] == [{"failure": str(error)}] * 2


@pytest.mark.parametrize("error", [BudgetExhausted, Interrupted])
def test_a_training_without_time_for_its_first_buffer_has_not_failed(tmp_path, sketch, monkeypatch, error):
    def stopped(*_, **__):
        raise error("stopped")

    monkeypatch.setattr("idem_bench.pieces.train", stopped)
    assert trainings(tmp_path)[0].measure(time.monotonic() - 1.0) is None


def test_what_is_not_the_fault_of_a_training_is_no_row_of_it(tmp_path, sketch, monkeypatch):
    def locked(*_, **__):
        raise UsageError("out: another process works in it")

    monkeypatch.setattr("idem_bench.pieces.train", locked)
    with pytest.raises(UsageError, match="another process"):
        trainings(tmp_path)[0].measure(math.inf)


def test_samples_that_cannot_be_measured_keep_the_cost_of_their_training(tmp_path, sketch, monkeypatch):
    def hopeless(*_, **__):
        raise ResultError("every weight is zero")

    monkeypatch.setattr("idem_md.sampler.Sampler.sample", hopeless)
    found = trainings(tmp_path)[0].measure(math.inf)
    assert found["failure"] == "every weight is zero" and found["training_energy_calls"] > 0


def test_a_metric_that_fails_is_no_explosion(tmp_path, sketch, monkeypatch):
    def unsolved(*_, **__):
        raise ResultError("plain W2: the transport problem was not solved")

    monkeypatch.setattr("idem_bench.pieces.raw_metrics", unsolved)
    found = trainings(tmp_path)[0].measure(math.inf)
    assert "not solved" in found["failure"] and found["exploded_share"] < 1


def test_averages_that_are_not_to_be_trusted_have_no_error():
    row = {"system": "dw4", "settings": "shipped, weighted", "seed": None, "log_z": 25.974, "log_z_err": 0.26}
    good = row | {"n": 2000, "ess_fraction": 0.5, "pareto_k": 0.3}
    assert "25.974 ± 0.260" in raw_table([good])
    for doubtful in (good | {"ess_fraction": 0.01}, good | {"pareto_k": 0.75}):
        assert "25.974 † |" in raw_table([doubtful])


def test_a_failed_seed_shows_in_the_table():
    rows = [
        {"system": "lj13", "settings": "idem", "seed": s, **m}
        for s, m in enumerate(({"energy_w2": 2.0}, {"failure": "all exploded"}))
    ]
    assert "| 2.00; 1 of 2 failed |" in raw_table(rows)
    assert "| 1 of 1 failed |" in raw_table([rows[1], {**rows[0], "settings": "refined"}])


def test_every_set_is_drawn(tmp_path, monkeypatch):
    """However many there are: colours run out, sets do not."""
    seen = []
    monkeypatch.setattr("idem_bench.mixture_figures.save_png", lambda figure, _: seen.append(figure))
    monkeypatch.setattr("idem_md.report.figures.save_png", lambda figure, _: seen.append(figure))
    e = reference_engine("gmm40").run("gmm40", 50, seed=0)
    sets = {f"set {k}": e for k in range(9)}
    plot_mixture(e.system.energy(), sets, tmp_path / "a.png")
    plot_histograms(sets, tmp_path / "b.png")
    plot_energies(sets, tmp_path / "c.png")
    mixture, histograms, energies = seen
    assert [axis.get_title() for axis in mixture.axes] == [f"set {k}" for k in range(9)]
    for figure in (histograms, energies):
        labels = {label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]}
        assert all(any(label.startswith(name) for label in labels) for name in sets), labels


def test_a_reproduction_without_end_is_refused(tmp_path):
    with pytest.raises(UsageError, match="minutes: expected a finite number"):
        reproduce(["gmm40"], ["refined"], 0, tmp_path / "r", float("nan"), None, None)
    assert not (tmp_path / "r").exists()
