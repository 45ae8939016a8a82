"""Every command and snippet of README and the documentation runs, in the order of its page; the long ones with smaller
numbers."""

import gc
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import typer
from command import run as command_line

from idem_md.analysis.observables import POWERS
from idem_md.cli import app
from idem_md.diffusion import AnnealedLastStep
from idem_md.registry import Registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# In the place of numbers that take long. Results of the smaller ones are of no use; that they come is the point.
SMALLER = {
    "-n 100000 ": "-n 400 ",
    "-n 2000 ": "-n 250 ",
    "-n 1000 --seed 0": "-n 400 --seed 0",
    "minutes=1.5)": "minutes=0.1)",
    "minutes=1)": "minutes=0.1)",
    "scan(400, ": "scan(200, ",
    "sample(500, seed=0": "sample(180, seed=0",
    "--minutes 0.3": "--minutes 0.06",
    "idem-md train cu13 ": "idem-md train cu13.toml ",
    "idem-md train argon13 ": "idem-md train argon13.toml ",
    "idem-md train xe10 ": "idem-md train xe10.toml --elastic-network-steps 0 ",
    "-n 1000 --out xe10.dcd": "-n 100 --nfe 4 --unweighted --out xe10.dcd",
    "-n 1000 --steps 20000 ": "-n 100 --steps 1000 ",
    "idem_md.cli train dw4 --out": "idem_md.cli train dw4.toml --out",
    "exec idem-md train dw4 --out": "idem-md train dw4.toml --elastic-network-steps 0 --out",
    "idem-md tune runs/cu13 ": "idem-md tune runs/cu13 --steps 5 ",
    # With networks that have learnt nothing every weight may be zero, which is an error.
    "-n 1000 --nfe 50 --out": "-n 100 --nfe 4 --unweighted --out",
    "idem-md tune runs/argon13 ": "idem-md tune runs/argon13 --steps 5 ",
}
# And on all pages but README, whose figures are looked at.
SMALLER_ELSEWHERE = {
    "-n 400 --shard": "-n 260 --shard",
    "-n 400 --plan": "-n 40 --plan",
    "sample(180, seed=0": "sample(100, seed=0",
    "run(system, 1000, 2000, seed=1)": "run(system, 300, 800, seed=1)",
    "Client(n_workers=2, ": "Client(processes=False, n_workers=2, ",
    "scan(200, ": "scan(60, ",
    "--ess 150": "--ess 20",
    "extend enough.dcd -n 250": "extend enough.dcd -n 25",
    "-n 500 --out md.dcd": "-n 60 --out md.dcd",
    "check lj13.dcd --reference md.dcd": "check lj13.dcd --reference md.dcd -n 30",
}
# At least so many effective samples are worth printing, where a page draws them from a shipped network.
WORTH = 100


def blocks(page):
    """(language, title or "", text) of every fenced block."""
    found = re.findall(
        r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', page.read_text(encoding="utf-8"), flags=re.S | re.M
    )
    assert all(language in ("bash", "python", "toml", "text") for language, _, _ in found), page
    return found


README = (ROOT / "README.md").read_text(encoding="utf-8")


def smaller(text, page):
    for long, short in (SMALLER | ({} if page.name == "README.md" else SMALLER_ELSEWHERE)).items():
        text = text.replace(long, short)
    return text


def short(options):
    """An annealed last step with an eighth of its energy calls."""
    schedule = options["schedule"]
    return {**options, "schedule": {**schedule, "stages": max(schedule["stages"] // 8, 1)}}


def run(line):
    """One command; what it prints is printed."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in ("pip", "pytest"):
        return  # what runs these tests has done that
    assert words[0] == "idem-md", line
    print(command_line(*words[1:]).stdout)


@pytest.fixture
def folder(tmp_path, monkeypatch, smallest_toml):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # a process a core would double what every page takes
    for name in ("cu13", "argon13", "dw4", "xe10"):
        (tmp_path / f"{name}.toml").write_text(smallest_toml(name))
    registries = [found for found in gc.get_objects() if type(found) is Registry]
    before = [dict(registry) for registry in registries]
    yield tmp_path
    for registry, parts in zip(registries, before):
        registry._parts.clear()
        registry._parts.update(parts)
    POWERS.pop("extent", None)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def runnable(page):
    return any(language in ("bash", "python") for language, _, _ in blocks(page))


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: p.stem)
def test_all_that_a_page_shows_runs(page, folder, monkeypatch, capsys):
    names = {"__name__": "__main__"}
    if page.name != "README.md":
        build = AnnealedLastStep.build
        monkeypatch.setattr(AnnealedLastStep, "build", lambda o: build(short(o) if "schedule" in o else o))
    for language, title, text in blocks(page):
        if page.name != "README.md" and text in README:  # has been run there
            continue
        text = smaller(text, page)
        if title:
            (folder / title).write_text(text)
            sys.modules.pop(Path(title).stem, None)  # another page or test may have one of that name
        if language == "bash" and "torchrun" in text:
            continue  # tests/test_distributed.py starts processes so
        if language == "bash" and title:  # the script of a queue
            again = "SLURM_ARRAY_TASK_ID" in text or "--resume" in text
            for task in range(1 + again):
                environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}
                subprocess.run(["bash", "-e", title], cwd=folder, env=environment, check=True, timeout=300)
        elif language == "bash":
            for line in text.replace("\\\n", " ").replace(" && ", "\n").splitlines():
                run(line)
        elif language == "python" and not title:
            exec(compile(text, f"{page.name}", "exec"), names)  # noqa: S102
    if page.name == "README.md":
        t = mdtraj.load("lj13.dcd", top="lj13.pdb")
        with np.load("lj13.npz", allow_pickle=False) as z:
            assert t.n_frames == 400 and np.allclose(t.xyz * 10, z["positions"] * 3.8220, atol=1e-5)
        assert (folder / "report" / "index.html").stat().st_size > 1_000_000
        # Not of the warning about the dynamics, which are shorter here.
        shown = [float(n) for n in re.findall(r"(?<!fewer than )\b([\d.]+) effective", capsys.readouterr().out)]
        assert len(shown) >= 6 and min(shown) >= WORTH, shown


def test_no_smaller_number_is_left_over():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    text += "".join(smaller(page.read_text(encoding="utf-8"), ROOT / "README.md") for page in PAGES)
    assert [long for long in SMALLER | SMALLER_ELSEWHERE if long not in text] == []


def spans(page):
    """Commands within sentences and tables."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"`(idem-md [^`]+)`", prose)]


@pytest.mark.parametrize("page", [p for p in PAGES if spans(p)], ids=lambda p: p.stem)
def test_commands_in_sentences_are_understood(page):
    """They are parsed, not run."""
    group = typer.main.get_command(app)
    for span in spans(page):
        name, *words = shlex.split(span)[1:]
        command = group.commands[name]
        if name == "bench" and words:
            command, words = command.commands[words[0]], words[1:]
        required = [p for p in command.params if p.required]
        if not words and required:
            continue  # the command is spoken of
        command.make_context(name, words)


def test_links_of_the_readme_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short_and_says_how_to_install_and_test():
    found = [text.strip() for language, _, text in blocks(ROOT / "README.md") if language == "bash"]
    assert found[0].startswith("pip install . && idem-md sample") and found[1].startswith(
        'pip install ".[test]" && pytest'
    )
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
