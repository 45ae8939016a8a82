"""One of two processes that train together: training_ranks.py RANK FOLDER; prints what went as it should."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed

import idem_md
from idem_md.training import load_config
from idem_md.training.ranks import ProcessGroup

SIZE = 2


class After:
    """Says so after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self):
        """One more."""
        self.left -= 1

    def __call__(self):
        return self.left <= 0


def gradients(ranks):
    """The mean of everyone's, unless someone wants to halt."""
    weights = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))
    for p in weights:
        p.grad = torch.full_like(p, 1.0 + ranks.rank)
    assert not ranks.average_gradients(weights, False)
    assert all(bool((p.grad == 1.5).all()) for p in weights)
    assert ranks.average_gradients(weights, ranks.rank == 1)
    weights[0].grad = None
    assert ranks.average_gradients(weights, True)


def main(rank, folder):
    """All of it, with one start of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=SIZE)
    group = distributed.group.WORLD
    ranks = ProcessGroup(group, torch.device("cpu"))
    gradients(ranks)
    try:
        ProcessGroup(group, torch.device("meta"))
    except idem_md.UsageError as error:
        assert "expected a backend for the device 'meta'" in str(error)
    else:
        raise AssertionError("a device without a backend")
    config = load_config(folder / "tiny.toml")
    seen = []

    def on_iteration(_, state, calls):
        seen.append(calls)
        mine, *others = ranks.gather([p.detach() for p in (*state.denoiser.parameters(), *state.ema.parameters())])
        assert all(torch.equal(a, b) for other in others for a, b in zip(mine, other))

    whole = idem_md.train(config, folder / "whole", group=group, on_iteration=on_iteration)
    assert seen == sorted(seen) and whole.provenance["energy_calls"] == seen[-1]
    assert whole.provenance["processes"] == SIZE
    # One of the two is asked to stop.
    halt = After(10 if rank else 10**6)
    idem_md.train(config, folder / "halted", group=group, stop=halt, on_step=halt.step)
    idem_md.train(config, folder / "halted", group=group, resume=True)
    for options, message in ({"resume": True, "overwrite": True}, "overwrite:"), ({}, "already holds a run"):
        try:
            idem_md.train(config, folder / "whole", group=group, **options)
        except idem_md.UsageError as error:
            assert message in str(error)
    few = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"iterations": 1000})})
    die = After(10)

    def step():
        die.step()
        if rank == 1 and die():
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        idem_md.train(few, folder / "killed", group=group, on_step=step)
    except idem_md.IdemError as error:
        assert "lost another of the processes" in str(error), error
        print("done", flush=True)
    os._exit(0)  # without a word to the one that is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
