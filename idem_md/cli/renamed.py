"""Options that have a new name: the old one works for one version, with a note on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["RENAMED", "with_new_names"]

# Command -> old option -> new one.
RENAMED = {
    "train": {"--springs-steps": "--elastic-network-steps"},
    "tune": {"--draws": "--candidates"},
}


def with_new_names(words: Sequence[str]) -> list[str]:
    """The words of a command line, old options replaced."""
    known = RENAMED.get(words[0], {}) if words else {}
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in known:
            print(f"idem-md: note: {name} is now {known[name]}", file=sys.stderr)
            word = f"{known[name]}{equals}{value}"
        found.append(word)
    return found
