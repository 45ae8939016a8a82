"""Processes that torchrun or srun has started to train together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

__all__ = ["Place", "launched", "placed"]


class Place(NamedTuple):
    """Where this process computes, with which others, and whether it is the one that speaks."""

    device: torch.device | str
    group: ProcessGroup | None = None
    first: bool = True


def launched(environment: Mapping[str, str]) -> tuple[int, int]:
    """Processes a node and nodes, by what torchrun or srun has put there.

    Raises
    ------
    UsageError
        Neither of them has started this process.
    """
    from ..errors import UsageError

    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return here, int(environment["WORLD_SIZE"]) // here
    if "SLURM_PROCID" in environment:
        return int(environment.get("SLURM_NTASKS_PER_NODE", 1)), int(environment.get("SLURM_NNODES", 1))
    raise UsageError("distributed: expected to be started by torchrun or srun, which say how many processes there are")


@contextmanager
def placed(device: str, distributed: bool) -> Iterator[Place]:
    """Alone, or connected to the others: by gloo, or by NCCL with a GPU each.

    Raises
    ------
    UsageError
        Lightning Fabric is not installed; or not started by torchrun or srun, or not as it should be.
    """
    from ..errors import UsageError

    if not distributed:
        yield Place(device)
        return
    here, nodes = launched(os.environ)
    accelerator = "cuda" if device.startswith("cuda") else "cpu"
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError:
        raise UsageError('distributed: expected Lightning Fabric; pip install "idem-md[distributed]"') from None
    from torch.distributed import destroy_process_group, group

    try:
        fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=nodes, strategy="ddp")
        fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UsageError(f"distributed: {' '.join(str(error).split())}") from None
    try:
        yield Place(fabric.device, group.WORLD, fabric.is_global_zero)
    finally:
        destroy_process_group()
