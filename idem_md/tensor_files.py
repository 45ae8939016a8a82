"""Files of tensors: safetensors with a JSON header, versioned, written atomically; never pickle. Older versions are
read as the present one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .diffusion import DiffusionKernel
from .errors import FileFormatError
from .files import write_atomic
from .nets import NETWORKS

__all__ = ["migrate", "read_tensors", "write_tensors"]

FORMAT = "idem-md"
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
