"""Digests of what a version computes, to compare two versions bit for bit on one machine.

    python tests/helpers/fingerprint.py FOLDER      # in the environment of each version
    diff BEFORE/fingerprint.json AFTER/fingerprint.json

Samples, baselines, three training iterations and a resumption, through the public surface alone.
"""

import hashlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import idem_md
from idem_md.cli import main
from idem_md.training import load_config

SMALL = """
system = "{system}"
seed = 5
[network]
{network}
[target]
{target}
[buffer]
size = 256
fresh = 16
sampling_steps = 8
warmup_steps = 200
refine_steps = 40
{buffer}
[optimizer]
batch = 32
inner_steps = 8
iterations = 3
{optimizer}
"""
RUNS = {
    "posterior": dict(
        system="lj13", target="chains = 2\nchain_steps = 40", optimizer='name = "muon"\nprecision = "bf16"'
    ),
    "buffer-2d": dict(system="dw4", network="length = 4.0", target='name = "buffer"', buffer="mala_step = 1e-2"),
    "mixed-point": dict(
        system="gmm40",
        network='name = "mlp"\nchannels = 64',
        target='name = "mixed"\nn_samples = 64',
        buffer="mala_step = 0.5\nrelax_steps = 0",
    ),
    "dem-egnn": dict(
        system="lj13",
        network='name = "egnn"\noutput = "score"\nchannels = 16\nlayers = 2',
        target='name = "dem"\nn_samples = 32\nmax_score_norm = 20.0',
        buffer='train_on = "prior"',
    ),
    "species": dict(system="binary", target='name = "buffer"'),
}


def digest(data) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()).hexdigest()[:16]


def command(*args) -> None:
    sys.argv = ["idem-md", *map(str, args)]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise


def ensemble(dcd: Path) -> dict:
    with np.load(dcd.with_suffix(".npz")) as data:
        arrays = {k: digest(data[k]) for k in ("positions", "energies", "log_weights")}
        calls = json.loads(str(data["provenance"]))["energy_calls"]
    return {**arrays, "dcd": digest(dcd.read_bytes()), "energy_calls": calls}


def weights(folder: Path) -> dict:
    out = {}
    for name in ("model", "state"):
        tensors = load_file(folder / f"{name}.safetensors")
        out[name] = digest(b"".join(k.encode() + t.float().numpy().tobytes() for k, t in sorted(tensors.items())))
    return out


def fingerprint(folder: Path) -> dict:
    out = {}
    # Versions that have other last steps take another one by default.
    parameters = inspect.signature(idem_md.Sampler.sample).parameters
    plain = ("--last-step", "plain") if {"last_step", "plan"} & parameters.keys() else ()
    for system in ("lj13", "dw4", "gmm40"):
        for kernel in ("ddpm", "analytic"):
            path = folder / f"{system}-{kernel}.dcd"
            command("sample", system, "-n", 64, "--kernel", kernel, "--seed", 3, "--out", path, *plain, "--json")
            out[f"sample {system} {kernel}"] = ensemble(path)
    for system, engine, steps in (
        ("lj13", "mala", 1000),
        ("dw4", "mala", 1000),
        ("gmm40", "mala", 1000),
        ("lj13", "pt", 1000),
        ("dw4", "pt", 1000),
        ("gmm40", "exact", None),
        ("binary", "mala", 500),
    ):
        path = folder / f"{system}-{engine}.dcd"
        command(
            "baseline",
            system,
            "--engine",
            engine,
            "-n",
            64,
            "--seed",
            2,
            "--out",
            path,
            *(() if steps is None else ("--steps", steps)),
        )
        out[f"baseline {system} {engine}"] = ensemble(path)
    for name, parts in RUNS.items():
        toml = folder / f"{name}.toml"
        toml.write_text(SMALL.format(**{"network": "", "buffer": "", "optimizer": "", **parts}))
        config = load_config(toml)
        checkpoint = idem_md.train(config, folder / name)
        seen: list[int] = []  # steps before it is interrupted, in the second iteration
        stop = {"stop": lambda seen=seen: len(seen) >= 13, "on_step": lambda seen=seen: seen.append(1)}
        idem_md.train(config, folder / f"{name}-stopped", **stop)
        idem_md.train(config, folder / f"{name}-stopped", resume=True)
        out[f"train {name}"] = {**weights(folder / name), "energy_calls": checkpoint.provenance["energy_calls"]}
        out[f"resume {name}"] = weights(folder / f"{name}-stopped")
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])  # commands put their own arguments there
    folder.mkdir(parents=True, exist_ok=True)
    result = fingerprint(folder)
    # In a file: from the first `--json` on stdout is for those objects alone.
    (folder / "fingerprint.json").write_text(json.dumps(result, indent=1))
