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

from .diffusion import KERNELS, Denoiser, DenoiserAccuracy, DiffusionKernel, SamplingPlan, best_kernel
from .errors import FileFormatError, IdemError, UsageError
from .files import write_atomic
from .nets import HEADS, NETWORKS, Head, NetworkOptions, parse_network
from .systems import SYSTEMS, System, system_described
from .torch_state import own_torch

__all__ = [
    "Checkpoint",
    "build_denoiser",
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
VERSION = 4
# Heads as versions 1 to 3 called them.
OLD_HEADS = {"springs": "elastic_network", "jump": "flow_map", "stretch": "flow_covariance"}


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
        header = json.loads(meta["json"])
        return migrate_tensors(tensors, int(meta["version"])), migrate(header, int(meta["version"]))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
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
        header = {**header, "plans": {DiffusionKernel.method: header["plans"]}}
    return _with_heads_by_name(header) if version < 4 else header


def _with_heads_by_name(header: dict[str, Any]) -> dict[str, Any]:
    """Until version 3 every head had a key of its own, and so had its training, that of two heads in one."""
    header = dict(header)
    old = {name: header.pop(key, None) for key, name in OLD_HEADS.items()}
    header["heads"] = {name: options for name, options in old.items() if options is not None}
    header["expensive"] = header.pop("dear", None)
    if "provenance" in header:
        provenance = dict(header["provenance"])
        springs, distillation = provenance.pop("springs", None), provenance.pop("distillation", None)
        records = dict(provenance.get("heads", {}))
        if springs is not None:
            records["elastic_network"] = springs
        if distillation is not None:
            rest = {key: value for key, value in distillation.items() if not key.startswith("stretch_")}
            if "jump_error" in rest:
                rest["flow_map_error"] = rest.pop("jump_error")
            records["flow_map"] = rest
            theirs = {"steps": "stretch_steps", "seconds": "stretch_seconds"}
            records["flow_covariance"] = {
                key: distillation[name] for key, name in theirs.items() if name in distillation
            }
        header["provenance"] = {**provenance, "heads": records} if records else provenance
    if "stretch_steps" in header.get("settings", {}):  # of a distillation under way
        header["settings"] = {
            "covariance_steps" if k == "stretch_steps" else k: v for k, v in header["settings"].items()
        }
    return header


def migrate_tensors(tensors: dict[str, torch.Tensor], version: int) -> dict[str, torch.Tensor]:
    """Tensors by the names that the present version has for them."""
    if version > 3:
        return tensors
    renamed = {}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        renamed[f"heads.{OLD_HEADS[part]}.{rest}" if part in OLD_HEADS else key] = tensor
    return renamed


def build_denoiser(options: NetworkOptions, system: System) -> Denoiser:
    """A denoiser with fresh weights, drawn from torch's global generator.

    Raises
    ------
    UsageError
        A network that does not suit the system.
    """
    net = cast(torch.nn.Module, NETWORKS.find(options.name).build(options, system))
    vars(net)["registered_name"] = options.name  # by which heads know what kind it is
    return Denoiser(net, system.sigma_data, options.output)


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
    expensive: SamplingPlan | None = None

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


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file."""
    heads = {name: cast(Head, head).options.model_dump() for name, head in checkpoint.denoiser.heads.items()}
    header = {
        "config": checkpoint.config,
        "heads": heads,
        "system": checkpoint.system.describe(),
        "sigma": checkpoint.accuracy.sigma,
        "mse": checkpoint.accuracy.mse,
        "provenance": checkpoint.provenance,
        "plans": {
            method: {str(nfe): plan.table() for nfe, plan in plans.items()}
            for method, plans in checkpoint.plans.items()
        },
        "expensive": None if checkpoint.expensive is None else checkpoint.expensive.table(),
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
        names = [config["network"]["name"], *header["heads"]]
        network = parse_network(config["network"], str(path))
        lo, hi = (float(config["noise"][key]) for key in ("sigma_min", "sigma_max"))
        if not 0 < lo < hi:
            raise ValueError(f"noise levels {lo} to {hi}")
        accuracy = DenoiserAccuracy(tuple(map(float, header["sigma"])), tuple(map(float, header["mse"])))
        provenance = dict(header["provenance"])
        plans = {
            method: {
                nfe: replace(SamplingPlan.of(t), nfe=nfe) for nfe, t in sorted((int(k), t) for k, t in tables.items())
            }
            for method, tables in header.get("plans", {}).items()
        }
        expensive = None if header.get("expensive") is None else SamplingPlan.of(header["expensive"])
        system_name = config["system"]
        system = system_described(system_name, header.get("system"))
        denoiser = build_denoiser(network, system)
        in_order = [head for head in HEADS if head in header["heads"]]
        for head in in_order + [head for head in header["heads"] if head not in HEADS]:
            build = HEADS.find(head)
            denoiser.heads[head] = build(header["heads"][head], denoiser.net, system.sigma_data, denoiser.heads)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, IdemError) as problem:
        unknown = isinstance(problem, UsageError) and not {*map(str, names)} <= NETWORKS.keys() | HEADS.keys()
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
    return Checkpoint(denoiser, accuracy, config, system, provenance, digest, plans, expensive)
