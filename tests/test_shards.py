"""Samples in chunks: the same bits however they are spread, put together again, and gone on with."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import crashing_workers
import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idem_md import ResultError, UsageError, WeightedEnsemble, load_sampler
from idem_md.baselines import ENGINES
from idem_md.errors import EnergyError, WeightWarning
from idem_md.sampler import Sampler
from idem_md.sampler.chunks import chunks_of
from idem_md.seeds import Run, runs_of, stream_of

# Little work: four chunks of at most 250.
PLAIN = dict(nfe=4, kernel="analytic", last_step="plain", moves=0, seed=7)
N = 777


@pytest.fixture(scope="module")
def sampler():
    return load_sampler("dw4")


@pytest.fixture(scope="module")
def whole(sampler):
    return sampler.sample(N, **PLAIN)


def same(a, b):
    """To the bit, with what they cost."""
    assert a.kind == b.kind and a.provenance["chunks"] == b.provenance["chunks"]
    for key in ("energy_calls", "failed", "seed", "nfe"):
        assert a.provenance[key] == b.provenance[key]
    for name in ("positions", "energies", "log_weights"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True)


def test_chunks_are_named(whole):
    assert whole.provenance["chunks"] == [[7, 0, 3, 1, 250], [7, 3, 4, 1, 27]]


@pytest.mark.parametrize("m", [2, 4])
def test_merged_shards_are_one_process(sampler, whole, m):
    shards = [sampler.sample(N, shard=(k, m), **PLAIN) for k in reversed(range(m))]
    assert sum(map(len, shards)) == N and len({len(e) for e in shards}) > 1
    assert shards[0].provenance["shards"] == [[7, m - 1, m, N]]
    same(WeightedEnsemble.concatenate(shards), whole)
    with pytest.warns(WeightWarning, match=f"shards {m - 1}/{m} of 777 samples with seed 7 are not there"):
        some = WeightedEnsemble.concatenate(shards[1:])  # shards of shards
    with pytest.raises(UsageError, match="seed: expected another than 7, of which other shards may come yet"):
        sampler.extend(some, 10)
    with pytest.warns(WeightWarning, match="are not there"):
        assert sampler.extend(some, 10, seed=8).provenance["shards"] == some.provenance["shards"]
    joined = WeightedEnsemble.concatenate([shards[0], some])
    same(joined, whole)
    assert joined.provenance.keys() == whole.provenance.keys()


@pytest.mark.slow
def test_processes_are_one_process(sampler, whole):
    seen = []
    same(sampler.sample(N, executor=2, progress=lambda w: seen.append(len(w)), **PLAIN), whole)
    assert seen == [250, 250, 250, 27]


@pytest.mark.slow
def test_a_dask_cluster_is_one_process(sampler, whole):
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        same(sampler.sample(N, executor=client.get_executor(), **PLAIN), whole)


def test_raw_samples_and_scans_have_chunks(sampler):
    raw = sampler.sample(300, nfe=4, kernel="ddpm", weighted=False)
    assert raw.kind == "raw" and raw.provenance["chunks"][0][0] == 0
    with ThreadPoolExecutor(1) as executor:
        same(raw, sampler.sample(300, nfe=4, kernel="ddpm", weighted=False, executor=executor))
    for e in sampler.scan(20, [290, 310], nfe=4, last_step="plain"):
        assert e.provenance["chunks"] == [[0, 0, 1, 1, 20]]


def of(make, monkeypatch, tmp_path):
    monkeypatch.setenv(crashing_workers.PARENT, str(os.getpid()))
    monkeypatch.setenv(crashing_workers.FLAG, str(tmp_path / "died"))
    sampler = load_sampler("dw4")
    return Sampler(sampler.checkpoint, replace(sampler.system, make_energy=make, name="harmonic"))


@pytest.mark.slow
def test_a_chunk_whose_worker_dies_is_drawn_again(monkeypatch, tmp_path):
    sampler = of(crashing_workers.dies_once, monkeypatch, tmp_path)
    spread = sampler.sample(N, executor=2, **PLAIN)
    assert (tmp_path / "died").exists()
    same(spread, sampler.sample(N, **PLAIN))


class Remembers(ThreadPoolExecutor):
    """Asked the same again it gives the same answer, as Dask does; the first is a failure."""

    def __init__(self):
        super().__init__(1)
        self.known = {}

    def submit(self, function, /, *args):
        if args not in self.known:
            failing = super().submit(lambda: 1 / 0)
            self.known[args] = super().submit(function, *args) if self.known else failing
        return self.known[args]


def test_what_is_asked_again_is_another_question(sampler, whole):
    with Remembers() as executor:
        same(sampler.sample(N, executor=executor, **PLAIN), whole)


@pytest.mark.slow
def test_workers_that_die_again_are_an_error(monkeypatch, tmp_path):
    sampler = of(crashing_workers.crashing, monkeypatch, tmp_path)
    with pytest.raises(ResultError, match="executor: workers failed 3 times on chunk 0"):
        sampler.sample(300, executor=1, **PLAIN)


def test_errors_of_workers_are_those_of_one_process(monkeypatch, tmp_path):
    sampler = of(crashing_workers.raises, monkeypatch, tmp_path)
    monkeypatch.setenv(crashing_workers.PARENT, "another")
    with ThreadPoolExecutor(1) as executor, pytest.raises(EnergyError, match="expected nothing better"):
        sampler.sample(300, executor=executor, **PLAIN)


def test_what_does_not_pickle_is_refused(sampler):
    own = Sampler(
        sampler.checkpoint, replace(sampler.system, make_energy=lambda: crashing_workers.Crashing(4, 2), name="own")
    )
    with pytest.raises(UsageError, match="executor: expected a potential that pickles"):
        own.sample(300, executor=1, **PLAIN)


def test_a_number_of_processes_is_a_number(sampler):
    for executor in (0, 1.5, "two"):
        with pytest.raises(UsageError, match="executor: expected"):
            sampler.sample(10, executor=executor, **PLAIN)


@pytest.mark.parametrize("shard,message", [((2, 2), "shard: .* got 2"), ((0, 0), "shard"), ((5, 6), "at most 4")])
def test_shards_that_are_none_are_refused(sampler, shard, message):
    with pytest.raises(UsageError, match=message):
        sampler.sample(N, shard=shard, **PLAIN)


def test_a_shard_need_only_fit_by_itself(sampler):
    assert len(sampler.sample(10**9, shard=(0, 2 * 10**6), **PLAIN)) == 500
    with pytest.raises(UsageError, match="n: expected at most"):
        sampler.sample(10**9, **PLAIN)


def test_going_on_is_more_of_the_same(sampler, whole):
    first = sampler.sample(500, **PLAIN)
    longer = sampler.extend(first, 277)
    same(longer, whole)
    other = sampler.extend(longer, 100, seed=8)
    assert other.provenance["seeds"] == [7, 8] and len(other) == N + 100
    assert np.array_equal(other.log_weights[N:], sampler.sample(100, **(PLAIN | {"seed": 8})).log_weights)
    assert other.provenance["energy_calls"] == N + 100


@pytest.mark.parametrize("wanted", [200, 700])
def test_as_many_as_it_takes(sampler, wanted):
    """A little more than what was asked for, by its own weights; and nothing, if there is enough."""
    first = sampler.sample(250, nfe=25, last_step="nested", seed=3)
    e = sampler.extend(first, 100_000, ess=wanted)
    assert max(wanted, first.ess) <= e.ess < 1.1 * wanted + first.ess
    assert sampler.extend(e, 100, ess=wanted) is e
    few = sampler.extend(first, 40, ess=1e9)
    assert len(few) == 290 and few.provenance["stopped_at_ess"] == 1e9


def test_weights_that_seem_enough_too_soon_are_told_of(whole):
    """Heavy tails and a number of samples that was not fixed."""
    log_weights = 0.5 * np.random.default_rng(0).exponential(size=N)  # k of about 0.5
    e = replace(whole, log_weights=log_weights)
    assert 0.5 < e.pareto_k < 0.7 and not e.advice
    stopped = replace(e, provenance=e.provenance | {"stopped_at_ess": 100.0})
    assert "drawn until they seemed enough" in stopped.advice and "(n)" in stopped.advice


def test_what_cannot_be_gone_on_with_is_refused(sampler, whole):
    known = ENGINES["mala"].run("dw4", 10, 300)
    for ensemble, message in (
        (known, "ensemble: expected samples of a sampler, there is no plan"),
        (whole.resample(), "expected the same kind"),
        (replace(whole, provenance=whole.provenance | {"checkpoint": "other"}), "expected the same checkpoint"),
        (replace(whole, provenance=whole.provenance | {"chunks": [[7, 0, 9, 1, 250]]}), "expected the 2250 samples"),
    ):
        with pytest.raises(UsageError, match=message):
            sampler.extend(ensemble, 10)
    raw = sampler.sample(10, nfe=4, kernel="ddpm", weighted=False)
    with pytest.raises(UsageError, match="ess: expected none for samples without weights"):
        sampler.extend(raw, 10, ess=5)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"chunks": [[7, 0, 3, 1, 250], [7, 3, 4, 1, 27]]}, "got seed 7, chunk 0 in part 1 beside"),
        ({"chunks": [[7, 4, 7, 1, 250], [7, 3, 4, 1, 27]]}, "got seed 7, chunk 3 in part 1"),
        ({"checkpoint": "other"}, "part 1: expected the same checkpoint"),
        ({"plan": {}}, "part 1: expected the same plan"),
        ({"nfe": 5}, "part 1: expected the same nfe"),
        ({"method": "consistency"}, "part 1: expected the same method"),
        ({"parameters": {"a": 2}}, "part 1: expected the same parameters"),
        ({"chunks": [[8, 0, 1, 1, 100]]}, "expected the 100 samples"),
        ({"chunks": [[8, 0, 10**12, 1, 10**9]]}, "expected the 10{21} samples"),
        ({"chunks": [[8, 0, 3, 0, 259]]}, "damaged"),
        ({"chunks": "all"}, "damaged"),
        ({"chunks": [[8, 0, 1.5, 1, 777]]}, "damaged"),
        ({"shards": [[8, 2, 2, 777]]}, "shards in the provenance of part 1, they are damaged"),
        ({"shards": [[8, 0.5, 2, 777]]}, "shards in the provenance of part 1, they are damaged"),
        ({"shards": 3}, "shards in the provenance of part 1, they are damaged"),
    ],
)
def test_what_does_not_belong_together_is_refused(whole, change, message):
    other = replace(whole, provenance=whole.provenance | {"chunks": [[8, 0, 1, 1, N]]} | change)
    with pytest.raises(UsageError, match=message):
        WeightedEnsemble.concatenate([whole, other])


def test_systems_and_kinds_do_not_mix(whole):
    chunks = {"chunks": [[8, 0, 1, 1, N]]}
    for change in ({"kind": "raw"}, {"system": replace(whole.system, name="another")}):
        other = replace(whole, provenance=whole.provenance | chunks, **change)
        with pytest.raises(UsageError, match=f"part 1: expected the same {next(iter(change))}"):
            WeightedEnsemble.concatenate([whole, other])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 3)), max_size=20))
def test_runs_are_their_chunks(chunks):
    runs = runs_of(chunks)
    assert [(run.seed, index, run.size) for run in runs for index in run.indices] == chunks
    assert len(runs) <= len(chunks) and all(isinstance(run, Run) for run in runs)


@given(st.integers(1, 10_000), st.integers(1, 300), st.integers(1, 12), st.integers(0, 50))
def test_shards_share_out_all_chunks(n, size, m, first):
    chunks = chunks_of(n, size, first)
    assert sum(chunk.size for chunk in chunks) == n and len(runs_of((0, *c) for c in chunks)) <= 2
    shared = [chunk for k in range(m) for chunk in chunks_of(n, size, first, (k, m))]
    assert sorted(shared) == chunks


def test_streams_of_a_seed_are_all_different():
    assert len({stream_of(3, k) for k in range(10_000)}) == 10_000 and stream_of(3, 0) != stream_of(4, 0)
    assert stream_of(3, 2**32) == stream_of(3, 0)  # more chunks than anybody draws
