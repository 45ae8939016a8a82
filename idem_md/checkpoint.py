"""Checkpoints: safetensors with a JSON header, versioned, written atomically; never pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .diffusion import PROPOSALS, Denoiser, DenoiserAccuracy, SamplingPlan
from .errors import FileFormatError, IdemError, UsageError
from .files import write_atomic
from .nets import (
    JUMPS,
    NETWORKS,
    HasFeatures,
    Jump,
    NetworkOptions,
    Springs,
    SpringsOptions,
    Stretch,
    parse_network,
)
from .systems import SYSTEMS, System, system_described
from .tables import parse_table
from .torch_state import own_torch

__all__ = [
    "Checkpoint",
    "build_denoiser",
    "build_jump",
    "build_springs",
    "build_stretch",
    "checkpoint_path",
    "load_checkpoint",
    "migrate",
    "read_tensors",
    "save_checkpoint",
    "weights_digest",
    "write_tensors",
]

FORMAT = "idem-md"
SHIPPED = Path(__file__).parent / "checkpoints"
VERSION = 3


def write_tensors(path: Path, kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header as one safetensors file of the given kind ('model' or 'state')."""
    whole = {k: v.cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    meta = {"format": FORMAT, "kind": kind, "version": str(VERSION), "json": text, "sha256": _checksum(whole, text)}
    write_atomic(path, save(whole, meta))


def _checksum(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """SHA-256 of a header and of names, types, shapes and bytes of tensors."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, in this version or an older one; the header comes as this version has it.

    Raises
    ------
    FileFormatError
        Missing, truncated, corrupt or foreign file, another kind or a newer version.
    """
    try:
        with safe_open(str(path), framework="pt") as handle:
            meta = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}
    except FileNotFoundError:
        raise FileFormatError(f"{path}: expected a checkpoint, there is no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a safetensors checkpoint, it cannot be read ({error})") from None
    if meta.get("format") != FORMAT or meta.get("kind") != kind:
        raise FileFormatError(
            f"{path}: expected an {FORMAT} {kind} file, got format {meta.get('format')!r}, kind {meta.get('kind')!r}"
        )
    if meta.get("version") not in [str(k) for k in range(1, VERSION + 1)]:
        raise FileFormatError(f"{path}: expected version {VERSION} or older, got {meta.get('version')!r}")
    if "sha256" in meta and meta["sha256"] != _checksum(tensors, meta.get("json", "")):  # older files have none
        raise FileFormatError(f"{path}: expected the contents that its checksum was made of, it is damaged")
    try:
        return tensors, migrate(json.loads(meta["json"]), int(meta["version"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path}: its JSON header is damaged ({error})") from None


def migrate(header: dict[str, Any], version: int) -> dict[str, Any]:
    """A header as the present version has it.

    Version 1 wrote every setting that any network or target has into each file; now each has its own. Those of others
    had no effect then. Until version 2 there was one method of sampling, and plans for it.
    """
    if version == 1:
        network = {"name": "painn", **header["config"]["network"]}  # the very first did not say
        known = NETWORKS[network["name"]].Options.model_fields
        config = {**header["config"], "network": {k: v for k, v in network.items() if k in known}}
        target = {"name": "posterior", **config["target"]}
        used = {"posterior": ("chains", "chain_steps"), "buffer": ()}.get(
            target["name"], ("n_samples", "max_score_norm")
        )
        config["target"] = {k: v for k, v in target.items() if k == "name" or k in used}
        header = {**header, "config": config}
    if version < 3 and "plans" in header:
        header = {**header, "plans": {"diffusion": header["plans"]}}
    return header


def build_denoiser(options: NetworkOptions, system: System) -> Denoiser:
    """A denoiser with fresh weights, drawn from torch's global generator.

    Raises
    ------
    UsageError
        A network that does not suit the system.
    """
    net = cast(torch.nn.Module, NETWORKS.find(options.name).build(options, system))
    return Denoiser(net, system.sigma_data, options.output)


def build_springs(options: SpringsOptions, net: torch.nn.Module, sigma_data: float) -> Springs:
    """Fresh springs for a network, drawn from torch's global generator.

    Raises
    ------
    UsageError
        A network without scalars.
    """
    if not isinstance(net, HasFeatures):
        raise UsageError(
            f"springs: expected a network with scalars on its atoms, such as painn, got {type(net).__name__}"
        )
    return Springs(options, net.n_scalars, net.length, sigma_data)


def build_jump(network: str, options: Mapping[str, Any], net: torch.nn.Module, sigma_data: float) -> Jump:
    """A fresh head for jumps on a network of that name, drawn from torch's global generator.

    Raises
    ------
    UsageError
        A network for which there is none.
    ConfigError
        Options that it does not know.
    """
    kind = JUMPS.find(network)
    return kind.build(parse_table(kind.Options, options, "jump"), net, sigma_data)


def build_stretch(options: SpringsOptions, jump: Jump) -> Stretch:
    """A fresh head that says how the flow stretches, beside one for jumps."""
    return Stretch(options, jump.n_scalars, jump.length, jump.sigma_data)


@dataclass(frozen=True)
class Checkpoint:
    """A trained denoiser with what is needed to sample from it.

    Attributes
    ----------
    denoiser : Denoiser
        In evaluation mode, averaged weights; with springs and jumps if they have been trained.
    accuracy : DenoiserAccuracy
        Its measured mean squared error.
    config : dict
        The training configuration, as JSON; ``training.TrainingConfig.parse`` makes one of it.
    system : System
        As described in the file, without its energy, unless it is built in.
    provenance : dict
        Seconds, steps, energy calls and versions of the training.
    plans : dict of dict of SamplingPlan
        By method and number of network evaluations.
    dear : SamplingPlan, optional
        For potentials whose calls are dear; see `frugal_plan`.
    digest : str
        SHA-256 of the file, first 16 hex digits; empty before it is written.
    """

    denoiser: Denoiser
    accuracy: DenoiserAccuracy
    config: dict[str, Any]
    system: System
    provenance: dict[str, Any]
    digest: str = ""
    plans: Mapping[str, Mapping[int, SamplingPlan]] = field(default_factory=dict, hash=False)
    dear: SamplingPlan | None = None

    def plan(self, nfe: int, method: str = "diffusion") -> SamplingPlan:
        """For so many network evaluations: that of the nearest number for which there is one, or `frugal_plan`."""
        plans = self.plans.get(method)
        if not plans:
            return self.frugal_plan(method)
        return plans[min(plans, key=lambda k: abs(math.log(k / nfe)))]

    def frugal_plan(self, method: str = "diffusion") -> SamplingPlan:
        """Few energy calls a sample: what was tuned, or the best kernel that there is with a single one."""
        plan = self.dear
        if plan is None:
            plan = SamplingPlan("elastic" if self.denoiser.has_springs else "analytic", "nested", options={"draws": 1})
        if PROPOSALS.find(plan.kernel).method == method:
            return plan
        return replace(plan, kernel=next(name for name, kind in PROPOSALS.items() if kind.method == method))

    @property
    def training_cost(self) -> dict[str, float]:
        """Seconds and energy calls of the training with its heads and the tuning of the plans, as far as known."""
        p = self.provenance
        heads = [p.get("springs") or {}, p.get("distillation") or {}]
        seconds = [p.get(key, 0.0) for key in ("seconds", "tuning_seconds")]
        seconds += [h.get("seconds", 0.0) + h.get("stretch_seconds", 0.0) for h in heads]
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


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file."""
    springs = cast("Springs | None", checkpoint.denoiser.springs)
    jump, stretch = cast("Jump | None", checkpoint.denoiser.jump), cast("Stretch | None", checkpoint.denoiser.stretch)
    header = {
        "config": checkpoint.config,
        "springs": None if springs is None else springs.options.model_dump(),
        "jump": None if jump is None else jump.options.model_dump(),
        "stretch": None if stretch is None else stretch.options.model_dump(),
        "system": checkpoint.system.describe(),
        "sigma": checkpoint.accuracy.sigma,
        "mse": checkpoint.accuracy.mse,
        "provenance": checkpoint.provenance,
        "plans": {
            method: {str(nfe): plan.table() for nfe, plan in plans.items()}
            for method, plans in checkpoint.plans.items()
        },
        "dear": None if checkpoint.dear is None else checkpoint.dear.table(),
    }
    write_tensors(path, "model", checkpoint.denoiser.state_dict(), header)


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
        name = config["network"]["name"]
        network = parse_network(config["network"], str(path))
        lo, hi = (float(config["noise"][key]) for key in ("sigma_min", "sigma_max"))
        if not 0 < lo < hi:
            raise ValueError(f"noise levels {lo} to {hi}")
        accuracy = DenoiserAccuracy(tuple(map(float, header["sigma"])), tuple(map(float, header["mse"])))
        provenance = dict(header["provenance"])
        plans = {
            method: {nfe: SamplingPlan.of(table) for nfe, table in sorted((int(k), t) for k, t in tables.items())}
            for method, tables in header.get("plans", {}).items()
        }
        dear = None if header.get("dear") is None else SamplingPlan.of(header["dear"])
        system_name = config["system"]
        system = system_described(system_name, header.get("system"))
        denoiser = build_denoiser(network, system)
        if header.get("springs") is not None:
            options = parse_table(SpringsOptions, header["springs"], str(path), "springs")
            denoiser.springs = build_springs(options, denoiser.net, system.sigma_data)
        if header.get("jump") is not None:
            denoiser.jump = jump = build_jump(name, header["jump"], denoiser.net, system.sigma_data)
            options = parse_table(SpringsOptions, header["stretch"], str(path), "stretch")
            denoiser.stretch = build_stretch(options, jump)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, IdemError) as problem:
        unknown = isinstance(problem, UsageError) and str(name) not in NETWORKS
        hint = "; import the module that registers it first" if unknown else ""
        raise FileFormatError(f"{path}: its header does not describe a model ({problem}{hint})") from None
    try:
        denoiser.load_state_dict(tensors)
    except RuntimeError as problem:
        last = str(problem).splitlines()[-1].strip()
        raise FileFormatError(f"{path}: its tensors do not fit its configuration ({last})") from None
    if any(not bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise FileFormatError(f"{path}: expected finite weights, got NaN or infinity")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    denoiser.eval().requires_grad_(False)
    return Checkpoint(denoiser, accuracy, config, system, provenance, digest, plans, dear)
