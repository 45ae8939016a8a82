"""No command leaves its user in the dark: with a terminal and without, there is a word every two seconds."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import idem_md
from idem_md import load_sampler, progress
from idem_md.baselines import ENGINES
from idem_md.baselines.base import telling
from idem_md.ensemble import WeightSums
from idem_md.progress import working
from idem_md.sampler.display import sampling
from idem_md.training import run_samples, train
from idem_md.tuning import HeadTraining, tune

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).parent / "idem-md")
SECONDS = 2.0
# One machine or another stands still for a moment; a command that is silent is so every time.
TRIES = 3


def watched(command, folder, terminal):
    """The longest silence of a command from its start to its last word, and what it said."""
    if terminal:
        reader, writer = pty.openpty()
    else:
        reader, writer = os.pipe()
    start = time.monotonic()
    environment = os.environ | ({"TERM": terminal} if terminal else {})
    process = subprocess.Popen(
        command, cwd=folder, stdout=writer, stderr=writer, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(writer)
    silences, last, said = [], start, b""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:  # a terminal whose other end is closed
            break
        if not chunk:
            break
        silences.append(time.monotonic() - last)
        last, said = time.monotonic(), said + chunk
    os.close(reader)
    assert process.wait(timeout=60) == 0, said.decode()
    return max(silences), said.decode()


@pytest.fixture
def folder(tmp_path, tiny_toml):
    """With two sample files and a small run."""
    for seed, name in enumerate(("a", "b")):
        ENGINES["mala"].run("lj13", 150, 500, seed=seed).save(tmp_path / f"{name}.dcd")
    (tmp_path / "slow.toml").write_text(tiny_toml(40).replace("'warmup_steps' = 40", "warmup_steps = 20000"))
    return tmp_path


COMMANDS = {
    "sample": "sample lj13 -n 200",
    "baseline": "baseline lj13 --engine openmm -n 100 --minutes 0.05 --out {run}.dcd",
    "compare": "compare a.dcd b.dcd --out report",
    "train": "train slow.toml --minutes 1 --out {run}",
}


@pytest.mark.parametrize("name,terminal", [("sample", "xterm"), ("baseline", ""), ("compare", ""), ("train", "dumb")])
def test_there_is_a_word_every_two_seconds(name, terminal, folder):
    silence = SECONDS
    for k in range(TRIES):
        command = COMMANDS[name].format(run=f"{name}-{terminal}-{k}").split()
        silence, said = watched([COMMAND, *command], folder, terminal)
        assert "nan" not in said and "Traceback" not in said
        if silence < SECONDS:
            break
    assert silence < SECONDS, said


def test_lines_say_what_is_done_and_how_much_is_left(monkeypatch, capfd):
    monkeypatch.setattr(progress, "SILENCE", 0.2)
    with working("loading") as work:
        assert work.line() == "loading: 0 s"
        with telling("openmm", None) as tell:
            tell(0.256, "40 independent")
        assert work.line() == "openmm: 25 of 100 %, 40 independent, 0 s, about 0 s left"
        work.phase("sampling", 300, "samples")
        work.advance(100)
        time.sleep(0.6)
        work.resize(200, 150)
        assert "150 of 200 samples" in work.line()
        with work.aside():
            print("result")
    out, err = capfd.readouterr()
    assert out == "result\n" and "sampling: 100 of 300 samples" in err


def test_sampling_foretells_when_enough_are_effective():
    sums = WeightSums()
    with working(silent=True) as work, sampling(9000, True, sums, None, ess=100.0) as tell:
        tell(np.zeros(8))
        assert "8 of 9000 samples" in work.line()
        tell(np.array([0.0] * 40 + [-np.inf] * 72))
        assert "120 of 250 samples, 48 effective" in work.line()
        tell(np.zeros(60))
        assert "180 of 180 samples, 108 effective" in work.line()


def test_functions_say_what_they_do_unless_told_not_to(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "SILENCE", 0.05)
    train(tiny, tmp_path / "run")
    assert "iteration 5/5" in capfd.readouterr().err
    sampler = load_sampler(tmp_path / "run")
    sampler.sample(800, nfe=20, seed=0, last_step="plain", weighted=False)
    ENGINES["mala"].run("lj13", 100, 1000)
    said = capfd.readouterr().err
    assert "sampling: " in said and " of 800 samples" in said and "mala: " in said
    model, heads = tmp_path / "m.safetensors", HeadTraining(steps=3)
    tune(sampler.checkpoint, run_samples(tmp_path / "run"), model, heads=heads, nfes={})
    assert "noise levels and plans" in capfd.readouterr().err
    with pytest.raises(ZeroDivisionError):  # those who show it themselves
        sampler.sample(800, nfe=20, seed=0, last_step="plain", weighted=False, progress=lambda _: 1 / 0)
    idem_md.quiet()
    try:
        train(tiny, tmp_path / "other")
        sampler.sample(800, nfe=20, seed=0, last_step="plain", weighted=False)
    finally:
        idem_md.quiet(False)
    monkeypatch.setenv("IDEM_MD_QUIET", "1")
    sampler.sample(800, nfe=20, seed=0, last_step="plain", weighted=False)
    assert capfd.readouterr().err == ""


def test_a_word_in_the_midst_of_another_is_said_once_and_after_it(capsys):
    """A signal handler speaks while a line is being written."""
    with working("test") as work:
        written = work.console.print

        def interrupted(text, **options):
            if text == "first":
                work.say("stopping")
            written(text, **options)

        work.console.print = interrupted
        work.say("first")
        work.say("last")
    assert capsys.readouterr().err.splitlines()[-3:] == ["first", "stopping", "last"]


@pytest.mark.parametrize("spoke", [False, True])
def test_the_first_word_of_a_process_comes_at_once(monkeypatch, capsys, spoke):
    """Later ones after a second and a half; work that is done at once says nothing."""
    monkeypatch.setattr(progress, "_spoke", spoke)
    with working("short"):
        pass
    with working("test"):
        time.sleep(0.6)
    said = capsys.readouterr().err
    assert "short" not in said and ("test" in said) == (not spoke)
