"""Plans by the variance of log w: how it is measured, and what is made of it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from harmonic import SCALE, K
from hypothesis import given
from hypothesis import strategies as st

from idem_md.diffusion import Evaluation, SamplingPlan
from idem_md.diffusion.last_step import annealed
from idem_md.diffusion.plan import Tuned
from idem_md.energies import Harmonic
from idem_md.errors import UsageError
from idem_md.geometry import standard_normal
from idem_md.tuning.pilots import FEW, Tried, effective_variance, robust_variance, run_pilot, share_both_ways
from idem_md.tuning.plans import _confirmed, _most_worth, _worth_trying, tune_plans
from idem_md.tuning.search import Search


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_robust_variance_is_that_of_most():
    a = 1.7 * torch.randn(20_000, generator=generator(), dtype=torch.float64)
    assert robust_variance(a) == pytest.approx(1.7**2, rel=4.5 * math.sqrt(3.1 / len(a)))
    a[:400] = 1e9  # a few that are lost do not rule it
    assert robust_variance(a) == pytest.approx(1.7**2, rel=0.15)
    a[:4000] = -torch.inf
    assert robust_variance(a) == math.inf


class OfCalls:
    def __init__(self, calls):
        self.calls = calls


@given(st.floats(0.01, 30), st.integers(100, 10**6), st.floats(1e-8, 1e-3), st.floats(1e-5, 10), st.floats(2, 9))
def test_the_number_of_calls_is_worth_most(variance, calls, seconds_a_call, path_seconds, power):
    """No other number gives a larger power of the share by seconds, whatever the first pilot had."""
    difference = math.sqrt(2 * variance) * torch.erfinv(torch.linspace(-0.999, 0.999, 999)) * math.sqrt(2)
    log_w = torch.stack([difference, torch.zeros(999)])
    tried = Tried("annealed", {}, OfCalls(calls), log_w, seconds_a_call * calls)
    assert tried.variance == pytest.approx(variance, rel=0.01)

    def log_worth(n):
        return -power * tried.variance * calls / n - math.log(path_seconds + seconds_a_call * n)

    best = tried.calls(path_seconds, power)
    assert all(log_worth(best) > log_worth(by * best + extra) - 1e-9 for by, extra in ((0.8, -1), (1.25, 1)))


def test_a_share_that_can_be_counted_is():
    """For normal log weights both are the variance; a path in fifty that weighs next to nothing costs what it costs."""
    log_w = 0.7 * torch.randn(20_000, generator=generator(4), dtype=torch.float64)
    assert effective_variance(log_w) == pytest.approx(0.49, rel=0.1)
    log_w[::50] -= 5.0
    assert robust_variance(log_w) == pytest.approx(0.5, rel=0.1) and effective_variance(log_w) > 1.0
    wide = 4 * torch.randn(500, generator=generator(5), dtype=torch.float64)
    assert effective_variance(wide) == robust_variance(wide)


def test_a_share_from_both_sides():
    """Both sides say the same of log-normal weights; else the variance of weights between them counts."""
    log_w = 0.8 * torch.randn(40_000, generator=generator(7), dtype=torch.float64)
    share = math.exp(-0.64)
    assert share_both_ways(share, log_w, 10.0) == pytest.approx(share, rel=0.05)
    w = torch.tensor([1.0, 0.0], dtype=torch.float64)  # half of them effective
    assert share_both_ways(0.1, w.log(), 1.0) == pytest.approx(0.25) and share_both_ways(0.1, w.log(), 2.0) == 0.1
    assert share_both_ways(0.9, w.log(), 2.0) == pytest.approx(0.75)
    assert share_both_ways(0.1, w[1:].log(), 0.0) == 0.1 == share_both_ways(0.1, torch.zeros(5), 0.0)


def test_paths_down_confirm_a_share_as_well(lj13_sampler, lj13_samples, monkeypatch):
    asked = []

    def both_ways(*arguments):
        asked.append(arguments)
        return 0.123

    monkeypatch.setattr("idem_md.tuning.plans.share_both_ways", both_ways)
    checkpoint, energy = lj13_sampler.checkpoint, lj13_sampler.system.energy()
    given = checkpoint, lj13_sampler.plan(12), (), energy, lj13_samples[:300].double(), 0
    plain, both = (
        _confirmed(*given, Search(confirm_seconds=0.05, down_seconds=seconds, counted=2.0)) for seconds in (0.0, 0.05)
    )
    ((up, log_w, least),) = asked
    assert 0 < plain.ess_fraction < 1 and both.ess_fraction == 0.123 and 0 < up < 1 and least == 2.0
    assert len(log_w) >= 16 and torch.isfinite(log_w).any()
    assert torch.logsumexp(log_w, 0) - math.log(len(log_w)) == pytest.approx(59.86, abs=2.0)


def test_a_search_is_where_it_is_to_be(lj13_sampler, lj13_samples):
    checkpoint, lowest, seconds = replace(lj13_sampler.checkpoint, plans={}), (0.35, 0.4), 0.05
    search = Search(
        lowest=lowest, best_kernel=True, path_seconds=seconds, pilot_seconds=seconds, confirm_seconds=seconds
    )
    energy, nfes = lj13_sampler.system.energy(), {"diffusion": (8,)}
    found = tune_plans(checkpoint, energy, lj13_samples[:400], nfes, search=search).plans["diffusion"][8]
    scale = checkpoint.system.sigma_data
    assert found.kernel == "elastic" and min(abs(found.sigma_1 / scale - level) for level in lowest) < 1e-9


def test_paths_that_compete_for_a_sample():
    """The share of M paths, as the mean of M log-normal weights has it; and the M that is worth most."""
    one = SamplingPlan(nfe=8, ess_fraction=0.2, seconds=0.1)
    plan = one.of_candidates(6)
    w = torch.exp(math.log(5) ** 0.5 * torch.randn(6, 200_000, generator=generator(6), dtype=torch.float64)).mean(0)
    assert plan.ess_fraction == pytest.approx(float(w.mean() ** 2 / (w**2).mean()), rel=0.05)
    assert plan.ess_fraction == pytest.approx(0.6) == plan.seconds and plan.of_candidates(
        1
    ).ess_fraction == pytest.approx(0.2)
    assert Search().with_candidates(one) is one and one.changed(candidate_paths=6) == plan
    unknown = replace(one, ess_fraction=None, seconds=None).of_candidates(3)
    assert unknown.candidate_paths == 3 and unknown.ess_fraction is None and unknown.seconds is None
    for beside in (0.0, 0.05, 3.0):
        worth = {m: one.of_candidates(m).ess_fraction ** 1.5 / (0.1 * m + beside) for m in range(1, 65)}
        assert Search.by_twin(beside).with_candidates(one).candidate_paths == max(worth, key=worth.get)
    assert Search.by_twin(1e6).with_candidates(one).candidate_paths == 64
    with pytest.raises(UsageError, match="candidate_paths"):
        one.changed(candidate_paths=0)


def test_variances_are_told_apart():
    """What the paths and the last step add to log w, from their sum and two last steps for each sample."""
    paths, noise = (0.9**0.5 * torch.randn(8000, generator=generator(k), dtype=torch.float64) for k in (1, 2))
    last = 0.4**0.5 * torch.randn(2, 8000, generator=generator(3), dtype=torch.float64)
    tried = Tried("annealed", {}, OfCalls(100), last + noise - noise.mean(), 1.0)
    assert tried.variance == pytest.approx(0.4, rel=0.1)
    assert tried.above(paths - noise) == pytest.approx(0.9, rel=0.1)


def test_annealing_falls_as_one_over_its_calls():
    """For springs, whose annealing needs no more than that: a pilot foretells four times as many calls."""
    energy, sigma = Harmonic(4, 3, K), 2 * SCALE
    x_0 = SCALE * standard_normal((600, 4, 3), generator())
    x = x_0 + sigma * standard_normal(x_0.shape, generator(1))
    shrink = SCALE**2 / (SCALE**2 + sigma**2)
    evaluation = Evaluation(x, sigma, 0.5 * shrink * x, 3 * shrink * sigma**2)  # a poor start, or nothing were lost
    options = annealed.AnnealedLastStep.efforts(energy, evaluation, SCALE, 0)[0]
    found = []
    for calls in (64, 256):
        few = annealed.AnnealedLastStep.of_calls(options, calls)
        last_step = annealed.AnnealedLastStep.build(few)
        log_w = torch.stack([last_step.retrace(energy, evaluation, x_0, generator(k)) for k in (2, 3)])
        found.append(Tried("annealed", few, last_step, log_w, 1.0).variance * last_step.calls)
    assert found[1] == pytest.approx(found[0], rel=0.35)
    tried = run_pilot("annealed", options, energy, evaluation, x_0, generator(4))
    assert tried.last_step.open_ended and FEW <= tried.log_w.shape[1] <= 600 and tried.seconds > 0


def plan(sigma_1, calls, paths, last_step, alternatives=()):
    table = {"stages": calls - 1, "power": 3.0, "moves": 1, "steps": [0.1, 0.1]}
    options = {"schedule": table, "chains": 1}
    share = math.exp(-paths - last_step)
    tuned = Tuned(paths, last_step, alternatives)
    return SamplingPlan("analytic", "annealed", sigma_1, options, share, 0.1, nfe=9, tuned=tuned)


def test_more_evaluations_are_not_to_be_worse_than_fewer():
    """The plan that is worth most, of those with at least the share that is asked for."""
    poor, good = plan(0.3, 1000, 0.5, 0.3), replace(plan(0.6, 10_000, 0.1, 0.2), seconds=50.0)
    assert _most_worth([poor, good], 0.0, Search()) == poor and _most_worth([poor, good], 0.6, Search()) == good
    assert _most_worth([poor, good], 0.9, Search()) == poor


class Level:
    """A level whose plans have known variances of paths and last step."""

    def __init__(self, sigma, paths, last_step):
        self.known, self.variance, self.asked = plan(sigma, 1000, paths, last_step), paths, 0

    def plan(self, calls=None):
        return self.known

    def candidates(self, kernel, nfe, others):
        self.asked += 1
        return [self]


def test_levels_are_tried_across_a_trough():
    """Paths of a cluster that freezes lose most in the middle; once they are good, two worse levels are enough."""
    paths, last = (5.0, 7.0, 9.0, 3.2, 0.6, 0.4, 0.4, 0.4), (0.3, 0.4, 0.4, 0.4, 0.2, 0.6, 0.9, 1.2)
    levels = [Level(0.1 * k + 0.1, *both) for k, both in enumerate(zip(paths, last))]
    worth = _worth_trying(levels, ["analytic"], 25, torch.zeros(0), Search())
    assert worth[0][0] is levels[4] and [level.asked for level in levels] == [1] * 7 + [0]


def test_a_number_of_calls_asks_for_the_plan_that_suits_it():
    """Few calls bridge a low level only; the expectation goes with them."""
    low = plan(0.3, 1000, 0.8, 0.1)
    both = replace(plan(0.6, 10_000, 0.1, 0.2, (low,)), ess_fraction=0.7)
    few, many = both.changed(last_step_calls=1000), both.changed(last_step_calls=20_000)
    assert few.sigma_1 == 0.3 and many.sigma_1 == 0.6 and few.build_last_step().calls == 1000
    assert few.tuned.variance == pytest.approx(0.9) and few.ess_fraction == pytest.approx(math.exp(-0.9))
    assert many.tuned.last_step == pytest.approx(0.1) and many.ess_fraction == pytest.approx(0.7 * math.exp(0.1))
    assert few.tuned.alternatives == () and few.seconds is None
    assert SamplingPlan.of(json.loads(json.dumps(both.table()))) == both
    moved = replace(both, moves=1250, move_step=0.1)
    assert (
        moved.build_last_step().calls == 11_250 and moved.changed(last_step_calls=8000).build_last_step().calls == 8000
    )
    asked = both.changed(kernel="ddpm")
    assert asked.tuned is None and asked.ess_fraction is None and asked.sigma_1 == 0.6
    assert replace(both, tuned=None).changed(last_step_calls=50).ess_fraction is None
