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
        Neither of them has started this process, or not the same number on each node.
    """
    from ..errors import UsageError

    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return here, int(environment["WORLD_SIZE"]) // here
    # These are of the step that srun makes; a batch script has none, though it is a process of the job.
    if "SLURM_STEP_NUM_TASKS" in environment:
        tasks, nodes = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment.get("SLURM_STEP_NUM_NODES", 1))
        if tasks % nodes:
            raise UsageError(f"distributed: expected as many processes on each of {nodes} nodes, got {tasks} in all")
        return tasks // nodes, nodes
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
        from lightning_fabric.plugins.environments import SLURMEnvironment
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError:
        raise UsageError('distributed: expected Lightning Fabric; pip install "idem-md[distributed]"') from None
    from torch.distributed import destroy_process_group, group

    try:
        # Unless told, it looks at the job, which says nothing of the step if it is an interactive one.
        plugins = None if "TORCHELASTIC_RUN_ID" in os.environ else SLURMEnvironment(auto_requeue=False)
        fabric = Fabric(accelerator=accelerator, devices=here, num_nodes=nodes, strategy="ddp", plugins=plugins)
        fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UsageError(f"distributed: {' '.join(str(error).split())}") from None
    if fabric.world_size != here * nodes:
        raise UsageError(f"distributed: expected {here * nodes} processes, Lightning Fabric has {fabric.world_size}")
    try:
        yield Place(fabric.device, group.WORLD, fabric.is_global_zero)
    finally:
        destroy_process_group()
