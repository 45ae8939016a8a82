"""How samples were made and what they cost: the record that every ensemble and checkpoint carries."""

from __future__ import annotations

import hashlib
import math
import platform
import subprocess
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

__all__ = ["Provenance", "bare", "finite_or_none", "hardware", "provenance", "sources", "versions"]


class Provenance(TypedDict, total=False):
    """The record, as it stands in files: JSON. What statistics depend on is not in here but in the ensemble itself.

    ``seconds``, ``nfe`` (network evaluations a sample) and ``energy_calls`` are the cost, and ``twin_calls`` if there
    is a twin; ``failed`` is the number of samples that failed, ``checkpoint`` the digest of the network and
    ``checkpoint_file`` where it was, if it is not a shipped one; ``shards`` (seed, k, m, n) are there while others of
    their set are missing, ``stopped_at_ess`` if so many effective samples were waited for. ``expected_ess_fraction`` is
    the share of effective samples that the plan was tuned to give, for the system that it was tuned for; ``twin_error``
    what `twin.twin_error` says of samples by a twin, ``twin_parameters`` of which cheaper potential they are. Engines
    add facts of their own (``steps``, ``acceptance``, ...).
    """

    system: str
    parameters: dict[str, Any]
    method: str
    kernel: str
    last_step: str
    plan: dict[str, Any]
    checkpoint: str
    checkpoint_file: str
    training: dict[str, float]
    seed: int
    seeds: list[int]
    chunks: list[list[int]]
    shards: list[list[int]]
    stopped_at_ess: float
    expected_ess_fraction: float
    device: str
    nfe: int
    energy_calls: int
    twin_calls: int
    twin_error: dict[str, float]
    twin_parameters: dict[str, Any]
    failed: int
    seconds: float
    hardware: str
    versions: dict[str, str]
    steps: int
    step: Any
    acceptance: float
    betas: list[float]
    ladders: int
    swaps: list[float]
    round_trips: float
    draw_inefficiency: float
    chains: int
    stride: int
    timestep_fs: float
    friction_per_ps: float
    discarded: float
    inefficiency: float
    kinetic_temperature: float
    chain_energies: list[float]
    batches: int
    refined: dict[str, Any]
    resample_seed: int
    reweighted_from_K: float


def hardware() -> str:
    """Machine and number of threads."""
    import torch

    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of this package and of others that numbers may depend on."""
    return {name: version(name) for name in ("idem-md", "torch", "numpy", "mdtraj")}


@cache  # this process goes on with the code that it has, whatever becomes of the files
def sources() -> str:
    """Which code this is: the commit, with a plus if files have changed since, or without a checkout the version and a
    digest of the files."""
    root = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", Path(__file__).name)  # it may lie in a checkout of something else
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{version('idem-md')}, {digest.hexdigest()[:12]}"


def provenance(system: str, parameters: dict[str, Any], energy_calls: int, start: float, **facts) -> Provenance:
    """The record of samples just made.

    Parameters
    ----------
    system : str
    parameters : dict
        Of the energy.
    energy_calls : int
    start : float
        `time.perf_counter` when it began.
    facts
        The rest, by the keys of `Provenance`.
    """
    record = Provenance(
        system=system,
        parameters=parameters,
        energy_calls=energy_calls,
        seconds=time.perf_counter() - start,
        hardware=hardware(),
        versions=versions(),
    )
    record.update(facts)  # type: ignore[typeddict-item]
    return record


def bare(value: Any) -> Any:
    """For `json.dumps`, ``default=``: numpy's scalars and arrays as plain numbers."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def finite_or_none(value) -> float | None:
    """A float for JSON, which knows neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
