"""Checkpoints: safetensors with a JSON header, versioned, written atomically; never pickle."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from .checks import check_float
from .diffusion import KERNELS, Denoiser, DenoiserAccuracy, DiffusionKernel, SamplingPlan, best_kernel
from .energies import Twin
from .errors import FileFormatError, IdemError, UsageError
from .nets import HEADS, NETWORKS, Head, NetworkOptions, TakesTemperature, parse_network
from .systems import SYSTEMS, System, system_described
from .tensor_files import read_tensors, write_tensors
from .torch_state import own_torch
from .twin import twin_of, twin_table, twin_tensors

__all__ = [
    "Checkpoint",
    "Rung",
    "build_denoiser",
    "checkpoint_path",
    "load_checkpoint",
    "refuse_part",
    "save_checkpoint",
    "weights_digest",
]

SHIPPED = Path(__file__).parent / "checkpoints"


def build_denoiser(options: NetworkOptions, system: System, temperatures: bool = False) -> Denoiser:
    """A denoiser with fresh weights, drawn from torch's global generator; with the temperature as an input, if it is
    for several.

    Raises
    ------
    UsageError
        A network that does not suit the system, or that takes no temperature.
    """
    net = cast(torch.nn.Module, NETWORKS.find(options.name).build(options, system))
    vars(net)["registered_name"] = options.name  # by which heads know what kind it is
    denoiser = Denoiser(net, system.sigma_data, options.output)
    if temperatures:
        if not isinstance(net, TakesTemperature):
            raise UsageError(
                f"network.name: expected one that takes the temperature, such as painn, got {options.name!r}"
            )
        denoiser.add_temperature()
    return denoiser


Plans = Mapping[str, Mapping[int, SamplingPlan]]


@dataclass(frozen=True)
class Rung:
    """What a checkpoint for a range of temperatures knows of one of them.

    Attributes
    ----------
    kelvin : float
    accuracy, plans, expensive
        See `Checkpoint`.
    planned_at : float, optional
        The temperature (K) that the plans were tuned for, its own or that of another rung.
    """

    kelvin: float
    accuracy: DenoiserAccuracy
    plans: Plans = field(default_factory=dict, hash=False)
    expensive: SamplingPlan | None = None
    planned_at: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained denoiser with what is needed to sample from it.

    Attributes
    ----------
    denoiser : Denoiser
        In evaluation mode, averaged weights; with the heads that have been trained.
    accuracy : DenoiserAccuracy
        Its measured mean squared error.
    config : dict
        The training configuration, as JSON; ``training.TrainingConfig.parse`` makes one of it.
    system : System
        As described in the file, without its energy, unless it is built in.
    provenance : dict
        Seconds, steps, energy calls and versions of the training; ``heads`` has those of each head.
    plans : dict of dict of SamplingPlan
        By method and number of network evaluations.
    expensive : SamplingPlan, optional
        For potentials whose calls are expensive; see `frugal_plan`.
    rungs : tuple of Rung
        From the coldest to the hottest, if the network was trained for a range of temperatures; see `at`.
    planned_at : float, optional
        What `at` gives: the temperature (K) that the plans were tuned for.
    twin : Twin, optional
        With which the network was trained in the place of an expensive potential.
    digest : str
        SHA-256 of the file, first 16 hex digits; empty before it is written.
    path : str
        The file that it was read from, if it is not a shipped one.
    """

    denoiser: Denoiser
    accuracy: DenoiserAccuracy
    config: dict[str, Any]
    system: System
    provenance: dict[str, Any]
    digest: str = ""
    plans: Plans = field(default_factory=dict, hash=False)
    expensive: SamplingPlan | None = None
    rungs: tuple[Rung, ...] = ()
    planned_at: float | None = None
    twin: Twin | None = field(default=None, compare=False)
    path: str = field(default="", compare=False)

    @property
    def tuned_here(self) -> bool:
        """Whether plans were tuned for the temperature of the system, and not for another rung of a range."""
        known = self.rungs[self.own_rung].planned_at if self.rungs else self.planned_at
        single = self.denoiser.log_beta is None
        return single or (known is not None and math.isclose(known, self.system.units.temperature_kelvin))

    def at(self, temperature_K: float) -> Checkpoint:
        """The checkpoint for one of the temperatures that the network was trained for: the error of the network is
        interpolated between rungs, plans are those of the nearest one.

        Raises
        ------
        UsageError
            Another temperature, or a network that was trained for a single one.
        """
        kelvin, rungs = check_float("temperature_K", temperature_K, above=0.0), self.rungs
        if not rungs:
            raise UsageError(
                f"temperature_K: expected a network for a range of temperatures, got that of {self.system.name!r}"
            )
        low, high = rungs[0].kelvin, rungs[-1].kelvin
        if not low * (1 - 1e-9) <= kelvin <= high * (1 + 1e-9):
            raise UsageError(
                f"temperature_K: expected one from {low:g} to {high:g} K, for which the network was trained, "
                f"got {kelvin:g}"
            )
        above = next(k for k in range(1, len(rungs)) if kelvin <= rungs[k].kelvin or k == len(rungs) - 1)
        cold, hot = rungs[above - 1 : above + 1]
        share = min(max(math.log(kelvin / cold.kelvin) / math.log(hot.kelvin / cold.kelvin), 0.0), 1.0)
        nearest = hot if share > 0.5 else cold
        return replace(
            self,
            denoiser=self.denoiser.at(math.log(self.system.units.temperature_kelvin / kelvin)),
            accuracy=cold.accuracy.between(hot.accuracy, share),
            system=self.system.at(kelvin),
            plans=nearest.plans,
            expensive=nearest.expensive,
            rungs=(),
            planned_at=nearest.planned_at,
        )

    @property
    def log_betas(self) -> torch.Tensor:
        """Logarithm of the inverse temperature of each rung, relative to the system's own; float32."""
        own = self.system.units.temperature_kelvin
        log_betas = [math.log(own / rung.kelvin) for rung in self.rungs]
        return torch.tensor(log_betas, dtype=torch.float32, device="cpu")

    @property
    def own_rung(self) -> int:
        """The rung whose temperature is nearest to the system's own; 0 if there is only that."""
        return int(self.log_betas.abs().argmin()) if self.rungs else 0

    def plan(self, nfe: int, method: str = DiffusionKernel.method) -> SamplingPlan:
        """For so many network evaluations: that of the nearest number for which there is one, or `frugal_plan`."""
        plans = self.plans.get(method)
        if not plans:
            return replace(self.frugal_plan(method), nfe=nfe)
        return replace(plans[min(plans, key=lambda k: abs(math.log(k / nfe)))], nfe=nfe)

    def frugal_plan(self, method: str = DiffusionKernel.method) -> SamplingPlan:
        """Few energy calls a sample, for any number of evaluations: what was tuned, or the best kernel that there is
        with a single call.

        Raises
        ------
        UsageError
            No kernel of the method suits the denoiser.
        """
        plan = self.expensive
        if plan is None:
            kernel = best_kernel(self.denoiser, DiffusionKernel.method)
            plan = SamplingPlan(kernel, "nested", options={"candidates": 1})
        if KERNELS.find(plan.kernel).method == method:
            return plan
        return replace(plan, kernel=best_kernel(self.denoiser, method))

    def with_head_record(self, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance with what the training of a head was and has cost."""
        return {**self.provenance, "heads": {**self.provenance.get("heads", {}), name: dict(record)}}

    @property
    def training_cost(self) -> dict[str, float]:
        """Seconds and energy calls of the training with its heads and the tuning of the plans, as far as known."""
        p = self.provenance
        seconds = [p.get(key, 0.0) for key in ("seconds", "tuning_seconds")]
        seconds += [head.get("seconds", 0.0) for head in p.get("heads", {}).values()]
        return {"seconds": sum(seconds), "energy_calls": p.get("energy_calls", 0) + p.get("tuning_energy_calls", 0)}

    @property
    def noise_range(self) -> tuple[float, float]:
        """Lowest and highest noise level of the training, in reduced length."""
        return self.config["noise"]["sigma_min"], self.config["noise"]["sigma_max"]


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 of names and weights of a network or a part of one, first 16 hex digits."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def refuse_part(checkpoint: Checkpoint) -> None:
    """Raise `UsageError` for a checkpoint `at` one temperature of its range: the others would be lost."""
    if checkpoint.denoiser.log_beta is not None and not checkpoint.rungs:
        raise UsageError(
            "checkpoint: expected one for the whole range of temperatures that its network was trained for, as "
            f"load_checkpoint reads it, got that at {checkpoint.system.units.temperature_kelvin:g} K"
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file.

    Raises
    ------
    UsageError
        See `refuse_part`.
    """
    refuse_part(checkpoint)
    heads = {name: cast(Head, head).options.model_dump() for name, head in checkpoint.denoiser.heads.items()}
    header = {
        "config": checkpoint.config,
        "heads": heads,
        "system": checkpoint.system.describe(),
        "provenance": checkpoint.provenance,
        **_table_of(checkpoint),
    }
    if checkpoint.rungs:
        header["rungs"] = [
            {"kelvin": rung.kelvin, "planned_at": rung.planned_at, **_table_of(rung)} for rung in checkpoint.rungs
        ]
    tensors = checkpoint.denoiser.state_dict()
    if checkpoint.twin is not None:
        tensors, header["twin"] = {**tensors, **twin_tensors(checkpoint.twin)}, twin_table(checkpoint.twin)
    write_tensors(path, "model", tensors, header)


def _table_of(known: Checkpoint | Rung) -> dict[str, Any]:
    """Accuracy and plans as JSON; the inverse is `_parsed`."""
    return {
        "sigma": known.accuracy.sigma,
        "mse": known.accuracy.mse,
        "plans": {
            method: {str(nfe): plan.table() for nfe, plan in plans.items()} for method, plans in known.plans.items()
        },
        "expensive": None if known.expensive is None else known.expensive.table(),
    }


def _parsed(table: Mapping[str, Any]) -> tuple[DenoiserAccuracy, Plans, SamplingPlan | None]:
    accuracy = DenoiserAccuracy(tuple(map(float, table["sigma"])), tuple(map(float, table["mse"])))
    plans = {
        method: {nfe: replace(SamplingPlan.of(t), nfe=nfe) for nfe, t in sorted((int(k), t) for k, t in tables.items())}
        for method, tables in table.get("plans", {}).items()
    }
    return accuracy, plans, None if table.get("expensive") is None else SamplingPlan.of(table["expensive"])


def _parsed_rung(table: Mapping[str, Any]) -> Rung:
    planned_at = table.get("planned_at")
    return Rung(float(table["kelvin"]), *_parsed(table), None if planned_at is None else float(planned_at))


def checkpoint_path(source) -> Path:
    """Where the checkpoint of a named system, a run folder or a file lies.

    Raises
    ------
    UsageError
        Neither a shipped system nor an existing path.
    """
    if not isinstance(source, (str, os.PathLike)) or not str(source):
        raise UsageError(f"system: expected a name, a run folder or a checkpoint file, got {source!r}")
    path = Path(source)
    if str(source) in SYSTEMS:
        path = SHIPPED / str(source) / "model.safetensors"
        if not path.exists():
            raise UsageError(f"system: no checkpoint is shipped for {source!r}; train one with idem-md train {source}")
        return path
    if os.path.isdir(path):
        return path / "model.safetensors"
    if not os.path.exists(path):
        raise UsageError(
            f"system: expected one of {', '.join(SYSTEMS)}, a run folder or a checkpoint file, got {str(source)!r}"
        )
    return path


@own_torch
def load_checkpoint(path: Path) -> Checkpoint:
    """Read a model file written by `save_checkpoint`.

    Raises
    ------
    FileFormatError
        Not such a file, or its tensors do not fit its own configuration.
    """
    path = Path(path)
    tensors, header = read_tensors(path, "model")
    try:
        config = dict(header["config"])
        names = [config["network"]["name"], *header["heads"]]
        network = parse_network(config["network"], str(path))
        lo, hi = (float(config["noise"][key]) for key in ("sigma_min", "sigma_max"))
        if not 0 < lo < hi:
            raise ValueError(f"noise levels {lo} to {hi}")
        provenance, (accuracy, plans, expensive) = dict(header["provenance"]), _parsed(header)
        rungs = tuple(map(_parsed_rung, header.get("rungs", ())))
        if len(rungs) == 1 or [rung.kelvin for rung in rungs] != sorted({rung.kelvin for rung in rungs}):
            raise ValueError("rungs: expected several, from the coldest to the hottest")
        system_name = config["system"]
        system = system_described(system_name, header.get("system"))
        denoiser = build_denoiser(network, system, bool(rungs))
        in_order = [head for head in HEADS if head in header["heads"]]
        for head in in_order + [head for head in header["heads"] if head not in HEADS]:
            build = HEADS.find(head)
            denoiser.heads[head] = build(header["heads"][head], denoiser.net, system.sigma_data, denoiser.heads)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, IdemError) as problem:
        unknown = isinstance(problem, UsageError) and not {*map(str, names)} <= NETWORKS.keys() | HEADS.keys()
        hint = "; import the module that registers it first" if unknown else ""
        raise FileFormatError(f"{path}: its header does not describe a model ({problem}{hint})") from None
    twin = None
    if header.get("twin") is not None:
        twin = twin_of(header["twin"], tensors, system, str(path))
        tensors = {key: tensor for key, tensor in tensors.items() if key not in twin_tensors(twin)}
    try:
        denoiser.load_state_dict(tensors)
    except RuntimeError as problem:
        last = str(problem).splitlines()[-1].strip()
        raise FileFormatError(f"{path}: its tensors do not fit its configuration ({last})") from None
    if any(not bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise FileFormatError(f"{path}: expected finite weights, got NaN or infinity")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    denoiser.eval().requires_grad_(False)
    where = "" if SHIPPED in path.parents else os.path.abspath(path)
    return Checkpoint(
        denoiser, accuracy, config, system, provenance, digest, plans, expensive, rungs, twin=twin, path=where
    )
