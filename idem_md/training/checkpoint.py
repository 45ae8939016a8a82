"""Checkpoints: safetensors with a JSON header, versioned, written atomically; never pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..checks import FileFormatError, UsageError
from ..diffusion import Denoiser, DenoiserError
from ..files import write_atomic
from ..nets import EGNN, MLP, PaiNN
from ..systems import SYSTEMS, System, get_system
from .config import NetworkConfig, TrainingConfig

__all__ = ["Checkpoint", "build_denoiser", "load_checkpoint", "read_tensors", "save_checkpoint",
           "write_tensors"]

FORMAT = "idem-md"
VERSION = 1


def write_tensors(path: Path, kind: str, tensors: dict[str, torch.Tensor], header: dict) -> None:
    """Write tensors and a JSON header as one safetensors file of the given kind ('model' or 'state')."""
    meta = {"format": FORMAT, "kind": kind, "version": str(VERSION), "json": json.dumps(header, sort_keys=True)}
    write_atomic(path, save({k: v.contiguous() for k, v in tensors.items()}, meta))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what `write_tensors` wrote.

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
        raise FileFormatError(f"{path}: expected an {FORMAT} {kind} file, got format {meta.get('format')!r}, "
                              f"kind {meta.get('kind')!r}")
    if not meta.get("version", "").isdigit() or int(meta["version"]) > VERSION:
        raise FileFormatError(f"{path}: expected version {VERSION} or older, got {meta.get('version')!r}")
    try:
        return tensors, json.loads(meta["json"])
    except (KeyError, json.JSONDecodeError) as error:
        raise FileFormatError(f"{path}: its JSON header is damaged ({error})") from None


def build_denoiser(config: NetworkConfig, system: System) -> Denoiser:
    """A denoiser with fresh weights, drawn from torch's global generator.

    Raises
    ------
    UsageError
        A network that does not suit the system.
    """
    points = len(system.elements) == 1
    if points != (config.name == "mlp"):
        raise UsageError(f"network.name: expected {'mlp' if points else 'painn or egnn'} for {system.name!r}, got {config.name!r}")
    if config.name == "painn":
        net = PaiNN(config.channels, config.layers, config.n_basis, config.length, system.sigma_data, config.cutoff, system.kinds)
    elif config.name == "egnn":
        if len(set(system.kinds)) > 1:
            raise UsageError(f"network.name: expected painn for {system.name!r}, whose atoms are of several kinds, got 'egnn'")
        net = EGNN(config.channels, config.layers)
    else:
        net = MLP(config.channels, config.layers, system.energy().n_dims, system.sigma_data)
    return Denoiser(net, system.sigma_data, config.output)


@dataclass(frozen=True)
class Checkpoint:
    """A trained denoiser with what is needed to sample from it.

    Attributes
    ----------
    denoiser : Denoiser
        In evaluation mode, averaged weights.
    error : DenoiserError
        Its measured mean squared error, for the analytic kernel.
    config : TrainingConfig
    system : System
        As described in the file, without its energy, unless it is built in.
    provenance : dict
        Seconds, steps, energy calls and versions of the training.
    digest : str
        SHA-256 of the file, first 16 hex digits; empty before it is written.
    """

    denoiser: Denoiser
    error: DenoiserError
    config: TrainingConfig
    system: System
    provenance: dict
    digest: str = ""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file."""
    write_tensors(path, "model", checkpoint.denoiser.state_dict(), {
        "config": checkpoint.config.model_dump(), "system": checkpoint.system.describe(),
        "sigma": checkpoint.error.sigma, "mse": checkpoint.error.mse,
        "provenance": checkpoint.provenance,
    })


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
        config = TrainingConfig.parse(header["config"], str(path))
        error = DenoiserError(tuple(map(float, header["sigma"])), tuple(map(float, header["mse"])))
        provenance = dict(header["provenance"])
        system = get_system(config.system) if config.system in SYSTEMS else System.described(header["system"])
    except (KeyError, TypeError, ValueError) as problem:
        raise FileFormatError(f"{path}: its header does not describe a model ({problem})") from None
    denoiser = build_denoiser(config.network, system)
    try:
        denoiser.load_state_dict(tensors)
    except RuntimeError as problem:
        raise FileFormatError(f"{path}: its tensors do not fit its configuration ({str(problem).splitlines()[-1].strip()})") from None
    if any(not bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise FileFormatError(f"{path}: expected finite weights, got NaN or infinity")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Checkpoint(denoiser.eval().requires_grad_(False), error, config, system, provenance, digest)
