"""A tuning that was interrupted goes on where it was, and comes to the same end."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

import idem_md
from idem_md.baselines import ENGINES
from idem_md.checkpoint import build_denoiser, load_checkpoint, save_checkpoint
from idem_md.tensor_files import read_tensors
from idem_md.tuning import HeadTraining, elastic_network, tune

HEADS = HeadTraining(steps=12, batch=8, options={"elastic_network": {"hidden": 8}})
NFES = {"diffusion": (4, 6)}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(sys.modules["idem_md.tuning.tune"], "LEVEL_SAMPLES", 12)


@pytest.fixture(scope="module")
def samples():
    return torch.tensor(ENGINES["pt"].run("lj13", 400, 1000, seed=1).positions)


@pytest.fixture(scope="module")
def trained():
    """The network of LJ-13 without heads and plans."""
    known = idem_md.load_sampler("lj13").checkpoint
    denoiser = copy.deepcopy(known.denoiser)
    denoiser.heads = torch.nn.ModuleDict()
    return replace(known, denoiser=denoiser, plans={}, expensive=None)


@pytest.fixture
def bare(trained, tiny):
    """A small network that has learnt nothing."""
    torch.manual_seed(0)
    return replace(
        trained,
        denoiser=build_denoiser(tiny.network, trained.system, False).eval().requires_grad_(False),
        config=tiny.model_dump(),
    )


def stopping_after(n):
    seen = []

    def stop(_):
        seen.append(1)
        if len(seen) == n:
            raise KeyboardInterrupt

    return stop


def heads_of(checkpoint):
    return checkpoint.denoiser.heads.state_dict()


def test_the_elastic_network_goes_on_where_it_was(bare, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("idem_md.training.heads.KEPT_EVERY", 0.0)
    checkpoint = bare
    whole = tune(checkpoint, samples, tmp_path / "whole.safetensors", heads=HEADS, nfes={})
    for name in ("whole-tuning.safetensors", "whole-head.safetensors"):
        assert not (tmp_path / name).exists()
    with pytest.raises(KeyboardInterrupt):
        tune(checkpoint, samples, tmp_path / "m.safetensors", heads=HEADS, nfes={}, on_step=stopping_after(8))
    steps, counted, likelihood = [], [], elastic_network._negative_log_likelihood
    counting = "idem_md.tuning.elastic_network._negative_log_likelihood"
    monkeypatch.setattr(counting, lambda *a: counted.append(len(a[1])) or likelihood(*a))
    again = tune(checkpoint, samples, tmp_path / "m.safetensors", heads=HEADS, nfes={}, on_step=steps.append)
    assert steps == list(range(12)) and counted.count(8) == 5  # seven were kept
    assert all(torch.equal(a, heads_of(again)[k]) for k, a in heads_of(whole).items())
    assert again.expensive == whole.expensive
    # Other samples: from the beginning.
    with pytest.raises(KeyboardInterrupt):
        tune(checkpoint, samples, tmp_path / "m.safetensors", heads=HEADS, nfes={}, on_step=stopping_after(8))
    counted.clear()
    tune(checkpoint, samples.flip(0), tmp_path / "m.safetensors", heads=HEADS, nfes={})
    assert counted.count(8) == 12


@pytest.mark.slow
def test_plans_go_on_where_they_were(trained, samples, tmp_path, monkeypatch):
    checkpoint = trained
    out = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(checkpoint, samples, out, heads=HEADS, nfes=NFES, pilot=100, on_plan=stopping_after(1))
    assert not out.exists()
    known = load_checkpoint(tmp_path / "m-tuning.safetensors")
    spent = known.provenance["tuning_so_far"]["energy_calls"]
    assert spent > 0 and list(known.plans["diffusion"]) == [4]
    found = []

    def no_more(*_, **__):
        raise AssertionError("measured twice")

    for module, what in (("plans", "run_pilot"), ("plans", "_worth_trying"), ("tune", "tune_expensive_plan")):
        monkeypatch.setattr(sys.modules[f"idem_md.tuning.{module}"], what, no_more)
    tuned = tune(checkpoint, samples, out, heads=HEADS, nfes=NFES, pilot=100, on_plan=found.append)
    assert [plan.nfe for plan in found] == [6] and list(tuned.plans["diffusion"]) == [4, 6]
    assert all(torch.equal(a, heads_of(tuned)[k]) for k, a in heads_of(known).items())
    first, later = (replace(c.plans["diffusion"][4], seconds=None) for c in (known, tuned))
    assert first == later and tuned.provenance["tuning_energy_calls"] > spent
    assert "tuning_so_far" not in tuned.provenance
    assert not [part for part in ("tuning", "head", "levels") if (tmp_path / f"m-{part}.safetensors").exists()]


@pytest.mark.slow
def test_levels_are_measured_once(trained, samples, tmp_path, monkeypatch):
    """Interrupted after the first level, the search goes on with the second."""
    plans, out = sys.modules["idem_md.tuning.plans"], tmp_path / "m.safetensors"
    pilot, tried = plans.run_pilot, []

    def counted(*arguments):
        tried.append(arguments[3].sigma)
        if len(tried) == stop:
            raise KeyboardInterrupt
        return pilot(*arguments)

    monkeypatch.setattr(plans, "run_pilot", counted)
    monkeypatch.setattr(plans, "LOWEST", (0.45, 0.7))
    settings = {"heads": replace(HEADS, steps=0), "nfes": {"diffusion": (4,)}, "pilot": 100}
    stop = 0
    tune(trained, samples, out, **settings)
    whole, stop = list(tried), 1 + tried.index(tried[-1])  # the first pilot of the last level
    tried.clear()
    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        tune(trained, samples, out, **settings)
    _, header = read_tensors(tmp_path / "m-levels.safetensors", "levels")
    assert list(header["tried"]) == ["0"] and header["energy_calls"] > 0 and not header["levels"]
    stop = 0
    tried.clear()
    tuned = tune(trained, samples, out, **settings)
    assert tried == [sigma for sigma in whole if sigma != whole[0]] and len(tried) < len(whole)
    assert tuned.provenance["tuning_energy_calls"] > header["energy_calls"]


def test_a_damaged_file_is_not_gone_on_from(bare, samples, tmp_path):
    for name in ("m-tuning.safetensors", "m-head.safetensors", "m-levels.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    heads = replace(HEADS, steps=2)
    tuned = tune(bare, samples, tmp_path / "m.safetensors", heads=heads, nfes={})
    assert tuned.denoiser.has("elastic_network")
    save_checkpoint(tmp_path / "n.safetensors", tuned)
