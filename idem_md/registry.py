"""Parts by name: how a user adds a network, target, kernel, last step, engine or observable of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import UsageError

__all__ = ["Registry"]

T = TypeVar("T")
S = TypeVar("S")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to parts of one kind.

    Parameters
    ----------
    argument : str
        What a user calls the choice, for error messages: "kernel", "target.name".
    """

    def __init__(self, argument: str):
        self.argument = argument
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[S], S]:
        """A decorator that adds a part.

        Raises
        ------
        UsageError
            The name is taken.
        """

        def add(part: S) -> S:
            if name in self._parts:
                raise UsageError(f"{self.argument}: expected a name that is not taken, got {name!r}")
            self._parts[name] = part  # type: ignore[assignment]
            return part

        return add

    def find(self, name: str) -> T:
        """The part of that name.

        Raises
        ------
        UsageError
            There is none; lists those there are.
        """
        if not isinstance(name, str) or name not in self._parts:
            raise UsageError(f"{self.argument}: expected one of {', '.join(self._parts)}, got {name!r}")
        return self._parts[name]

    def __getitem__(self, name: str) -> T:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
