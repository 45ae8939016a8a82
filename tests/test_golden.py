"""Files of earlier versions load, and mean what they meant."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import idem_md
from idem_md.checkpoint import load_checkpoint
from idem_md.distillation import Distillation, distill
from idem_md.sampler import plan_of
from idem_md.tensor_files import read_tensors
from idem_md.training import TrainingConfig

GOLDEN = Path(__file__).parent / "golden"
SHIPPED = Path(idem_md.__file__).parent / "checkpoints"
EXPECTED = json.loads((GOLDEN / "v1" / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_checkpoints_of_version_1(name):
    checkpoint = load_checkpoint(GOLDEN / "v1" / f"{name}.safetensors")
    want = EXPECTED[name]
    with torch.no_grad():
        got = checkpoint.denoiser(torch.tensor(want["x"]), torch.tensor(want["sigma"]))
    assert torch.allclose(got, torch.tensor(want["denoised"]), rtol=1e-4, atol=1e-5)
    assert checkpoint.accuracy(0.3) == pytest.approx(want["mse"])
    # Settings that it did not use, which that version wrote all the same, are gone; what it used is there.
    config = TrainingConfig.parse(checkpoint.config, name)
    assert config.model_dump() == TrainingConfig.parse(config.model_dump(), name).model_dump()
    assert config.network.name == name and config.seed == 4


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/model.safetensors")), ids=lambda p: p.parent.name)
def test_shipped_checkpoints_load_and_sample(path):
    """With plans and, but for the perceptron, an elastic network; the configuration beside each is one that trains."""
    sampler = idem_md.load_sampler(path.parent.name)
    assert 25 in sampler.checkpoint.plans["diffusion"]
    assert sampler.checkpoint.denoiser.has("elastic_network") == (path.parent.name != "gmm40")
    for options in ({}, {"last_step_calls": 100}, {"kernel": "ddpm", "last_step": "plain"}):
        few = {"last_step_calls": 50} if path.parent.name == "lj55" and not options else options
        e = sampler.sample(4, nfe=3, **few)
        assert len(e) == 4 and e.system.name == path.parent.name
    config = json.loads(path.with_name("config.json").read_text())
    TrainingConfig.parse(config, str(path))


def test_a_run_of_version_1_resumes(tmp_path):
    shutil.copy(GOLDEN / "v1" / "state.safetensors", tmp_path / "state.safetensors")
    _, header = read_tensors(tmp_path / "state.safetensors", "state")
    config = TrainingConfig.parse(header["config"], "golden")
    checkpoint = idem_md.train(config, tmp_path, resume=True)
    assert header["iteration"] == 1 and checkpoint.provenance["iterations"] == 3
    # Bit for bit on one machine; elsewhere sums are rounded in another order.
    ours, theirs = checkpoint.denoiser.state_dict(), load_checkpoint(GOLDEN / "v1" / "painn.safetensors").denoiser
    for key, value in theirs.state_dict().items():
        assert torch.allclose(ours[key], value, rtol=1e-2, atol=1e-3), key


def test_ensembles_of_version_1():
    importance, resampled, equilibrium = (
        idem_md.load_ensemble(GOLDEN / "v1" / f"{kind}.dcd") for kind in ("importance", "resampled", "equilibrium")
    )
    assert [e.kind for e in (importance, resampled, equilibrium)] == ["importance", "resampled", "equilibrium"]
    assert resampled.ess == importance.ess and resampled.log_z == pytest.approx(importance.log_z)
    assert resampled.source.n == 6 and math.isnan(equilibrium.log_z) and equilibrium.ess == pytest.approx(6)
    for e in (importance, resampled, equilibrium):
        assert not e.provenance.keys() & {"kind", "source", "resampled", "log_z_known"}


def test_ensembles_keep_their_kind(tmp_path):
    system = idem_md.get_system("dw4")
    x, u = np.random.default_rng(0).normal(size=(8, 4, 2)), np.zeros(8)
    weighted = idem_md.WeightedEnsemble(x, u, np.linspace(0, 1, 8), system)
    simulated = idem_md.WeightedEnsemble(x, u, np.zeros(8), system)
    sets = [weighted, simulated, weighted.resample(seed=1), simulated.resample(seed=1)]
    assert [e.kind for e in sets] == ["importance", "equilibrium", "resampled", "resampled"]
    assert math.isnan(simulated.log_z) and math.isnan(simulated.log_z_err)  # not 0 +- 0
    for e in sets:
        e.save(tmp_path / "a.dcd")
        back = idem_md.load_ensemble(tmp_path / "a.dcd")
        assert back.kind == e.kind
        for name in ("ess", "log_z", "log_z_err", "mean_energy"):
            assert np.array_equal(getattr(back, name), getattr(e, name), equal_nan=True), name


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_heads_plans_and_samples_of_older_formats(version, tmp_path):
    """Every head does what it did, and samples are gone on with; see the README beside the files."""
    folder = GOLDEN / version
    want = json.loads((folder / "expected.json").read_text())
    sampler = idem_md.Sampler(load_checkpoint(folder / "model.safetensors"))
    checkpoint = sampler.checkpoint
    assert list(checkpoint.denoiser.heads) == ["elastic_network", "flow_map", "flow_covariance"]
    assert checkpoint.provenance["heads"].keys() == {"elastic_network", "flow_map", "flow_covariance"}
    assert checkpoint.training_cost["seconds"] > checkpoint.provenance["seconds"]
    assert checkpoint.plan(4).nfe == 4 and checkpoint.expensive.build_last_step().candidates == 2
    flow = sampler.sample(20, nfe=4, seed=1, kernel="consistency", last_step="plain")
    nested = sampler.sample(20, nfe=4, seed=1, last_step="nested", last_step_calls=2)
    close = {"rtol": 1e-3, "atol": 1e-3}
    assert np.allclose(flow.log_weights, want["log_weights"], **close)
    assert np.allclose(nested.log_weights, want["nested"], **close)
    known = idem_md.load_ensemble(folder / "nested.dcd")
    assert np.allclose(known.log_weights, want["nested"], **close)
    more = sampler.extend(known, 5)
    assert len(more) == 25 and plan_of(more).nfe == 4 and plan_of(more).build_last_step().candidates == 2
    # A distillation that had ended, but for the flow covariance: it is learnt again.
    shutil.copy(folder / "distillation.safetensors", tmp_path / "state.safetensors")
    head = {"channels": 8, "layers": 1, "n_basis": 4}
    few = Distillation(steps=100, batch=16, pool=32, renewed=8, covariance_steps=5, head=head)
    again = distill(checkpoint, tmp_path / "state.safetensors", few, resume=True).denoiser.state_dict()
    for key, value in checkpoint.denoiser.state_dict().items():
        assert torch.allclose(again[key], value, rtol=1e-2, atol=1e-3), key
