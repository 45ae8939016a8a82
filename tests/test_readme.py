"""What README tells a newcomer to type works as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_first_command(folder):
    """The part after the installation, verbatim; the installation itself is what runs these tests."""
    first = blocks("bash")[0].strip()
    install, command = first.split(" && ")
    assert install == "pip install ."
    program, *args = shlex.split(command)
    assert program == "idem-md"
    subprocess.run([str(Path(sys.executable).parent / program), *args], cwd=folder, check=True, timeout=300)
    t = mdtraj.load(str(folder / "lj13.dcd"), top=str(folder / "lj13.pdb"))
    assert (t.n_frames, t.n_atoms) == (1000, 13)
    with np.load(folder / "lj13.npz", allow_pickle=False) as z:
        assert np.allclose(t.xyz * 10, z["positions"] * 3.8220, atol=1e-5)


def test_beside_molecular_dynamics(folder):
    """Each command as it stands, and MDTraj on what they leave."""
    (block,) = [b for b in blocks("bash") if "idem-md baseline" in b]
    for line in block.strip().splitlines():
        program, *args = shlex.split(line)
        subprocess.run([str(Path(sys.executable).parent / program), *args], cwd=folder, check=True, timeout=300)
    assert (folder / "report" / "index.html").stat().st_size > 1_000_000
    summary = (folder / "report" / "summary.json").read_text()
    assert "further apart than chance" not in summary and '"openmm"' in summary
    assert mdtraj.load(str(folder / "openmm.dcd"), top=str(folder / "openmm.pdb")).n_atoms == 13


def test_second_command_runs_the_tests():
    assert blocks("bash")[1].strip() == 'pip install ".[test]" && pytest'


def test_python_examples_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    examples = blocks("python")
    assert examples
    for code in examples:
        exec(compile(code, "README.md", "exec"), {})  # noqa: S102


def test_picture_exists():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (README.parent / path).is_file(), path
