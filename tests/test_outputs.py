"""What is written where: names that two runs want, permissions, links, and what an interrupted run leaves."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command import run

import idem_md
from idem_md import UsageError, WeightedEnsemble
from idem_md.cli.outputs import Outputs
from idem_md.files import Claim, atomic_set, claimed, own_folder, write_atomic

SYSTEM = idem_md.get_system("gmm40")


def ensemble(n=30, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 1, 2))
    return WeightedEnsemble(x, np.zeros(n), np.zeros(n), SYSTEM, {"seed": seed})


def popen(*words, cwd, **more):
    """A command that hears Ctrl-C: one in the background of a script is started deaf, and stays so."""
    command = [sys.executable, "-m", "idem_md", *map(str, words)]
    more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL), **more)


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# Two runs, one name

WRITERS = {
    "sample": "sample gmm40 -n 20 --nfe 4 --last-step plain --out a.dcd",
    "extend": "extend a.dcd -n 20",
    "scan": "scan gmm40 --temperatures 300 -n 20 --nfe 4 --out a.dcd",
    "plot": "sample gmm40 -n 20 --nfe 4 --last-step plain --plot a.png",
    "baseline": "baseline gmm40 --engine exact -n 20 --out a.dcd",
    "merge": "merge 0.dcd 1.dcd --out a.dcd",
    "check": "check 0.dcd --plot a.png",
}
FOLDERS = {
    "compare": "compare 0.dcd 1.dcd --no-aligned --out folder",
    "tune": "tune dw4 --nfe 4 --out folder",
    "distill": "distill gmm40 --out folder",
    "train": "train lj13 --out folder",
}


@pytest.fixture
def parts(tmp_path):
    for k in (0, 1):
        ensemble(seed=k).save(tmp_path / f"{k}.dcd")
    return tmp_path


@pytest.mark.parametrize("command", WRITERS)
def test_a_name_that_another_run_has_claimed(command, parts):
    """In the same second: the later one is refused before its work, and told who has the name."""
    if command == "extend":
        run(*WRITERS["sample"].split(), cwd=parts)
    before = names(parts)
    with claimed("out", [parts / name for name in ("a.dcd", "a-300K.dcd", "a.png")]):
        refused = run(*WRITERS[command].split(), cwd=parts, code=2).stderr
        option = {"plot": "plot", "check": "plot", "extend": "file"}.get(command, "out")
        assert (
            f"{option}: expected a name that no other run writes to" in refused
            and f"process {os.getpid()} on" in refused
        )
    assert names(parts) == before
    run(*WRITERS[command].split(), cwd=parts)
    assert not [name for name in names(parts) if name.startswith(".")]


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_another_run_works_in(command, parts):
    (parts / "folder").mkdir()
    with own_folder(parts / "folder"):
        refused = run(*FOLDERS[command].split(), cwd=parts, code=2).stderr
        assert "out: expected a folder that is not in use" in refused
    assert names(parts / "folder") == []


@pytest.mark.parametrize("command", ["sample", "baseline", "merge", "plot"])
def test_a_file_that_came_meanwhile_is_left(command, parts, monkeypatch):
    """Where locks are not seen, or another program writes: what is there stays, and ours is beside it."""
    name = "a.png" if command == "plot" else "a.dcd"

    where = {"sample": (idem_md.Sampler, "sample"), "plot": (idem_md.Sampler, "sample")}
    where |= {"baseline": (idem_md.baselines.base.Engine, "run"), "merge": (WeightedEnsemble, "concatenate")}
    owner, attribute = where[command]
    real = getattr(owner, attribute)

    def meanwhile(*args, **options):
        (parts / name).write_bytes(b"theirs")
        return real(*args, **options)

    monkeypatch.setattr(owner, attribute, meanwhile)
    refused = run(*WRITERS[command].split(), cwd=parts, code=2).stderr
    assert f"expected {name} as it was when the run began, another process has written it" in refused
    assert (parts / name).read_bytes() == b"theirs"
    (beside,) = parts.glob(f"a-*{Path(name).suffix}")
    if command != "plot":
        assert len(idem_md.load_ensemble(beside)) in (20, 60)


def test_kept_samples_replace_nothing(tmp_path):
    """A file of an earlier interruption, in another format, by a process of the same number."""
    for suffix in (".npz", ".xtc"):
        outputs = Outputs([tmp_path / f"o{suffix}"], None, Claim([]), Claim([]))
        for n in (10, 20):
            outputs.keep([ensemble(n)])
    lengths = {p.name: len(idem_md.load_ensemble(p)) for p in tmp_path.glob("*.npz")}
    assert lengths == {
        "o-interrupted.npz": 10, "o-interrupted-2.npz": 20, "o-interrupted-3.npz": 10, "o-interrupted-4.npz": 20
    }  # fmt: skip


def test_claims_without_locks(tmp_path, monkeypatch):
    """A file system that knows none."""

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("idem_md.files._alone", none)
    with claimed("out", [tmp_path / "a"]) as claim:
        assert not claim.broken
        with claimed("out", [tmp_path / "a"]):
            pass
        write_atomic(tmp_path / "a", b"")
        assert claim.broken and claim.free_name(tmp_path / "a") == tmp_path / f"a-{os.getpid()}"
        write_atomic(tmp_path / f"a-{os.getpid()}", b"")
        assert claim.free_name(tmp_path / "a") == tmp_path / f"a-{os.getpid()}-2"
        (tmp_path / f"a-{os.getpid()}").unlink()
    assert names(tmp_path) == ["a"]


def test_a_claim_knows_a_new_file_by_more_than_its_name(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    claim = Claim([path])
    assert not claim.broken
    write_atomic(path, b"two")
    assert claim.broken
    path.unlink()
    assert Claim([path]).broken is False


# What is not ours


def test_folders_of_the_user_are_left(tmp_path):
    """However they are called, and however old they are."""
    old = time.time() - 10 * 24 * 3600
    mine = [
        tmp_path / ".idem-md-notes",
        tmp_path / ".idem-md-owner",
        tmp_path / ".idem-md-deep",
        tmp_path / ".idem-md-",
    ]
    for folder in mine:
        folder.mkdir()
        (folder / "notes.txt").write_text("two months of work")
    (mine[1] / "owner").write_text("This folder belongs to me.\n")
    (mine[2] / "owner").write_text("host")
    (mine[2] / "inner").mkdir()
    (tmp_path / ".idem-md-x.lock").write_text("a file")
    (tmp_path / ".idem-md-link").symlink_to(mine[0])
    for folder in mine:
        for path in (*folder.iterdir(), folder):
            os.utime(path, (old, old))
    write_atomic(tmp_path / "b.txt", b"")
    assert all((folder / "notes.txt").exists() for folder in mine)
    assert (tmp_path / ".idem-md-x.lock").exists() and (tmp_path / ".idem-md-link").exists()


# Permissions


@pytest.mark.parametrize("mask,mode", [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_the_umask_decides(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        for suffix in (".dcd", ".xtc", ".extxyz", ".h5md", ".colvar", ".weights"):
            ensemble().save(tmp_path / f"x{suffix}")
        idem_md.checkpoint.save_checkpoint(tmp_path / "m.safetensors", idem_md.load_sampler("gmm40").checkpoint)
    finally:
        os.umask(before)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == dict.fromkeys(names(tmp_path), mode)


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    for path in ensemble().save(tmp_path / "x.dcd"):
        path.chmod(0o640)
    ensemble(seed=1).save(tmp_path / "x.dcd")
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


def test_a_file_system_without_permissions_loses_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.chmod", refuse)
    ensemble().save(tmp_path / "x.dcd")
    assert len(idem_md.load_ensemble(tmp_path / "x.dcd")) == 30


# Symbolic links


def test_links_are_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "x.npz").symlink_to(tmp_path / "elsewhere")
    ensemble().save(tmp_path / "x.dcd")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs" and not (tmp_path / "x.npz").is_symlink()


@pytest.mark.parametrize("command", ["sample", "plot", "baseline", "merge"])
def test_links_that_lead_nowhere_are_there_as_well(command, parts):
    link = parts / ("a.png" if command == "plot" else "a.npz")
    link.symlink_to(parts / "nowhere")
    refused = run(*WRITERS[command].split(), cwd=parts, code=2).stderr
    assert f"expected a name that is not taken, there is {link.name}; replace it with --overwrite" in refused
    assert link.is_symlink()
    if command != "plot":
        run(*WRITERS[command].split(), "--overwrite", cwd=parts)
        assert not link.is_symlink() and not (parts / "nowhere").exists()


# Ctrl-C

SLOW = {
    "sample": "sample dw4 -n 1000000 --out a.dcd",
    "workers": "sample dw4 -n 1000000 --workers 2 --out a.dcd",
    "scan": "scan dw4 -n 1000000 --temperatures 290,310 --out a.dcd",
    "baseline": "baseline lj13 --engine openmm --steps 1000000 -n 2000 --out a.dcd",
    "chains": "baseline lj13 --engine mala --steps 1000000 -n 2000 --out a.dcd",
}


def interrupted(words, folder, until, number=signal.SIGINT):
    """Start a command and interrupt its process group once it says something; what it said, and how long it took."""
    with popen(*words, cwd=folder, start_new_session=True) as process:
        said = ""
        while not re.search(until, said):
            line = process.stderr.readline()
            assert line, said
            said += line
        start = time.monotonic()
        os.killpg(process.pid, number)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        seconds = time.monotonic() - start
    for _ in range(300):  # workers end with their parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("workers are left")
    return process.returncode, seconds, said + err, out


SOME = r"sampling: [1-9]\d* of"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command,until,kept",
    [
        ("workers", SOME, {"a-interrupted.dcd"}),
        ("baseline", "independent, one in", {"a-interrupted.dcd"}),
        ("chains", "mala: ", set()),
    ],
)
def test_ctrl_c_keeps_what_was_drawn(command, until, kept, tmp_path):
    code, seconds, said, out = interrupted(SLOW[command].split(), tmp_path, until)
    assert code == 130 and seconds < 8 and "Traceback" not in said and not out, said  # alone it is a tenth of a second
    assert {p.name for p in tmp_path.glob("*.dcd")} == kept
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    for name in kept:
        e = idem_md.load_ensemble(tmp_path / name)
        assert f"interrupted: {len(e)} samples were drawn, and are in {name}" in said
        if command != "baseline":
            assert re.search(rf"go on with idem-md extend --sampler dw4 -n \d+ {name}", said)
    if not kept:
        assert "interrupted: nothing was drawn yet" in said


@pytest.mark.slow
def test_the_end_of_a_queue_keeps_it_too(tmp_path):
    """And what is kept can be gone on with."""
    code, _, said, _ = interrupted(SLOW["scan"].split(), tmp_path, SOME, signal.SIGTERM)
    name, other = "a-290K-interrupted.dcd", "a-310K-interrupted.dcd"
    assert code == 143 and {p.name for p in tmp_path.glob("*.dcd")} == {name, other}, said
    n = len(idem_md.load_ensemble(tmp_path / name))
    grown = json.loads(run(*f"extend --sampler dw4 -n 20 {name} --json".split(), cwd=tmp_path).stdout)
    assert grown["n"] == n + 20


@pytest.mark.slow
def test_ctrl_c_when_nobody_listens(tmp_path):
    """Stdout was closed from the beginning, stderr since: samples are kept, and the process ends."""
    line = f"exec {sys.executable} -m idem_md {SLOW['sample']} >&-"
    hearing = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(["bash", "-c", line], cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=hearing) as process:
        while not re.search(SOME.encode(), process.stderr.readline()):
            pass
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
    assert len(idem_md.load_ensemble(tmp_path / "a-interrupted.dcd"))


def test_an_interrupted_call_in_python_knows_what_it_had(lj13_sampler):
    """In a notebook, where Ctrl-C is an exception."""
    sampler = idem_md.Sampler(idem_md.load_sampler("gmm40").checkpoint)
    few = {"nfe": 4, "seed": 5, "last_step": "plain"}
    assert sampler.so_far() == []
    whole = sampler.sample(20_000, **few)
    size = whole.provenance["chunks"][0][-1]
    seen = []

    def impatient(log_weights):
        seen.append(len(log_weights))
        if len(seen) == 2:
            raise KeyboardInterrupt

    for executor in (None, 1):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            sampler.sample(20_000, progress=impatient, executor=executor, **few)
        (part,), again = sampler.so_far(), sampler.so_far()
        assert (
            part == again[0] and len(part) == 2 * size and np.array_equal(part.positions, whole.positions[: 2 * size])
        )
        assert len(sampler.extend(part, 100)) == 2 * size + 100
        assert sampler.so_far() == []


def test_calls_in_threads_do_not_mix():
    """And one may be looked at while it draws."""
    sampler = idem_md.Sampler(idem_md.load_sampler("gmm40").checkpoint)
    few = {"nfe": 4, "last_step": "plain"}
    alone = [sampler.sample(4000, seed=seed, **few) for seed in (1, 2)]
    looked_at = []
    with ThreadPoolExecutor(3) as threads:
        both = [threads.submit(sampler.sample, 4000, seed=seed, **few) for seed in (1, 2)]
        while not all(future.done() for future in both):
            looked_at += [len(e) for e in sampler.so_far()]
        for future, e in zip(both, alone):
            assert np.array_equal(future.result().positions, e.positions)
    assert looked_at == [] or max(looked_at) <= 4000


# One object on stdout

NOISY = """
import ctypes
import os
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron

print("a banner")


class Talkative(LennardJones):
    def calculate(self, *args, **kwargs):
        print("an energy")
        os.write(1, b"by compiled code\\n")
        ctypes.CDLL(None).puts(b"held back by C")
        super().calculate(*args, **kwargs)


def atoms():
    print("a cluster")
    cluster = Icosahedron("Ar", 2, 3.8)
    cluster.calc = Talkative(sigma=3.405, epsilon=0.0103, rc=100)
    return cluster
"""


@pytest.mark.slow
def test_stdout_is_for_json_alone(tmp_path):
    """What a potential prints here and in workers goes to stderr."""
    (tmp_path / "noisy.py").write_text(NOISY)
    words = "sample lj13 -n 3 --nfe 4 --last-step plain --calculator ./noisy.py:atoms --workers 1 --json".split()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # which is for C as well
    with popen(*words, cwd=tmp_path, env=environment) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out)["n"] == 3 and out.count("\n") == 1
    for line in ("a banner", "a cluster", "an energy", "by compiled code", "held back by C"):
        assert line in err


def test_a_file_by_its_path(tmp_path, monkeypatch):
    """From anywhere, with others of its name and modules beside it."""
    for folder, symbol in (("one", "Ar"), ("two", "Kr")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"element_{folder}.py").write_text(f"SYMBOL = {symbol!r}\n")
        text = NOISY.replace('"Ar"', "SYMBOL").replace(
            "import os\n", f"import os\nfrom element_{folder} import SYMBOL\n"
        )
        (tmp_path / folder / "cluster.py").write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for where, symbol in (("one", "Ar"), ("two", "Kr")):
        made = idem_md.cli.potential.atoms_of(f"{tmp_path / where / 'cluster.py'}:atoms")
        assert set(made.symbols) == {symbol}
    for where, message in (
        ("nowhere.py:atoms", "FileNotFoundError"),
        (f"{tmp_path}/one/cluster.py:no", "AttributeError"),
    ):
        with pytest.raises(UsageError, match=message):
            idem_md.cli.potential.atoms_of(where)


# Potentials that no other process can import

NOTEBOOK = """
import idem_md, torch
from dataclasses import replace

class Homemade(idem_md.energies.Energy):
    def evaluate(self, x):
        return 0.5 * (x**2).sum((1, 2)), -x

class Maker:
    def __call__(self):
        return Homemade(4, 2)

sampler = idem_md.load_sampler("dw4")
system = replace(sampler.system, name="own", make_energy=Maker())
try:
    idem_md.Sampler(sampler.checkpoint, system).sample(20, nfe=4, last_step="plain", kernel="analytic", executor=2)
except idem_md.UsageError as error:
    print(error)

from ase.calculators.calculator import Calculator
from ase.cluster import Icosahedron

class Springs(Calculator):
    implemented_properties = ["energy", "forces"]

try:
    idem_md.energies.ASE(Icosahedron("Ar", 2), Springs, temperature_K=60, workers=2)
except idem_md.UsageError as error:
    print(error)
print(len(sampler.sample(300, nfe=4, executor=2)))
"""


@pytest.mark.slow
def test_potentials_of_a_notebook(tmp_path):
    """One line each, that names the class; what can be imported works."""
    quiet = os.environ | {"IDEM_MD_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-"], input=NOTEBOOK, capture_output=True, text=True, cwd=tmp_path, timeout=100, env=quiet
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    first, second, third = done.stdout.splitlines()
    for line, name, option in ((first, "Maker", "executor"), (second, "Springs", "workers")):
        assert line.startswith(f"{option}: expected a potential that other processes can import, {name} was defined in")
        assert "put it into a module" in line
    assert third == "300"


def test_atomic_sets_leave_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_set({0: tmp_path / "a"}) as new:
        new[0].write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
