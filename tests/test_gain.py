"""When training has gained what it will gain."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

import idem_md
from idem_md.checkpoint import build_denoiser
from idem_md.energies import ASE, Harmonic
from idem_md.errors import BudgetExhausted
from idem_md.training import how_it_ended, preset, train
from idem_md.training.budgets import Budget, decaying_now
from idem_md.training.config import LadderConfig
from idem_md.training.display import TrainingDisplay
from idem_md.training.first_buffer import FirstBuffer, calls_an_iteration
from idem_md.training.gain import Gain, enough, gain
from idem_md.training.ranks import ALONE

EDGES = np.geomspace(0.01, 1.0, 9).tolist()


def entries(*losses):
    return [{"loss_by_sigma": [loss] * 8, "sigma_edges": EDGES} for loss in losses]


def test_gain_is_the_divergence_that_the_loss_took_away():
    """A loss that fell by 0.01 in units of c_out^2: numbers * 0.01 * integral of (c_out / sigma)^2 d ln sigma."""
    denoiser = build_denoiser(preset("lj13").network, idem_md.get_system("lj13"), False)
    found = gain(entries(9.0, 9.0, 9.0, 0.31, 0.31, 0.31, 0.30, 0.30, 0.30), denoiser, 36)
    s = denoiser.sigma_data**2
    exact = 0.5 * (math.log(1e-4 / (1e-4 + s)) - math.log(1 / (1 + s)))
    assert found.nats == pytest.approx(-36 * 0.01 * exact, rel=0.02) and found.error == pytest.approx(0, abs=1e-9)
    noisy = gain(entries(*[1.0] * 3, 0.4, 0.3, 0.2, 0.4, 0.3, 0.2), denoiser, 36)
    assert abs(noisy.nats) < 1e-9 and noisy.error > 1.0


@pytest.mark.parametrize(
    "found,least,expected",
    [
        (Gain(0.1, 0.05), 0.2, True),
        (Gain(0.3, 0.05), 0.2, False),
        (Gain(-0.05, 0.05), 0.2, True),
        (Gain(-0.3, 0.05), 0.2, False),  # the buffer still changes
        (Gain(-0.05, 0.05), 0.0, False),
        (Gain(math.nan, math.nan), 0.2, False),
    ],
)
def test_enough(found, least, expected):
    assert enough(found, least) is expected


def test_the_decay_begins_now_unless_it_has_begun():
    assert decaying_now(6, 100, 0.4) == 10 and decaying_now(59, 100, 0.4) == 99
    assert decaying_now(60, 100, 0.4) == 100 and decaying_now(80, 100, 0.4) == 100


def test_what_is_said_of_an_end():
    def said(total, nats, error=0.05, done=None):
        config = preset("binary")
        assert config.optimizer.iterations == 110 and config.least_gain == 0.2
        log = [{"planned": total, "gain": nats if k >= 17 else None, "gain_err": error} for k in range(total)]
        return how_it_ended(log[:done], config)

    assert said(40, 0.1) == "training ended after 40 of 110 iterations, as it gained hardly anything more"
    assert said(40, 0.25) == "the budget ended training after 40 of 110 iterations, when it gained hardly anything more"
    assert said(110, 0.1) is None
    assert said(40, 0.5).startswith("the budget ended training after 40 of 110 iterations, still gaining when its step")
    assert said(110, 0.5).startswith(
        "training ended as planned, still gaining when its step size began to fall (0.5 nats"
    )
    assert "hardly anything" in said(40, 0.5, error=0.4)
    assert said(10, 0.5) == "the budget ended training after 10 of 110 iterations, too few to say what more would gain"
    assert said(40, 0.5, done=30) is None  # stopped


def test_training_ends_when_it_gains_no_more(tiny, tmp_path, monkeypatch):
    """And goes on to the same end after an interruption."""
    monkeypatch.setattr("idem_md.training.run.LEAST_ITERATIONS", 3)
    optimizer = tiny.optimizer.model_copy(update={"iterations": 20, "inner_steps": 2})
    config = tiny.model_copy(update={"optimizer": optimizer, "least_gain": 1e9})
    monkeypatch.setattr("idem_md.training.run.gain", lambda log, denoiser, numbers: Gain(float(10 - len(log)), 100.0))
    checkpoint = train(config, tmp_path / "whole")
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [entry["planned"] for entry in log] == [20, 20, 5, 5, 5] and log[2]["gain"] == 7.0
    assert checkpoint.provenance["iterations"] == 5 and checkpoint.provenance["finished"]
    seen = []
    train(config, tmp_path / "stopped", stop=lambda: len(seen) > 7, on_step=lambda: seen.append(1))
    again = train(config, tmp_path / "stopped", resume=True).denoiser.state_dict()
    assert all(torch.equal(a, again[k]) for k, a in checkpoint.denoiser.state_dict().items())


def test_the_first_buffer_of_frugal_suits_the_budget():
    """Most of a budget is left for iterations, and there are enough of them."""
    system = idem_md.get_system("lj13")
    whole = preset(system, "frugal")
    for calls in (1_000_000, 500_000):
        assert preset(system, "frugal", max_energy_calls=calls) == whole
    for calls, least in ((200_000, 20), (20_000, 20), (6000, 5)):
        config = preset(system, "frugal", max_energy_calls=calls)
        plan = FirstBuffer.of(config, system, ALONE)
        each = calls_an_iteration(config, plan.walkers)
        assert plan.calls < 0.6 * calls and least <= (calls - plan.calls) / each < 80
    assert preset(system, max_energy_calls=20_000) == preset(system)


@pytest.mark.parametrize("buffer", [{}, {"walkers": 16, "weighted": 128}, {"walkers": 16}])
@pytest.mark.parametrize("ladder", [None, LadderConfig(coldest=40.0, hottest=70.0, moves=3)])
def test_energy_calls_are_foretold(tiny, tmp_path, buffer, ladder):
    config = tiny.model_copy(update={"buffer": tiny.buffer.model_copy(update=buffer), "ladder": ladder})
    train(config, tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    first, *later = (json.loads(line)["energy_calls"] for line in log)
    plan = FirstBuffer.of(config, idem_md.get_system("lj13"), ALONE)
    each = calls_an_iteration(config, plan.walkers)
    assert first >= plan.calls
    assert 0 < np.diff([first, *later]).max() <= 1.2 * each


def test_a_budget_of_minutes_that_will_not_hold_the_first_buffer_ends_at_once(monkeypatch):
    """Judged by what comes after the first calls, which may have to start processes."""
    now = [0.0]
    monkeypatch.setattr("idem_md.training.budgets.time.perf_counter", lambda: now[0])
    share = [0.0]
    check = Budget(minutes=1.0).guard(lambda: False, lambda: share[0])
    for seconds, done in ((40.0, 0.001), (40.5, 0.02), (41.0, 0.03)):  # some 70 s in all
        now[0], share[0] = seconds, done
        check()
    now[0], share[0] = 43.0, 0.04
    with pytest.raises(BudgetExhausted, match="first buffer takes about 1.. minutes, more than the budget of 1"):
        check()


@pytest.mark.parametrize("ladder", [None, LadderConfig(coldest=40.0, hottest=70.0, moves=3)])
def test_every_energy_call_of_a_run_is_counted(tiny, tmp_path, ladder):
    """With samples by weight, at every rung."""
    rows = []

    class Springs(Harmonic):
        def evaluate(self, x):
            rows.append(len(x))
            return super().evaluate(x)

    energy = Springs(13, 3, 20.0)
    energy.units, energy.elements = idem_md.get_system("lj13").units, ("Ar",) * 13
    x = torch.randn(13, 3, generator=torch.Generator().manual_seed(0)).numpy()
    system = idem_md.System.of_energy(energy, x, "springs")
    rows.clear()
    update = {"buffer": tiny.buffer.model_copy(update={"walkers": 16, "size": 40, "weighted": 128})}
    config = tiny.model_copy(update={**update, "ladder": ladder, "system": "springs"})
    checkpoint = train(config, tmp_path / "run", system=system)
    assert checkpoint.provenance["energy_calls"] == sum(rows)


def test_the_cost_is_told_before_the_first_call():
    """In energy calls and, of a potential that takes long, in minutes."""
    atoms = Icosahedron("Cu", 2)
    atoms.calc = EMT()
    energy = ASE(atoms, temperature_K=900.0, length_angstrom=2.55)
    assert 1e-5 < energy.seconds_a_call < 1.0  # by the calls that look at the potential
    said: list[str] = []
    work = SimpleNamespace(phase=lambda *_, **__: None, say=said.append)
    config = preset("lj13", "frugal")
    for seconds in (0.0, 1e-3, 0.05):
        TrainingDisplay(work, 100, may_end=True).cost(169_000, 2_000, config, seconds)
    assert said[0].startswith("the first buffer takes 169,000 energy calls, each of")
    assert "169,000 energy calls (about 3 minutes), each of up to" in said[1] and "2,000 more" in said[1]
    assert "(about 2 hours)" in said[2] and "2,000 more (about 2 minutes)" in said[2]
