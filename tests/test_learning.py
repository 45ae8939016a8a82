"""Training learns: a harmonic cluster in seconds, measured against its exact denoiser by the score-error meter."""

import copy
from dataclasses import replace

import pytest
import torch

import idem_md
from idem_md.energies import Harmonic
from idem_md.geometry import standard_normal
from idem_md.measurements import read_meter
from idem_md.training import loop
from idem_md.training.muon import Float32Muon, orthogonalised

K = 4.0
SETTINGS = {
    "network": {"channels": 16, "layers": 2, "n_basis": 12},
    "noise": {"sigma_min": 0.1, "sigma_max": 2.0},
    "target": {"name": "buffer"},
    "buffer": {"size": 512, "fresh": 16, "relax_steps": 0, "warmup_steps": 200, "refine_steps": 10, "mala_step": 0.05},
    "optimizer": {"batch": 64, "inner_steps": 100, "iterations": 4, "warmup": 20, "learning_rate": 3e-3, "ema": 0.98},
}


@pytest.fixture(scope="module")
def cluster():
    """Five atoms; the assumed scale of the data is wrong, or preconditioning alone would be the exact denoiser."""
    energy = Harmonic(5, 3, K)
    energy.units, energy.elements = idem_md.get_system("lj13").units, ("Ar",) * 5
    x = standard_normal((1, 5, 3), torch.Generator().manual_seed(0))[0].numpy() * 3.822
    return replace(idem_md.System.of_energy(energy, x, "springs"), sigma_data=2 * K**-0.5)


def errors(denoiser, energy):
    """Errors by the meter at three noise levels, in nats per unit of ln sigma."""
    x = K**-0.5 * standard_normal((256, 5, 3), torch.Generator().manual_seed(1))
    return [read_meter(denoiser, energy, x, sigma, 0.05, chains=4, n_steps=100).error for sigma in (0.2, 0.5, 1.0)]


def trained(system, iterations=4):
    config = idem_md.TrainingConfig.parse({"system": system.name, "seed": 2, **SETTINGS}, "test")
    energy = system.energy()
    state = loop.init(config, system, energy)
    before = errors(state.ema, energy)
    for _ in range(iterations):
        loop.outer_iteration(config, energy, state)
    return before, errors(state.ema, energy)


def learnt(before, after):
    return all(b < 0.1 * a for a, b in zip(before, after))


def test_training_learns_the_exact_denoiser(cluster):
    before, after = trained(cluster)
    assert learnt(before, after), (before, after)


def test_with_the_sign_of_the_loss_flipped_it_does_not(cluster, monkeypatch):
    honest = loop._loss
    monkeypatch.setattr(loop, "_loss", lambda *args: -honest(*args))
    try:
        before, after = trained(cluster, iterations=1)
    except idem_md.IdemError as error:
        assert "training diverged" in str(error)
    else:
        assert not learnt(before, after) and all(b > a for a, b in zip(before, after)), (before, after)


def test_float32_muon_is_torchs_but_for_its_precision():
    """Steps of both from the same gradients, states exchanged half-way; singular values come near one."""
    g = torch.Generator().manual_seed(0)
    shapes = (48, 192), (128, 64), (64, 64)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Float32Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for k in range(4):
        if k == 2:
            states = [copy.deepcopy(o.state_dict()) for o in optimizers]
            for optimizer, state in zip(optimizers, states[::-1]):
                optimizer.load_state_dict(state)
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, generator=g)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs):
        # The quintic turns rounding of bfloat16 into some hundredths of the singular values.
        assert torch.linalg.norm(p - q) < 0.03 * torch.linalg.norm(p)
    found = torch.linalg.svdvals(orthogonalised(torch.randn(40, 96, generator=g)))
    assert 0.6 < found.min() and found.max() < 1.3
