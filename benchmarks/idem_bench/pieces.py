"""Pieces of the table of all systems: each is measured once, and kept."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from idem_md.analysis import Reference, energy_w2, raw_metrics
from idem_md.analysis.protocols import exploded
from idem_md.baselines import reference_engine
from idem_md.checkpoint import load_checkpoint
from idem_md.energies import Modes
from idem_md.ensemble import WeightedEnsemble, WeightWarning, load_ensemble
from idem_md.errors import (
    BudgetExhausted,
    ConfigError,
    EnergyError,
    FileFormatError,
    IdemError,
    Interrupted,
    ResultError,
    UsageError,
)
from idem_md.provenance import finite_or_none
from idem_md.sampler import Sampler, load_sampler
from idem_md.systems import get_system
from idem_md.tables import tomllib
from idem_md.training import TrainingConfig, preset, train
from idem_md.training.budgets import Budget

from .methods import measure_methods

__all__ = ["PROTOCOLS", "Piece", "methods_file", "pieces_of", "raw_file", "reference_sets", "shipped"]

# System -> budget, protocol and published numbers.
PROTOCOLS: dict[str, dict[str, Any]] = tomllib.loads(
    files(__package__).joinpath("published.toml").read_text(encoding="utf-8")
)
# Network evaluations at which raw samples of shipped networks are measured.
RAW_NFES = (6, 25)
# Seeds of samples, apart from those of training.
SEED = 1000
# Samples of each of the two exact sets.
REFERENCE_SAMPLES = 10_000


@dataclass(frozen=True)
class Piece:
    """A row of the table.

    Attributes
    ----------
    system, settings : str
    seed : int or None
    measure : callable (deadline) -> mapping or None
        Columns; None if there was not enough time until the deadline, on the clock of `time.monotonic`: what was done
        is kept, and the next call goes on.
    asked : dict
        What it depends on; a row of other numbers is measured again.
    """

    system: str
    settings: str
    seed: int | None
    measure: Callable[[float], Mapping[str, Any] | None]
    asked: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For files."""
        words = self.settings.replace(",", "").split()
        return "-".join([self.system, *words, *([] if self.seed is None else [str(self.seed)])])


def reference_sets(system: str, folder: Path, n: int = REFERENCE_SAMPLES) -> tuple[WeightedEnsemble, WeightedEnsemble]:
    """Two independent exact sets, kept in ``folder`` once made: parallel tempering, or a formula where there is one.

    The same as ``idem-md baseline SYSTEM --engine pt|exact -n N --seed 0|1``.
    """
    engine = reference_engine(system)
    sets = []
    for seed in (0, 1):
        path = folder / f"{system}-{engine.name}-{seed}.dcd"
        if not path.with_suffix(".npz").exists():  # which is written last
            folder.mkdir(parents=True, exist_ok=True)
            engine.run(system, n, seed=seed).save(path)
        sets.append(load_ensemble(path))
    return sets[0], sets[1]


def raw_file(out: Path, system: str, settings: str) -> Path:
    """Where raw samples are kept for the figures."""
    return out / "raw" / f"{system}-{settings}.dcd"


@cache
def shipped(system: str) -> Sampler:
    """The sampler of a shipped network, read once."""
    return load_sampler(system)


def methods_file(out: Path, system: str) -> Path:
    """Where the rows of `measure_methods` are kept."""
    return out / "methods" / f"{system}.jsonl"


def _digest(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """The configuration without options that are off, where there are rows of before there were any: they stay
    valid."""
    table = config.model_dump()
    for name, off in (("weighted", 0), ("exchanges", 0), ("torsions", 0), ("start", "auto")):
        if table["buffer"][name] == off:
            del table["buffer"][name]
    for name in ("pair_factors", "normalised", "refinements"):
        if not table["network"].get(name, True):
            del table["network"][name]
    if not table["least_gain"]:
        del table["least_gain"]
    if table["ladder"] is None:  # without which ``auto`` is what there was
        del table["ladder"]
    return table


def _centres(system: str):
    energy = get_system(system).energy()
    return energy.means if isinstance(energy, Modes) else None


def _keep(e: WeightedEnsemble, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    e.save(path)


@dataclass(frozen=True)
class _Measuring:
    """What all pieces of a system need."""

    system: str
    out: Path
    n: int | None

    @property
    def protocol(self) -> dict[str, Any]:
        return PROTOCOLS[self.system]

    def reference(self) -> Reference:
        return Reference.of(reference_sets(self.system, self.out / "reference")[0])

    def sampler(self) -> Sampler:
        return shipped(self.system)

    def metrics(self, e: WeightedEnsemble) -> dict[str, Any]:
        """Metrics of raw samples, with what they cost."""
        try:
            found: dict[str, Any] = raw_metrics(e.positions, e.energies, self.reference(), _centres(self.system))
        except ResultError as error:  # such as that every sample exploded: that belongs into the table
            found = {"failure": str(error)}
        p = e.provenance
        found["exploded_share"] = float(exploded(e.energies, self.reference().energies).mean())
        cost = {"sampling_seconds": p["seconds"], "sampling_energy_calls": p["energy_calls"], "kernel": p["kernel"]}
        return found | cost | {"nfe": p["nfe"], "last_step": p["last_step"]}

    def floor(self, _: float) -> dict[str, Any]:
        """What a second exact set of the same size gets."""
        exact, second = reference_sets(self.system, self.out / "reference")
        size = self.n or self.protocol["raw"]["n"]
        mean, error = second.mean_energy
        found = raw_metrics(second.positions[:size], second.energies[:size], Reference.of(exact), _centres(self.system))
        return found | {"mean_energy": mean, "mean_energy_err": error}

    def shipped_raw(self, nfe: int, _: float) -> dict[str, Any]:
        """Raw samples of the shipped network, the plan's last step included."""
        raw = self.sampler().sample(self.n or self.protocol["raw"]["n"], nfe, seed=SEED, weighted=False)
        _keep(raw, raw_file(self.out, self.system, f"shipped-{nfe}"))
        return self.metrics(raw)

    def shipped_weighted(self, _: float) -> dict[str, Any]:
        """Weighted samples by the default plan."""
        exact, e = self.reference(), self.sampler().sample(self.n or self.protocol["weighted"]["n"], seed=SEED)
        mean, error = e.mean_energy
        p = e.provenance
        return {
            "energy_w2": energy_w2(e.energies[e.alive], exact.energies, e.weights[e.alive], exact.weights),
            "ess_fraction": e.ess_fraction,
            "pareto_k": finite_or_none(e.pareto_k),
            "ess_per_second": e.ess / p["seconds"],
            "log_z": e.log_z,
            "log_z_err": e.log_z_err,
            "mean_energy": mean,
            "mean_energy_err": error,
            "n": len(e),
            "failed": p["failed"],
            "nfe": p["nfe"],
            "kernel": p["kernel"],
            "last_step": p["last_step"],
            "sampling_seconds": p["seconds"],
            "sampling_energy_calls": p["energy_calls"],
        }

    def methods(self, deadline: float) -> dict[str, Any] | None:
        """Effective samples by kernel and number of evaluations, the best of them as columns."""
        path, best = methods_file(self.out, self.system), dict[str, Any]()
        path.parent.mkdir(parents=True, exist_ok=True)
        for row in measure_methods(self.sampler(), path, self.n or self.protocol["methods"]["n"], SEED):
            best = max(best or row, row, key=lambda r: r["ess_fraction"])
            if time.monotonic() > deadline:
                return None
        columns = ("n", "ess_fraction", "pareto_k", "nfe", "kernel", "last_step", "log_z", "log_z_err")
        return {key: best[key] for key in columns}

    def trained(
        self, name: str, seed: int, config: TrainingConfig, minutes: float, deadline: float
    ) -> dict[str, Any] | None:
        """A training from nothing, and raw samples by the protocol."""
        # Other settings have a folder of their own, which is neither gone on with nor taken for one of these.
        folder = self.out / f"{self.system}-{name}-{seed}-{_digest(_settings(config), minutes)}"
        cost = self._train(folder, config, minutes, deadline)
        if cost is None or "failure" in cost:
            return cost
        protocol = self.protocol["raw"]
        n, kernel, nfe = self.n or protocol["n"], protocol["kernel"], protocol["nfe"]
        try:
            raw = load_sampler(folder).sample(n, nfe, seed=SEED + seed, kernel=kernel, last_step="plain")
            found = self.metrics(raw) | {"ess_fraction": raw.ess_fraction}
        except (ResultError, EnergyError) as error:
            return {"failure": str(error)} | cost
        if seed == 0:
            _keep(raw, raw_file(self.out, self.system, name))
        return found | cost

    @staticmethod
    def _train(folder: Path, config: TrainingConfig, minutes: float, deadline: float) -> dict[str, Any] | None:
        model, state = folder / "model.safetensors", folder / "state.safetensors"

        def is_done() -> bool:
            p = load_checkpoint(model).provenance if model.exists() else {"finished": False, "seconds": 0.0}
            # A slow machine may come to the end of the time before that of the schedule.
            return bool(p["finished"]) or Budget(minutes).used(p["seconds"], 0) >= 1

        if not is_done():
            try:
                train(
                    config,
                    folder,
                    resume=state.exists(),
                    minutes=minutes,
                    stop=lambda: time.monotonic() > deadline,
                )
            except (UsageError, ConfigError, FileFormatError):  # nothing that training could be blamed for
                raise
            except IdemError as error:
                if isinstance(error, (BudgetExhausted, Interrupted)) and time.monotonic() > deadline:
                    return None
                return {"failure": str(error)}
            if not is_done():
                return None
        p = load_checkpoint(model).provenance
        return {
            "training_seconds": p["seconds"],
            "training_energy_calls": p["energy_calls"],
            "training_threads": p["threads"],
        }


def _quietly(measure: Callable[[float], Mapping[str, Any] | None]):
    """Few effective samples are what the table is about."""

    def run(deadline: float) -> Mapping[str, Any] | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightWarning)
            return measure(deadline)

    return run


def pieces_of(
    system: str, presets: tuple[str, ...], seeds: int | None, minutes: float | None, n: int | None, out: Path
) -> Iterator[Piece]:
    """All pieces of a system, in the order of the table; None is what the protocol asks for."""
    m, protocol = _Measuring(system, out, n), PROTOCOLS[system]
    raw_n, weighted_n, methods_n = (n or protocol[key]["n"] for key in ("raw", "weighted", "methods"))

    def piece(settings: str, measure, seed: int | None = None, **asked) -> Piece:
        return Piece(system, settings, seed, _quietly(measure), asked)

    yield piece("exact, second set", m.floor, n=raw_n)
    network = m.sampler().checkpoint.digest
    for nfe in RAW_NFES:
        yield piece(f"shipped, raw, {nfe}", partial(m.shipped_raw, nfe), n=raw_n, network=network)
    yield piece("shipped, weighted", m.shipped_weighted, n=weighted_n, network=network)
    if protocol["methods"]["n"]:
        yield piece("shipped, best method", m.methods, n=methods_n, network=network)
    time_each = protocol["minutes"] if minutes is None else minutes
    for name in presets:
        for seed in range(protocol["seeds"] if seeds is None else seeds):
            config = preset(system, name, seed)
            asked = {"n": raw_n, "minutes": time_each, "config": _digest(_settings(config))}
            asked |= {key: protocol["raw"][key] for key in ("kernel", "nfe")}
            yield piece(name, partial(m.trained, name, seed, config, time_each), seed, **asked)
