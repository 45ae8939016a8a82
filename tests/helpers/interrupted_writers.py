"""Forks processes that train, distill, save or run a command, and kills them; jobs are lines of stdin:

    WHAT FOLDER TIMES LONGEST

WHAT is one of ``train``, ``distill`` and ``save``, or the words of a command, with commas. An answer is a line of JSON:
what was seen.
"""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

import idem_md
from idem_md.cli import main as cli
from idem_md.distillation import Distillation, distill
from idem_md.training import load_config, save_checkpoint


def train(folder):
    """A run of some seconds, from where it stands, by the configuration beside its folder."""
    config = load_config(folder.parent / "tiny.toml")
    idem_md.train(config, folder, resume=(folder / "state.safetensors").exists())


def distillation(folder):
    """The same for a flow map."""
    folder.mkdir(exist_ok=True)
    path = folder / "state.safetensors"
    few = Distillation(steps=200, batch=8, pool=32, renewed=8, covariance_steps=60)
    made = distill(idem_md.load_sampler("gmm40").checkpoint, path, few, resume=path.exists())
    save_checkpoint(folder / "model.safetensors", made)


def ensembles():
    """Two of different sizes, so that their files are, too."""
    system, random_ = idem_md.get_system("lj13"), np.random.default_rng(0)
    return [
        idem_md.WeightedEnsemble(random_.normal(size=(n, 13, 3)), np.zeros(n), random_.normal(size=n), system)
        for n in (4000, 400)
    ]


def save(folder):
    """One after the other, until it is killed."""
    for _ in range(1000):
        for ensemble in ensembles():
            ensemble.save(folder / "x.dcd")


def look(folder):
    """What can be loaded."""
    if not (folder / "x.npz").exists():
        return "nothing yet"
    try:
        return {4000: "one", 400: "other"}[len(idem_md.load_ensemble(folder / "x.dcd"))]
    except idem_md.FileFormatError as error:
        return str(error)


def command(words, folder):
    """``idem-md`` with these words, in a folder."""
    os.chdir(folder)
    sys.argv = ["idem-md", *words]
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            cli()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{words}: exit code {end.code}") from None


def job(what, folder, times, longest):
    """Kill, look, and at the end let one finish."""
    work = {"train": train, "distill": distillation, "save": save}.get(what, partial(command, what.split(",")))
    random.seed(0)
    if what == "save":
        folder.mkdir()
    seen = []
    for _ in range(times):
        victim = os.fork()
        if victim == 0:
            os.setsid()  # for itself, with whatever it starts
            work(folder)
            os._exit(0)
        time.sleep(random.uniform(0, longest))
        os.kill(victim, signal.SIGKILL)
        if os.waitpid(victim, 0)[1] not in (0, signal.SIGKILL):  # it may have been faster
            raise RuntimeError(f"{what} failed by itself")
        seen.append(look(folder) if what == "save" else "killed")
    if what == "save":
        ensembles()[1].save(folder / "x.dcd")
    elif "," not in what:
        work(folder)
    return [*seen, look(folder) if what == "save" else "whole"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the work prints is no answer
    for line in sys.stdin:
        what, folder, times, longest = line.split()
        print(json.dumps(job(what, Path(folder), int(times), float(longest))), file=answers, flush=True)
