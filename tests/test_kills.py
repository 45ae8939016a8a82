"""kill -9 at random moments: what goes on goes on bit for bit, and only what belongs together is read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import run

import idem_md

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).parent / "helpers"


@pytest.fixture(scope="module")
def killed():
    """Run ``interrupted_writers.py``: so many processes killed within ``longest`` seconds, and a last one that may
    finish. It is one process for all, most of whose time goes into its imports."""
    command = [sys.executable, str(HELPERS / "interrupted_writers.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:

        def ask(what, folder, times, longest):
            print(what, folder, times, longest, file=writers.stdin, flush=True)
            return json.loads(writers.stdout.readline())

        yield ask
        writers.stdin.close()
        assert writers.wait(timeout=60) == 0


def files(folder):
    """All but scratch folders that a kill met while they were made: they look as if they were being made now, for a
    minute."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".idem-md-") or (p / "owner").exists())


def tensors(path):
    return idem_md.training.load_checkpoint(path).denoiser.state_dict()


def test_training(tmp_path, tiny_toml, killed):
    (tmp_path / "tiny.toml").write_text(tiny_toml(30))
    killed("train", tmp_path / "whole", 0, 0)
    seen = killed("train", tmp_path / "killed", 4, 0.4)
    assert len(seen) == 5
    a, b = (tensors(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    whole, again = (files(tmp_path / name) for name in ("whole", "killed"))
    assert whole == again == ["config.json", "log.jsonl", "model.safetensors", "state.safetensors"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with three files of samples."""
    folder, sampler = tmp_path_factory.mktemp("drawn"), idem_md.load_sampler("gmm40")
    for k in (0, 1):
        sampler.sample(2000, nfe=4, last_step="plain", seed=k).save(folder / f"{k}.dcd")
    sampler.sample(500, nfe=4, last_step="plain").save(folder / "old.dcd")
    return folder


def test_distillation(tmp_path, killed):
    killed("distill", tmp_path / "whole", 0, 0)
    killed("distill", tmp_path / "killed", 2, 0.6)
    a, b = (tensors(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    for name in ("whole", "killed"):
        assert files(tmp_path / name) == ["model.safetensors", "state.safetensors"]


def test_saving(tmp_path, killed):
    """Two ensembles in turn under one name: what can be loaded is one of them, whole."""
    tmp_path = tmp_path / "saved"
    for line in killed("save", tmp_path, 8, 0.1):
        assert line in ("nothing yet", "one", "other") or "expected the trajectory" in line, line
    assert files(tmp_path) == ["x.dcd", "x.npz", "x.pdb"]
    assert len(idem_md.load_ensemble(tmp_path / "x.dcd")) == 400


FEW = "--nfe,4,--last-step,plain,--overwrite,--out"
COMMANDS = {
    "sample": (f"sample,gmm40,-n,3000,{FEW},a.dcd", 4, 1.5),
    "extend": ("extend,old.dcd,-n,1000", 4, 1.5),
    "baseline": ("baseline,gmm40,--engine,exact,-n,40000,--overwrite,--out,a.dcd", 3, 1.0),
    "merge": ("merge,0.dcd,1.dcd,--overwrite,--out,a.dcd", 3, 0.8),
    "compare": ("compare,0.dcd,1.dcd,--no-aligned,--out,report", 3, 3.0),
    "tune": ("tune,dw4,-n,600,--steps,1,--nfe,4,--pilot,100,--out,model", 3, 3.0),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, tmp_path, drawn, killed):
    """What is there afterwards is what was there before, or all of what was to come; and the command works again."""
    words, times, longest = COMMANDS[name]
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    killed(words, tmp_path, times, longest)
    for path in tmp_path.glob("*.npz"):
        try:
            n = len(idem_md.load_ensemble(path.with_suffix(".dcd")))
        except idem_md.FileFormatError as error:  # killed between two renames
            assert "expected the trajectory of" in str(error) or "was written with" in str(error)
            n = len(idem_md.load_ensemble(path))
        assert n == 2000 if path.stem in "01" else n in (500, 1500, 2500, 3000, 4000, 40000) or n % 500 == 0
    for path in tmp_path.glob("*/model.safetensors"):
        idem_md.load_sampler(path)
    if name != "tune":  # which takes its time
        assert "Traceback" not in run(*words.split(","), cwd=tmp_path).stderr
    left = [p for p in tmp_path.rglob(".idem-md-*") if p.suffix != ".lock" and (p / "owner").exists()]
    assert not left
