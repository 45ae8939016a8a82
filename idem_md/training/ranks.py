"""Processes that train one network together: what they tell each other, and which share of the work is whose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from ..checks import check_int
from ..errors import ConfigError, IdemError, UsageError
from ..seeds import stream_of
from .config import TrainingConfig

__all__ = ["ALONE", "Ranks", "ProcessGroup", "part_of"]


def part_of(whole: int, rank: int, size: int) -> int:
    """The part of a number that one rank gets; the first ones have what is left over."""
    return whole // size + (rank < whole % size)


class Ranks:
    """One process that trains alone; `ProcessGroup` has others.

    Attributes
    ----------
    rank, size : int
        Which of how many.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def check(self, config: TrainingConfig) -> None:
        """Raise `ConfigError` unless buffer and batch can be shared out evenly."""
        numbers = {
            "buffer.size": config.buffer.size,
            "buffer.walkers": config.buffer.walkers or 0,
            "buffer.fresh": config.buffer.fresh,
            "buffer.weighted": config.buffer.weighted,
            "optimizer.batch": config.optimizer.batch,
        }
        for name, number in numbers.items():
            if number % self.size:
                raise ConfigError(f"{name}: expected a multiple of the number of processes, {self.size}, got {number}")

    def part(self, whole: int) -> int:
        """This process's share of a number."""
        return part_of(whole, self.rank, self.size)

    def generator(self, seed: int, iteration: int = 0) -> torch.Generator:
        """Random numbers of its own, from one iteration on."""
        own = seed if self.size == 1 and not iteration else stream_of(f"training {seed} {iteration}", self.rank)
        return torch.Generator().manual_seed(own)

    def totals(self, values: torch.Tensor) -> torch.Tensor:
        """Sums of everyone's."""
        return values

    def means(self, *values: float) -> list[float]:
        """Means of everyone's, one by one."""
        return (self.totals(torch.tensor(values, dtype=torch.float64, device="cpu")) / self.size).tolist()

    def gather(self, value: Any) -> list[Any]:
        """Everyone's ``value``, in the order of ranks."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The ``value`` of the first one."""
        return value

    def mine(self, index: int) -> bool:
        """Whether a piece of work that is dealt out in turn is for this process."""
        return index % self.size == self.rank

    def exchange(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give everyone, in place, those of each that are `mine` there."""

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter], halt: bool) -> bool:
        """Put the mean gradients in the place of everyone's own, unless someone is to ``halt``; returns whether."""
        return halt


ALONE = Ranks()


class ProcessGroup(Ranks):
    """The processes of a `torch.distributed.ProcessGroup`.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
    device : torch.device
        Where this one computes, and what it exchanges lies.

    Raises
    ------
    UsageError
        This process is not of the group, or the group cannot exchange what lies on the device.
    """

    def __init__(self, group: distributed.ProcessGroup, device: torch.device):
        self.group, self.device = group, device
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        check_int("group", self.rank, 0)  # -1 is outside
        backends = distributed.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
        if device.type not in {pair.partition(":")[0] for pair in backends.split(",")}:
            raise UsageError(f"group: expected a backend for the device {device.type!r}, got {backends}")

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise IdemError(
                "training: lost another of the processes that train together; "
                f"resume goes on from the last whole iteration ({str(error).splitlines()[0]})"
            ) from None

    def totals(self, values: torch.Tensor) -> torch.Tensor:
        return self._summed(values.to(self.device, copy=True)).to(values.device)

    def _summed(self, sent: torch.Tensor) -> torch.Tensor:
        with self._together():
            distributed.all_reduce(sent, group=self.group)
        return sent

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with self._together():
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        values = [value]
        with self._together():
            distributed.broadcast_object_list(values, distributed.get_global_rank(self.group, 0), group=self.group)
        return values[0]

    @torch.no_grad()
    def exchange(self, tensors: Sequence[torch.Tensor]) -> None:
        for rank in range(min(self.size, len(tensors))):
            part = tensors[rank :: self.size]  # as `mine` deals them out
            sent = torch.cat([x.flatten() for x in part])
            with self._together():
                distributed.broadcast(sent, distributed.get_global_rank(self.group, rank), group=self.group)
            if rank != self.rank:
                for x, new in zip(part, sent.split([x.numel() for x in part])):
                    x.copy_(new.view_as(x))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter], halt: bool) -> bool:
        # In one message, with a number more that says whether to halt.
        parameters = list(parameters)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sizes = [g.numel() for g in own]
        flat = self._summed(torch.cat([*(g.flatten() for g in own), own[0].new_tensor([float(halt)])]))
        if flat[-1] > 0:
            return True
        for p, mean in zip(parameters, flat[:-1].div_(self.size).split(sizes)):
            p.grad = mean.view_as(p)
        return False
