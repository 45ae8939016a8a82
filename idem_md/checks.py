"""Validation: every complaint names the argument, what was expected and what came."""

from __future__ import annotations

import numbers
import os

import numpy as np
import torch

from .errors import EnergyError, UsageError

__all__ = [
    "all_finite",
    "check_choice",
    "check_fits",
    "check_float",
    "check_int",
    "check_range",
    "check_positions",
    "energies_agree",
]


def check_range(name: str, value) -> tuple[float, float]:
    """Two positive numbers, the lower one first.

    Raises
    ------
    UsageError
        Anything else.
    """
    try:
        low, high = (check_float(name, number, above=0.0) for number in value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: expected two numbers, the lowest and the highest, got {value!r}") from None
    if low >= high:
        raise UsageError(f"{name}: expected two numbers, the lower one first, got {low:g} and {high:g}")
    return low, high


def check_int(name: str, value, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return ``value`` as an int, or raise `UsageError`; booleans are not integers here."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UsageError(f"{name}: expected an integer, got {value!r}")
    value = int(value)
    if minimum is not None and value < minimum:
        raise UsageError(f"{name}: expected at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise UsageError(f"{name}: expected at most {maximum}, got {value}")
    return value


def check_float(
    name: str, value, minimum: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """Return ``value`` as a finite float, or raise `UsageError`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise UsageError(f"{name}: expected a number, got {value!r}")
    value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        raise UsageError(f"{name}: expected a finite number, got {value}")
    if minimum is not None and value < minimum:
        raise UsageError(f"{name}: expected at least {minimum}, got {value}")
    if above is not None and value <= above:
        raise UsageError(f"{name}: expected a number above {above}, got {value}")
    if below is not None and value >= below:
        raise UsageError(f"{name}: expected a number below {below}, got {value}")
    return value


def check_fits(name: str, n: int, bytes_each: int) -> None:
    """Raise `UsageError` for a number of things that the memory of this machine cannot hold."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n * bytes_each > memory:
        raise UsageError(
            f"{name}: expected at most {memory // bytes_each}, got {n}, which take {n * bytes_each / 2**30:.3g} GiB of "
            f"the {memory / 2**30:.3g} GiB that there are"
        )


def check_choice(name: str, value, choices) -> str:
    """Return ``value`` if it is one of ``choices``, or raise `UsageError` listing them."""
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return value


def check_positions(name: str, x, n_atoms: int | None = None, n_dims: int | None = None) -> torch.Tensor:
    """Return ``x`` if it is a finite float tensor of shape (batch, atoms, dimensions).

    Parameters
    ----------
    name : str
        What to call the argument in the error.
    x : torch.Tensor, shape (B, N, D), float32 or float64
    n_atoms, n_dims : int, optional
        Required sizes.

    Raises
    ------
    UsageError
        Wrong type, dtype or shape.
    EnergyError
        NaN or infinite coordinates; names the first such configuration.
    """
    if not isinstance(x, torch.Tensor):
        raise UsageError(f"{name}: expected a torch tensor, got {type(x).__name__}")
    want = f"(batch, {n_atoms if n_atoms is not None else 'atoms'}, {n_dims if n_dims is not None else 'dimensions'})"
    if x.dim() != 3 or (n_atoms is not None and x.shape[1] != n_atoms) or (n_dims is not None and x.shape[2] != n_dims):
        raise UsageError(f"{name}: expected shape {want}, got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"{name}: expected float32 or float64, got {x.dtype}")
    if not all_finite(x):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
        raise EnergyError(f"{name}: expected finite coordinates, configuration {bad} has NaN or infinity", bad)
    return x


def energies_agree(one, other, relative: float = 1e-3, least: float = 1e-3) -> np.ndarray:
    """Whether energies in kT may be those of one potential, which codes and platforms round differently: apart by less
    than ``relative`` of themselves and half a kT, plus ``least``. Those far above the lowest of several may be apart by
    ``relative`` of the distance to it.

    Total energies of electrons are large, differences between potentials are not.
    """
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    above = relative * (one - one.min(initial=np.inf))
    return abs(one - other) <= np.minimum(relative * abs(one), np.maximum(0.5, above)) + least


def all_finite(x: torch.Tensor) -> bool:
    """Whether every element is finite; one pass without temporaries where the answer is yes."""
    # A NaN or infinity anywhere makes the sum one. So may an overflow of finite numbers: then look at each.
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())
