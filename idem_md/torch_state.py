"""What torch keeps globally (default dtype and device, gradients): ours while we compute, the user's in their code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch

__all__ = ["default_torch", "own_torch"]


class _Defaults(NamedTuple):
    dtype: torch.dtype
    device: torch.device
    grad: bool
    inference: bool


OURS = _Defaults(torch.float32, torch.device("cpu"), True, False)
# Of the callers whose defaults are not ours, the innermost last.
_users: list[_Defaults] = []

F = TypeVar("F", bound=Callable)


def _now() -> _Defaults:
    return _Defaults(
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@contextmanager
def _defaults(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Nothing is touched that is so already: a device that is set slows every operation."""
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        if before != dtype:
            torch.set_default_dtype(dtype)
            stack.callback(torch.set_default_dtype, before)
        if torch.get_default_device() != device:
            stack.enter_context(device)
        yield


def own_torch(function: F) -> F:
    """Decorator: within the function torch is as it is when it has just been imported, whatever the caller made of it.

    Some calculators leave the default dtype at float64; that is theirs to need, see `default_torch`, and not ours.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        theirs = _now()
        if theirs == OURS:
            return function(*args, **kwargs)
        _users.append(theirs)
        try:
            with ExitStack() as stack:
                stack.enter_context(_defaults(OURS.dtype, OURS.device))
                if theirs.inference:
                    stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
                return function(*args, **kwargs)
        finally:
            _users.pop()

    return cast(F, wrapped)


@contextmanager
def default_torch(users: bool) -> Iterator[None]:
    """Within it torch has the default dtype and device that the user's own code, such as a potential, found outside, or
    else ours."""
    if users and not _users:  # we have not changed it
        yield
        return
    wanted = _users[-1] if users else OURS
    with _defaults(wanted.dtype, wanted.device):
        yield
