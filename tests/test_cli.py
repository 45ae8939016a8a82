"""The command line: what it prints, what it writes, how it fails."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer
from command import run

import idem_md
from idem_md.baselines.mbar import mbar_log_z
from idem_md.cli.main import app
from idem_md.cli.renamed import RENAMED, with_new_names
from idem_md.energies import lennard_jones_reference

# The installed console script, not `python -m`: that would find a source tree in the current folder first.
COMMAND = str(Path(sys.executable).parent / "idem-md")


@pytest.mark.slow
def test_the_installed_command_in_a_process_of_its_own(tmp_path):
    """Commands as a user gives them; the other tests save themselves the imports."""
    env = {**os.environ, "PYTHONWARNINGS": "error::UserWarning"}
    command = [COMMAND, "sample", "gmm40", "-n", "50", "--out", "a.dcd", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == ["a.dcd", "a.pdb", "a.npz"]
    refused = subprocess.run([*command, "--nfe", "1"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stdout == ""


def test_systems():
    rows = json.loads(run("systems", "--json").stdout)
    assert rows["lj13"]["parameters"] == {"epsilon": 2.0, "r_min": 1.0, "trap": 1.0}
    assert set(rows) == set(idem_md.SYSTEMS)
    text = run("systems", env={"COLUMNS": "40"}).stdout
    assert all(name in text for name in rows) and max(map(len, text.splitlines())) <= 40


def test_sample_writes_files_and_json(tmp_path):
    import mdtraj
    import torch

    result = json.loads(
        run(
            "sample",
            "lj13",
            "-n",
            60,
            "--nfe",
            6,
            "--seed",
            1,
            "--last-step",
            "plain",
            "--out",
            "a.dcd",
            "--json",
            cwd=tmp_path,
        ).stdout
    )
    assert set(result) == {
        "n",
        "ess",
        "ess_fraction",
        "method",
        "log_z",
        "log_z_err",
        "nfe",
        "energy_calls",
        "seconds",
        "samples_per_second",
        "mean_energy",
        "mean_energy_err",
        "files",
    }
    assert result["n"] == 60 and result["nfe"] == 6 and result["energy_calls"] == 60
    assert result["files"] == ["a.dcd", "a.pdb", "a.npz"]
    t = mdtraj.load(str(tmp_path / "a.dcd"), top=str(tmp_path / "a.pdb"))
    assert (t.n_frames, t.n_atoms) == (60, 13)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as z:
        provenance = json.loads(str(z["provenance"]))
        x, u = torch.from_numpy(z["positions"]), z["energies"]
    expected, _ = lennard_jones_reference(x, 2.0, 1.0, 1.0)
    assert np.allclose(u, expected.numpy(), rtol=1e-4)
    for key in ("system", "parameters", "checkpoint", "seed", "versions", "method", "nfe", "energy_calls", "seconds"):
        assert key in provenance
    # Same seed: the same arrays and the same DCD; only the measured seconds may differ.
    run("sample", "lj13", "-n", 60, "--nfe", 6, "--seed", 1, "--last-step", "plain", "--out", "b.dcd", cwd=tmp_path)
    assert (tmp_path / "a.dcd").read_bytes() == (tmp_path / "b.dcd").read_bytes()
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert all(np.array_equal(a[k], b[k]) for k in ("positions", "energies", "log_weights"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_toml):
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.toml").write_text(tiny_toml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("idem_md.diffusion.kernels.DiffusionKernel.nfes", (25,))  # most of the time is that of plans
        made = json.loads(
            run("train", "tiny.toml", "--out", "run", "--elastic-network-steps", 3, "--json", cwd=folder).stdout
        )
    assert made["model"] == str(Path("run", "model.safetensors")) and made["finished"] and made["iterations"] == 3
    return folder


@pytest.mark.slow
def test_train_sample_compare(trained):
    for name in ("model.safetensors", "state.safetensors", "log.jsonl", "config.json", "training.png"):
        assert (trained / "run" / name).exists()
    raw = ("--kernel", "ddpm", "--last-step", "plain")
    run("sample", "run", "-n", 20, "--nfe", 4, *raw, "--out", "tiny.dcd", cwd=trained)
    run("sample", "lj13", "-n", 40, "--out", "s0.dcd", "--plot", "s0.png", cwd=trained)
    assert (trained / "s0.png").read_bytes().startswith(b"\x89PNG")
    assert "plot: expected a file name ending in .png" in run("sample", "lj13", "--plot", "s0", code=2).stderr
    run("baseline", "lj13", "-n", 40, "--steps", 500, "--out", "ref.dcd", cwd=trained)
    info = json.loads(run("info", "run", "--json", cwd=trained).stdout)
    assert (
        info["kind"] == "checkpoint"
        and len(info["heads"]["elastic_network"]["gain_nats"]) == 8
        and "25" in info["plans"]["diffusion"]
    )
    assert "plan, 25 evaluations" in run("info", "run", cwd=trained).stdout
    info = json.loads(run("info", "ref.dcd", "--json", cwd=trained).stdout)
    assert info["kind"] == "ensemble (equilibrium)" and info["n"] == 40 and info["log_z"] is None
    # A network that learnt nothing gives samples that nothing can be said of, and says so.
    refused = run("compare", "tiny.dcd", "ref.dcd", "--out", "nothing", cwd=trained, code=2)
    assert "exploded" in refused.stderr and not (trained / "nothing").exists()
    summary = json.loads(run("compare", "s0.dcd", "ref.dcd", "--out", "report", "--json", cwd=trained).stdout)
    files = ["histograms.png", "index.html", "summary.json", "table.md", "weights.png"]
    assert sorted(p.name for p in (trained / "report").iterdir()) == files
    assert summary["ensembles"]["ref"]["log_z"] is None  # a Markov chain does not know it
    assert summary["reference"] == "ref" and "aligned_w2" in summary["metrics"]["s0"]["raw"]
    assert json.loads((trained / "report" / "summary.json").read_text()) == summary


def test_several_temperatures(tmp_path):
    fast = ("-n", 300, "--nfe", 4, "--last-step-calls", 2000, "--seed", 3)
    scan = ("sample", "lj13", *fast, "--temperatures", "56,64")
    rows = json.loads(run(*scan, "--out", "s.dcd", "--json", cwd=tmp_path).stdout)["temperatures"]
    assert [r["temperature_K"] for r in rows] == [56, 64] and rows[0]["files"] == [
        "s-56K.dcd",
        "s-56K.pdb",
        "s-56K.npz",
    ]
    assert rows[0]["mean_energy"] < rows[1]["mean_energy"] and 36 < rows[1]["heat_capacity"] < 150
    assert idem_md.load_ensemble(tmp_path / "s-64K.dcd").system.units.temperature_kelvin == 64
    assert "heat capacity" in run(*scan).stdout
    # The paths are those of a single temperature with the same seed.
    one = json.loads(run("sample", "lj13", *fast, "--temperature", 56, "--json").stdout)
    assert one["log_z"] == pytest.approx(rows[0]["log_z"], abs=6 * one["log_z_err"])


@pytest.mark.slow
def test_check(tmp_path):
    run("sample", "lj13", "-n", 400, "--nfe", 6, "--last-step-calls", 16_000, "--out", "a.dcd", cwd=tmp_path)
    run("baseline", "lj13", "-n", 400, "--engine", "pt", "--steps", 3000, "--out", "r.dcd", cwd=tmp_path)
    alone = json.loads(run("check", "a.dcd", "--json", cwd=tmp_path).stdout)
    assert alone["log_z_lower"] < alone["log_z"] and (alone["pareto_k"] > 0.7) == ("Pareto" in alone["advice"])
    full = json.loads(
        run("check", "a.dcd", "--reference", "r.dcd", "-n", 100, "--plot", "w.png", "--json", cwd=tmp_path).stdout
    )
    assert full["log_z_lower"] < 59.86 < full["log_z_upper"]
    assert abs(full["forward_log_z"] - full["log_z"]) < 5 * (full["forward_log_z_err"] + full["log_z_err"])
    assert sum(b["share"] for b in full["basins"]) == pytest.approx(1) and full["missing_mass"] < 0.4
    assert (tmp_path / "w.png").read_bytes()[:4] == b"\x89PNG"
    text = run("check", "a.dcd", "--minima", 20, cwd=tmp_path).stdout
    assert "verdict" in text and "of the samples" in text
    refused = run("check", "r.dcd", "--reference", "a.dcd", cwd=tmp_path, code=2)
    assert "expected samples of idem-md sample" in refused.stderr


def test_a_budget_is_not_overrun_by_heads_and_plans(trained):
    done = run("train", "tiny.toml", "--out", "budget", "--max-energy-calls", 10**9, cwd=trained)
    assert "no elastic network and plans within the budget; for them: idem-md tune budget" in done.stderr
    info = json.loads(run("info", "budget", "--json", cwd=trained).stdout)
    assert info["heads"] == {} and info["plans"] == {}


@pytest.mark.slow
def test_training_and_tuning_end_with_what_samples_should_be_worth(lj13_sampler):
    from idem_md.sampler import expectation

    plan = lj13_sampler.plan()
    share, ms = 100 * plan.ess_fraction, 1e3 * plan.seconds
    said = f"by default {share:.0f}% of the samples should be effective, {ms:.2g} ms each"
    assert expectation(lj13_sampler.checkpoint) == said
    assert expectation(replace(lj13_sampler.checkpoint, plans={})) == ""


def test_interrupt_saves(trained, tiny_toml):
    (trained / "long.toml").write_text(tiny_toml(100_000))
    process = subprocess.Popen(
        [COMMAND, "train", "long.toml", "--out", "long"],
        cwd=trained,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    state = trained / "long" / "state.safetensors"
    written = set()  # first with the buffer alone, then after each iteration
    for _ in range(1200):
        if state.exists():
            written.add(state.stat().st_mtime_ns)
        if len(written) > 1:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped after" in out
    assert idem_md.load_sampler(trained / "long").sample(4, nfe=2).positions.shape == (4, 13, 3)


def test_interrupt_while_the_first_buffer_is_made_leaves_nothing(tmp_path):
    """A buffer that would take minutes: Ctrl-C ends it at the next step of relaxing, or the next round."""
    (tmp_path / "long.toml").write_text("system = 'lj55'\n[buffer]\nrelax_steps = 100000")
    command = [COMMAND, "train", "long.toml", "--out", "long"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "long" / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was kept" in err and "Traceback" not in err
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize(
    "args,message",
    [
        (["sample", "lj14"], "lj14"),
        (["sample", "argon"], "no checkpoint is shipped"),
        (["sample", "lj13", "-n", "0"], "n: expected at least 1, got 0"),
        (["sample", "lj13", "-n", "-5"], "n: expected at least 1, got -5"),
        (["sample", "lj13", "--nfe", "1"], "nfe: expected at least 2, got 1"),
        (["sample", "lj13", "--seed", "-1"], "seed: expected at least 0"),
        (["sample", "lj13", "--method", "magic"], "method: expected one of auto, diffusion, consistency, got 'magic'"),
        (
            ["sample", "lj13", "--kernel", "magic"],
            "kernel: expected one of analytic, consistency, isotropic-consistency, ddpm, elastic",
        ),
        (["sample", "lj13", "--out", "nowhere/a.dcd"], "nowhere"),
        (["sample", "lj13", "--out", "a.gro"], ".dcd"),
        (["sample", "empty"], "model.safetensors"),
        (["sample", "foreign.safetensors"], "foreign.safetensors"),
        (["sample", "lj13", "--last-step", "magic"], "last_step: expected one of"),
        (["sample", "lj13", "--last-step", "plain", "--last-step-calls", "3"], "last_step_calls: expected none"),
        (["sample", "lj13", "--temperature", "-3"], "temperature_K: expected a number above 0.0, got -3.0"),
        (["tune", "lj13"], "out: expected a folder"),
        (["tune", "nowhere"], "nowhere"),
        (["info", "nowhere.dcd"], "nowhere.npz"),
        (["train", "lj14"], "lj14"),
        (["train", "lj13", "--minutes", "-1"], "minutes: expected a number above 0.0, got -1.0"),
        (["train", "lj13", "--minutes", "nan"], "minutes: expected a finite number"),
        (["train", "lj13", "--max-energy-calls", "0"], "max_energy_calls: expected at least 1, got 0"),
        (["train", "lj13", "--max-energy-calls", "10"], "budget of 10"),
        (["train", "lj13", "--out", "bad.toml"], "out: cannot write"),
        (["sample", "lj13", "-n", "many"], "Invalid value for '-n'"),
        (["sample", "lj13", "--seeds", "1"], "--seeds"),
        (["nonsense"], "nonsense"),
        (["baseline", "lj14"], "lj14"),
        (
            ["baseline", "lj13", "--engine", "magic"],
            "engine: expected one of ase, exact, mala, openmm, pt, got 'magic'",
        ),
        (["baseline", "lj13", "-n", "0"], "n: expected at least 1, got 0"),
        (["compare", "a.dcd", "./a.dcd"], "one is given twice"),
        (
            ["train", "lj13", "--preset", "magic"],
            "refined, frugal, classical, twin, idem, pdem, got 'magic'",
        ),
        (["train", "bad.toml"], "unknown key 'sede'"),
        (["train", "lj13", "--resume", "--out", "none"], "resume: expected"),
        (["compare", "a.dcd"], "ensembles: expected two to four files, got 1"),
        (["compare", "a.dcd", "b.dcd"], "a.npz"),
        (["analyse", "a.dcd"], "a.npz"),
        (["baseline", "lj13", "--minutes", "1", "--steps", "9"], "seconds: expected one of steps, seconds"),
        (["baseline", "lj13", "--engine", "mala", "--discard", "0.1"], "discard: expected none for the engine 'mala'"),
    ],
)
def test_user_errors_are_one_line_and_code_two(tmp_path, args, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign.safetensors").write_bytes(b"junk")
    (tmp_path / "bad.toml").write_text("system = 'lj13'\nsede = 1\n")
    before = sorted(tmp_path.iterdir())
    said = run(*args, cwd=tmp_path, code=2).stderr
    assert message in said and len(said.strip().splitlines()) == 1, said
    assert sorted(tmp_path.iterdir()) == before


def test_help_names_what_can_be_chosen():
    """Help is shown without importing the parts: names stand in its text, and here is what keeps them true."""
    from idem_md.analysis import ANALYSES, OBSERVABLES
    from idem_md.baselines import ENGINES
    from idem_md.diffusion import KERNELS, LAST_STEPS
    from idem_md.sampler import methods
    from idem_md.training import PRESETS

    for command, names in (
        ("sample", (*KERNELS, *LAST_STEPS, *methods())),
        ("baseline", ENGINES),
        ("analyse", (*ANALYSES, *OBSERVABLES)),
        ("train", PRESETS),
    ):
        text = "".join(run(command, "--help").stdout.split())  # lines may break at hyphens
        assert all(name in text for name in names), command


def test_few_effective_samples_are_warned_of():
    text = run("sample", "lj13", "-n", 20, "--nfe", 4, "--last-step", "plain").stdout
    assert "warning" in text and "nan" not in text


def test_error_reaches_the_shell(tmp_path):
    result = run("sample", "lj14", cwd=tmp_path, code=2)
    *before, last = result.stderr.splitlines()
    assert last.startswith("idem-md: system: expected one of lj13")
    assert all(line.startswith("loading: ") for line in before)  # on a slow machine


def test_bench_prints_json_lines(tmp_path, monkeypatch):
    row = json.loads(run("bench", "energy", "--batch", 8, "--repeats", 1, cwd=tmp_path).stdout)
    assert row["bench"] == "energy" and row["speedup"] > 0
    lines = run(
        "bench",
        "score",
        "lj13",
        "--sigma",
        0.05,
        "--sigma",
        0.1,
        "--samples",
        4,
        "--chains",
        2,
        "--steps",
        20,
        cwd=tmp_path,
    ).stdout
    assert [json.loads(line)["sigma"] for line in lines.splitlines()] == [0.05, 0.1]
    few = ("-n", 30, "--nfe", 4, "--flow-n", 5, "--mbar-n", 10)
    monkeypatch.setattr("idem_md.measurements.log_z.mbar_log_z", partial(mbar_log_z, rungs=8, n_steps=50))
    lines = [json.loads(line) for line in run("bench", "log-z", "dw4", *few, cwd=tmp_path).stdout.splitlines()]
    assert [line["route"] for line in lines] == ["exact", "paths", "flow", "mbar"]
    refused = run("bench", "reproduce", "--systems", "argon", "--out", "r", cwd=tmp_path, code=2)
    assert "PYTHONPATH=benchmarks python -m idem_bench reproduce --systems argon --out r" in refused.stderr
    assert "--samples" in run("bench", "energy", "--samples", 3, cwd=tmp_path, code=2).stderr


def test_check_at_another_temperature(tmp_path):
    run("sample", "dw4", "-n", 200, "--nfe", 6, "--temperature", 280, "--out", "a.dcd", cwd=tmp_path)
    md = ("baseline", "dw4", "-n", 200, "--steps", 500, "--temperature", 280, "--out", "r.dcd")
    run(*md, cwd=tmp_path)
    found = json.loads(run("check", "a.dcd", "--reference", "r.dcd", "-n", 100, "--json", cwd=tmp_path).stdout)
    assert 0.1 < found["forward_ess_fraction"] <= 1 and abs(found["log_z"] - found["forward_log_z"]) < 1
    run("baseline", "dw4", "-n", 20, "--steps", 500, "--out", "other.dcd", cwd=tmp_path)
    refused = run("check", "a.dcd", "--reference", "other.dcd", cwd=tmp_path, code=2)
    assert "reference: expected samples of 'dw4-280K', got some of 'dw4'" in refused.stderr
    e = idem_md.load_ensemble(tmp_path / "r.dcd")
    replace(e, energies=e.energies + 1).save(tmp_path / "other.dcd")
    refused = run("check", "a.dcd", "--reference", "other.dcd", cwd=tmp_path, code=2)
    assert "expected ensembles of one potential" in refused.stderr


@pytest.mark.slow
def test_shards_merge_and_append(tmp_path):
    n = 777
    base = ("sample", "dw4", "-n", n, "--nfe", 4, "--last-step", "plain", "--kernel", "analytic", "--seed", 7)
    more = ("sample", "dw4", "-n", 23, "--out", "all.dcd", "--append")
    parts = [f"part{k}.dcd" for k in range(2)]

    def load(name):
        return idem_md.load_ensemble(tmp_path / name)

    for words in (
        *((*base, "--shard", f"{k}/2", "--out", part) for k, part in enumerate(parts)),
        ("merge", *parts, "--out", "all.dcd"),
        (*base, "--workers", 2, "--out", "two.dcd"),
    ):
        run(*words, cwd=tmp_path)
    for name in ("positions", "log_weights"):
        assert np.array_equal(getattr(load("all.dcd"), name), getattr(load("two.dcd"), name))
    for words, message in (
        (("merge", parts[0], "all.dcd", "--out", "b.dcd"), "the same samples again"),
        (("merge", *parts, "--out", "all.dcd"), "--overwrite"),
        ((*base, "--shard", "2"), "shard: expected K/M"),
        ((*base, "--shard", "0/2", "--ess", 5), "shard: expected none beside"),
        ((*more, "--nfe", 4), "nfe: expected none beside --append"),
        ((*more, "--temperature", 70), "temperature: expected none beside --append"),
        ((*more, "--overwrite"), "overwrite: expected none beside --append"),
        ((*base, "--workers", 0), "workers: expected"),
        (("sample", "dw4", "--append"), "append: expected --out"),
        (("sample", "dw4", "--temperature", "290,300", "--workers", 2), "workers: expected none with several"),
        (("sample", "dw4", "--append", "--out", "none.dcd"), "none.npz"),
    ):
        assert message in run(*words, cwd=tmp_path, code=2).stderr
    ess = ("sample", "dw4", "--ess", 60, "--last-step", "nested", "--out", "ess.dcd")
    for words in (more, ess):
        run(*words, cwd=tmp_path)
    assert len(load("all.dcd")) == n + 23 and 60 <= load("ess.dcd").ess < 260
    assert {run[0] for run in load("all.dcd").provenance["chunks"]} == {7}  # whose random numbers go on


def test_extend_finds_the_network_of_a_file(tmp_path):
    """Also of a run folder, at another temperature, and for a potential of one's own if it is told."""
    few = ("--nfe", 4, "--last-step", "plain", "--seed", 3)
    run("sample", "gmm40", "-n", 20, *few, "--out", "a.dcd", cwd=tmp_path)
    more = json.loads(run("extend", "a.dcd", "-n", 30, "--json", cwd=tmp_path).stdout)
    assert more["n"] == 50 and more["files"] == ["a.dcd", "a.pdb", "a.npz"]
    ess = json.loads(run("extend", "a.dcd", "--ess", 60, "--json", cwd=tmp_path).stdout)
    assert ess["ess"] >= 60 and ess["n"] > 50
    assert "effective samples" in run("extend", "a.dcd", "--ess", 5, cwd=tmp_path).stdout  # there are enough
    run("sample", "dw4", "-n", 20, *few, "--temperature", 310, "--out", "hot.dcd", cwd=tmp_path)
    assert json.loads(run("extend", "hot.dcd", "-n", 5, "--json", cwd=tmp_path).stdout)["n"] == 25
    for words, message in (
        (("extend", "a.dcd"), "n: expected -n, how many samples more, or --ess, got neither"),
        (("extend", "a.dcd", "-n", 0), "n: expected at least 1"),
        (("extend", "a.dcd", "-n", 5, "--sampler", "dw4"), "ensemble: expected the same"),
        (("extend", "none.dcd", "-n", 5), "none.npz"),
    ):
        assert message in run(*words, cwd=tmp_path, code=2).stderr


def test_old_options_say_their_new_names(tmp_path):
    """And do what they did."""
    few = ("gmm40", "-n", 20, "--nfe", 4, "--seed", 3)
    plain = ("--last-step", "plain")
    run("sample", *few, *plain, "--out", "a.dcd", cwd=tmp_path)
    old = run("sample", "gmm40", "-n", 20, "--append", "--out", "a.dcd", cwd=tmp_path)
    assert "idem-md: note: sample --append is now idem-md extend a.dcd" in old.stderr
    run("sample", *few, *plain, "--out", "b.dcd", cwd=tmp_path)
    run("extend", "b.dcd", "-n", 20, cwd=tmp_path)
    a, b = (idem_md.load_ensemble(tmp_path / name) for name in ("a.dcd", "b.dcd"))
    assert a == b and len(a) == 40
    old = run("sample", *few, "--temperatures", "290,310", "--json", cwd=tmp_path)
    assert "is now idem-md scan gmm40 --temperatures 290,310" in old.stderr
    new = run("scan", *few, "--temperatures", "290,310", "--json", cwd=tmp_path)
    assert "note" not in new.stderr
    old_rows, new_rows = (json.loads(done.stdout)["temperatures"] for done in (old, new))
    assert [r["log_z"] for r in old_rows] == [r["log_z"] for r in new_rows]
    assert "--append" not in run("sample", "--help").stdout


def test_what_somebody_else_has_written_is_not_overwritten(tmp_path, monkeypatch):
    run("sample", "gmm40", "-n", 20, "--nfe", 6, "--last-step", "plain", "--out", "a.dcd", cwd=tmp_path)
    extend = idem_md.Sampler.extend

    def while_another_writes(self, ensemble, *rest, **options):
        ensemble.save(tmp_path / "a.dcd")
        return extend(self, ensemble, *rest, **options)

    monkeypatch.setattr(idem_md.Sampler, "extend", while_another_writes)
    refused = run("sample", "gmm40", "-n", 20, "--append", "--out", "a.dcd", cwd=tmp_path, code=2)
    assert "append: expected a.dcd as it was" in refused.stderr
    assert len(idem_md.load_ensemble(tmp_path / "a.dcd")) == 20
    (beside,) = tmp_path.glob("a-*.dcd")
    assert len(idem_md.load_ensemble(beside)) == 40


def test_a_shard_without_weights_is_written(tmp_path, monkeypatch):
    """Or its samples would be missing from the count."""
    words = ("sample", "dw4", "-n", 300, "--nfe", 4, "--last-step", "plain")
    run(*words, "--shard", "0/2", "--out", "0.dcd", cwd=tmp_path)
    sample = idem_md.Sampler.sample

    def hopeless(*args, **options):
        e = sample(*args, **options)
        return replace(e, log_weights=np.full(len(e), -np.inf))

    monkeypatch.setattr(idem_md.Sampler, "sample", hopeless)
    refused = run(*words, "--shard", "1/2", "--out", "1.dcd", cwd=tmp_path, code=2)
    assert "all 50 samples have none; 1.dcd is written" in refused.stderr
    run("merge", "0.dcd", "1.dcd", "--out", "all.dcd", cwd=tmp_path)
    idem_md.load_ensemble(tmp_path / "all.dcd").save(tmp_path / "all.xtc")
    assert json.loads(run("info", "all.xtc", "--json", cwd=tmp_path).stdout)["n"] == 300
    whole, first = (idem_md.load_ensemble(tmp_path / name) for name in ("all.dcd", "0.dcd"))
    assert len(whole) == 300 and whole.log_z == pytest.approx(first.log_z + math.log(250 / 300))
    warned = run("merge", "0.dcd", "--out", "some.dcd", cwd=tmp_path)
    assert "shards 1/2 of 300 samples with seed 0 are not there" in warned.stderr


def test_a_plan_from_a_file_and_old_options(tmp_path):
    """The same samples by a file, by the options that are short for it, and by those of 0.1, which say so."""
    (tmp_path / "plan.toml").write_text('nfe = 4\nkernel = "analytic"\nlast_step = "plain"\nmoves = 3\n')
    base = ("sample", "dw4", "-n", 20, "--seed", 1, "--json")
    files = ("--plan", "plan.toml", "--out", "a.dcd")
    assert "note" not in run(*base, *files, cwd=tmp_path).stderr
    short = ("--nfe", 4, "--kernel", "analytic", "--last-step", "plain", "--moves", 3, "--out", "b.dcd")
    done = run(*base, *short, cwd=tmp_path)
    assert "note: sample --moves is now the key moves in the file of --plan" in done.stderr
    assert "--kernel" not in done.stderr
    assert (tmp_path / "a.dcd").read_bytes() == (tmp_path / "b.dcd").read_bytes()
    (tmp_path / "raw.toml").write_text("weighted = false\nnfe = 1\n")
    raw = json.loads(run(*base, "--plan", "raw.toml", cwd=tmp_path).stdout)
    old = run(*base, "--unweighted", "--nfe", 1, cwd=tmp_path)
    assert "note: sample --unweighted is now weighted = false" in old.stderr
    assert raw["nfe"] == 1 and raw["mean_energy"] == json.loads(old.stdout)["mean_energy"]
    both = run(*base, "--plan", "plan.toml", "--nfe", 5, cwd=tmp_path, code=2)
    assert "nfe: expected it in the file of --plan or as an option, got both" in both.stderr
    for text, message in (
        ("speed = 3", "unknown key 'speed'; expected some of nfe, method, kernel"),
        ("nfe = 2.5", "plan.toml: nfe: "),
        ("nfe =", "not valid TOML"),
    ):
        (tmp_path / "plan.toml").write_text(text)
        assert message in run(*base, "--plan", "plan.toml", cwd=tmp_path, code=2).stderr
    scan = ("scan", "dw4", "--temperatures", "59.9", "-n", 5, "--plan", "raw.toml")
    assert "weighted: expected True" in run(*scan, cwd=tmp_path, code=2).stderr


def test_renamed_options_are_understood(capsys):
    for command, names in RENAMED.items():
        known = {word for p in typer.main.get_command(app).commands[command].params for word in p.opts}
        for old, new in names.items():
            assert new in known and old not in known
            assert with_new_names([command, old, "3", f"{old}=4"]) == [command, new, "3", f"{new}=4"]
            assert f"note: {old} is now {new}" in capsys.readouterr().err
    assert with_new_names([]) == [] and with_new_names(["sample", "--draws"]) == ["sample", "--draws"]


@pytest.mark.parametrize(
    "package, extra, words",
    [
        ("freud", "steinhardt", ("analyse", "a.dcd", "--observable", "q4")),
        ("h5py", "h5md", ("sample", "lj13", "-n", 2, "--nfe", 3, "--last-step", "plain", "--out", "a.h5md")),
        ("torchdiffeq", "flow", ("bench", "log-z", "dw4", "-n", 30, "--nfe", 4, "--flow-n", 5, "--mbar-n", 10)),
    ],
)
def test_missing_extras_are_named(package, extra, words, tmp_path, monkeypatch):
    run("sample", "lj13", "-n", 3, "--nfe", 3, "--last-step", "plain", "--out", "a.dcd", cwd=tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    refused = words[0] == "analyse"  # a table of what was found, and of what was not
    done = run(*words, cwd=tmp_path, code=0 if refused else 2)
    said = " ".join((done.stdout if refused else done.stderr).split())
    assert f"expected the package {package}" in said and (refused or f"pip install '.[{extra}]'" in said)
