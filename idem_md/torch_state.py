"""What torch keeps for a thread (default device, gradients): ours while we compute, the user's in their code.

The default dtype is one for all threads, and left alone: every tensor of this package is given its own.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch

__all__ = ["default_torch", "own_torch"]


class _Defaults(NamedTuple):
    device: torch.device
    grad: bool
    inference: bool


OURS = _Defaults(torch.device("cpu"), True, False)


class _Callers(threading.local):
    """Defaults of callers that are not ours, of each thread, the innermost last."""

    def __init__(self):
        self.known: list[_Defaults] = []


_users = _Callers()

F = TypeVar("F", bound=Callable)


def _now() -> _Defaults:
    return _Defaults(torch.get_default_device(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())


@contextmanager
def _device(device: torch.device) -> Iterator[None]:
    """Nothing is touched that is so already: a device that is set slows every operation."""
    with ExitStack() as stack:
        if torch.get_default_device() != device:
            stack.enter_context(device)
        yield


def own_torch(function: F) -> F:
    """Decorator: within the function torch has the default device and the gradients that it has when it has just been
    imported, whatever the caller made of it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        theirs = _now()
        if theirs == OURS:
            return function(*args, **kwargs)
        _users.known.append(theirs)
        try:
            with ExitStack() as stack:
                stack.enter_context(_device(OURS.device))
                if theirs.inference:
                    stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
                return function(*args, **kwargs)
        finally:
            _users.known.pop()

    return cast(F, wrapped)


@contextmanager
def default_torch(users: bool) -> Iterator[None]:
    """Within it torch has the default device that the user's own code, such as a potential, found outside, or else
    ours."""
    if users and not _users.known:  # we have not changed it
        yield
        return
    with _device(_users.known[-1].device if users else OURS.device):
        yield
