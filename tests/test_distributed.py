"""Training over processes: the same weights in all of them, state saved once, gone on with by as many or by others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import idem_md
from idem_md.chains import ChainState
from idem_md.cli.processes import launched, placed
from idem_md.tensor_files import read_tensors
from idem_md.training import load_config
from idem_md.training.ranks import Ranks, part_of
from idem_md.training.state import _own_part, load_state

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).parent / "helpers"


def rank_of(rank, size):
    """One that says nothing to the others."""
    found = Ranks()
    found.rank, found.size = rank, size
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_toml):
    """What two processes have made of one configuration."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "tiny.toml").write_text(tiny_toml(5).replace("[optimizer]", "[optimizer]\nname = 'muon'"))
    command = [sys.executable, str(HELPERS / "training_ranks.py")]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (p.communicate(timeout=240) for p in processes)
    assert first[0] == "done\n", first[1] + second[1]
    assert processes[1].returncode == -9, second[1]
    return folder


def weights(run):
    return idem_md.training.load_checkpoint(run / "model.safetensors").denoiser.state_dict()


def test_a_run_of_two_goes_on_to_the_bit(folder):
    a, b = weights(folder / "whole"), weights(folder / "halted")
    assert all(torch.equal(a[k], b[k]) for k in a)
    names = ["config.json", "log.jsonl", "model.safetensors", "state.safetensors"]
    for run in ("whole", "halted"):
        assert sorted(p.name for p in (folder / run).iterdir()) == names
        log = [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
        assert [entry["iteration"] for entry in log] == list(range(5))
    lost = [idem_md.load_sampler(folder / run).checkpoint.provenance["energy_calls"] for run in ("halted", "whole")]
    assert lost[0] > lost[1]  # what the halted iteration cost is not forgotten


def test_it_goes_on_with_one_and_says_so(folder):
    run = folder / "killed"
    config = load_config(folder / "tiny.toml")
    few = config.optimizer.model_copy(update={"iterations": 1000})
    config = config.model_copy(update={"optimizer": few})
    _, before = read_tensors(run / "state.safetensors", "state")
    assert len(before["rings"]) == 2 and sum(n for n, _ in before["rings"]) == config.buffer.size
    begun = []
    with pytest.warns(idem_md.errors.TrainingWarning, match="a run of 2 processes goes on with 1"):
        found = idem_md.train(
            config, run, resume=True, stop=lambda: len(begun) > 1, on_iteration=lambda *_: begun.append(1)
        )
    assert found.provenance["iterations"] == before["iteration"] + 2 and found.provenance["processes"] == 1
    assert found.provenance["energy_calls"] > before["energy_calls"]
    _, after = read_tensors(run / "state.safetensors", "state")
    assert [n for n, _ in after["rings"]] == [config.buffer.size]
    assert not list(run.glob(".energy-calls*"))


@given(st.data())
def test_a_buffer_is_shared_out_anew(data):
    rungs = data.draw(st.sampled_from([1, 3]))  # a ladder stays whole
    old = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    rings = [[rungs * n, rungs * data.draw(st.integers(0, n - 1))] for n in old]
    old = [n for n, _ in rings]
    u = torch.arange(sum(old), dtype=torch.float32)
    samples = ChainState(u[:, None, None].expand(-1, 2, 3), u, u[:, None, None].expand(-1, 2, 3))
    size = data.draw(st.integers(1, 4))
    parts = [_own_part(samples, rings, rank_of(rank, size), rungs) for rank in range(size)]
    assert torch.equal(torch.cat([part.u for part, _ in parts]).sort().values, u)
    lengths = [len(part.u) for part, _ in parts]
    assert all(bool((part.u % rungs == torch.arange(len(part.u)) % rungs).all()) for part, _ in parts)
    if size == len(old):
        assert [[n, next] for n, (_, next) in zip(lengths, parts)] == rings
    else:
        assert max(lengths) - min(lengths) <= rungs


def test_random_numbers_are_ones_own():
    seeds = {rank_of(rank, size).generator(0, k).initial_seed() for rank in range(3) for size in (3,) for k in range(3)}
    assert len(seeds) == 9
    assert rank_of(0, 1).generator(7).initial_seed() == 7


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_parts_make_the_whole(whole, size):
    parts = [part_of(whole, rank, size) for rank in range(size)]
    assert sum(parts) == whole and max(parts) - min(parts) <= 1


def test_what_cannot_be_shared_out_is_refused(tiny):
    with pytest.raises(idem_md.errors.ConfigError, match="buffer.size: expected a multiple .* processes, 3, got 64"):
        rank_of(0, 3).check(tiny)
    rank_of(0, 2).check(tiny)


def test_a_state_of_two_is_read_by_one_and_by_two(folder):
    config = load_config(folder / "tiny.toml")
    path, system = folder / "whole" / "state.safetensors", idem_md.get_system("lj13")
    tensors, header = read_tensors(path, "state")
    both = [load_state(path, config, system, ranks=rank_of(rank, 2)).state.buffer for rank in range(2)]
    assert torch.equal(torch.cat([b.samples.x for b in both]), tensors["buffer.x"])
    assert [b.next for b in both] == [next for _, next in header["rings"]]
    one = load_state(path, config, system)
    assert one.processes == 2 and len(one.state.buffer) == config.buffer.size


def test_who_started_this_process():
    assert launched({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}) == (4, 2)
    assert launched({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "10", "SLURM_STEP_NUM_NODES": "5"}) == (2, 5)
    with pytest.raises(idem_md.UsageError, match="distributed: expected as many processes on each of 2 nodes, got 3"):
        launched({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"})
    for environment in ({}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}):  # a batch script
        with pytest.raises(idem_md.UsageError, match="distributed: expected to be started by torchrun or srun"):
            launched(environment)


def test_fabric_is_asked_for_by_name(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(idem_md.UsageError, match="expected Lightning Fabric; pip install"), placed("cpu", True):
        pass


def test_torchrun(tmp_path, tiny_toml):
    """With a ladder of temperatures."""
    (tmp_path / "tiny.toml").write_text(tiny_toml(3) + "\n[ladder]\ncoldest = 40.0\nhottest = 70.0\n")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "idem_md.cli"]
        + "train tiny.toml --out run --elastic-network-steps 0 --distributed --json".split(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["finished"] and told["iterations"] == 3
    assert done.stderr.count("iteration 3/3") == 1 and (tmp_path / "run" / "training.png").exists()
    sampler = idem_md.load_sampler(tmp_path / "run")
    assert sampler.checkpoint.provenance["processes"] == 2 and len(sampler.checkpoint.rungs) >= 2
    _, header = read_tensors(tmp_path / "run" / "state.safetensors", "state")
    assert all(number % len(header["betas"]) == 0 for ring in header["rings"] for number in ring)
