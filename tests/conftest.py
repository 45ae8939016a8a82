import os

import pytest
import torch

import idem_md
from idem_md.energies import LennardJones
from idem_md.training import PRESETS

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, also for what the tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def lj13_samples():
    """1024 near-equilibrium LJ-13 configurations, float64, from native MALA."""
    from idem_md.chains import relax, run_mala
    from idem_md.geometry import standard_normal

    energy = LennardJones(13, epsilon=2.0, r_min=1.0, trap=1.0)
    x = 0.68 * standard_normal((1024, 13, 3), torch.Generator().manual_seed(5))
    x = relax(energy, x, 200).float()
    x, *_ = run_mala(energy, x, 6e-4, 4000, seed=1)
    return x.double()


@pytest.fixture(scope="session")
def lj13_sampler():
    return idem_md.load_sampler("lj13")


TINY = {
    "system": "lj13",
    "seed": 3,
    "network": {"channels": 16, "layers": 2, "n_basis": 12},
    "target": {"chains": 2, "chain_steps": 4},
    "buffer": {"size": 64, "fresh": 8, "sampling_steps": 4, "warmup_steps": 40, "refine_steps": 10},
    "optimizer": {"batch": 16, "inner_steps": 4, "iterations": 5},
}


@pytest.fixture
def tiny():
    """A training configuration that runs in a second."""
    return idem_md.TrainingConfig.parse(TINY, "tiny")


@pytest.fixture(scope="session")
def tiny_toml():
    """The same as a TOML file, of a given number of iterations."""

    def text(iterations=3):
        tables = {**TINY, "optimizer": {**TINY["optimizer"], "iterations": iterations}}
        lines = [f"{k} = {v!r}" for k, v in tables.items() if not isinstance(v, dict)]
        for name, table in tables.items():
            if isinstance(table, dict):
                lines += [f"[{name}]", *(f"{k} = {v!r}" for k, v in table.items())]
        return "\n".join(lines)

    return text


SMALLEST = """
system = "{}"
[buffer]
size = 16
fresh = 2
relax_steps = 5
warmup_steps = 20
refine_steps = 2
sampling_steps = 4
[target]
name = "buffer"
[optimizer]
batch = 8
iterations = 2
inner_steps = 4
[network]
channels = 8
layers = 1
"""


@pytest.fixture(scope="session")
def smallest_toml():
    """A configuration for a system of that name, as small as it goes: for the way through, not for what comes out."""
    return SMALLEST.format


@pytest.fixture
def tiny_presets(monkeypatch):
    """Training in a second wherever a preset is asked for."""
    few = {"size": 16, "fresh": 4, "relax_steps": 10, "warmup_steps": 20, "refine_steps": 2}
    table = {
        "network": TINY["network"],
        "target": {"name": "buffer"},
        "buffer": {**TINY["buffer"], **few},
        "optimizer": {**TINY["optimizer"], "batch": 8, "iterations": 2},
    }
    monkeypatch.setattr("idem_md.ase.first_use.ELASTIC_NETWORK_STEPS", 3)
    for name in ("classical", "frugal", "refined", "twin"):
        monkeypatch.setitem(PRESETS._parts, name, {"any": table})
