"""kill -9 at random moments: what goes on goes on bit for bit, and only what belongs together is read."""

import subprocess
import sys
from pathlib import Path

import torch

import idem_md

HELPERS = Path(__file__).parent / "helpers"


def killed(what, folder, times, longest):
    """Run ``tests/helpers/victims.py``: so many processes killed within ``longest`` seconds, and a last one that may
    finish."""
    command = [sys.executable, str(HELPERS / "victims.py"), what, str(folder), str(times), str(longest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def files(folder):
    """All but scratch folders that a kill met while they were made: they look as if they were being made now, for a
    minute."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".idem-md-") or (p / "owner").exists())


def tensors(path):
    return idem_md.training.load_checkpoint(path).denoiser.state_dict()


def test_training(tmp_path, tiny_toml):
    (tmp_path / "tiny.toml").write_text(tiny_toml(30))
    killed("train", tmp_path / "whole", 0, 0)
    seen = killed("train", tmp_path / "killed", 10, 0.4)
    assert len(seen) == 11
    a, b = (tensors(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    whole, again = (files(tmp_path / name) for name in ("whole", "killed"))
    assert whole == again == ["config.json", "log.jsonl", "model.safetensors", "state.safetensors"]


def test_distillation(tmp_path):
    killed("distill", tmp_path / "whole", 0, 0)
    killed("distill", tmp_path / "killed", 5, 0.6)
    a, b = (tensors(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    for name in ("whole", "killed"):
        assert files(tmp_path / name) == ["model.safetensors", "state.safetensors"]


def test_saving(tmp_path):
    """Two ensembles in turn under one name: what can be loaded is one of them, whole."""
    tmp_path = tmp_path / "saved"
    for line in killed("save", tmp_path, 12, 0.1):
        assert line in ("nothing yet", "one", "other") or "expected the trajectory" in line, line
    assert files(tmp_path) == ["x.dcd", "x.npz", "x.pdb"]
    assert len(idem_md.load_ensemble(tmp_path / "x.dcd")) == 400
