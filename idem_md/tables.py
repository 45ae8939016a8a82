"""Tables of settings: typed, frozen, read from TOML and JSON; whatever is not known is an error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Table", "parse_table", "read_toml", "tomllib"]


class Table(BaseModel):
    """One table of settings.

    Attributes
    ----------
    only : dict
        Keys that belong to some values of ``name`` only: set beside another they would be silently ignored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    only: ClassVar[dict[str, tuple[str, ...]]] = {}

    @model_validator(mode="after")
    def _nothing_ignored(self):
        name = getattr(self, "name", None)
        for key, names in self.only.items():
            if name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is not used by {name!r}, only by {', '.join(names)}; leave it out")
        return self


TableType = TypeVar("TableType", bound=Table)


def parse_table(kind: type[TableType], table: Mapping[str, Any], source: str, prefix: str = "") -> TableType:
    """Validate a plain mapping.

    Raises
    ------
    ConfigError
        Names the source, the key, what was expected and what came.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (prefix, *first["loc"]) if prefix else first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _inner(kind, first["loc"][:-1]).model_fields
            raise ConfigError(f"{source}: unknown key '{key}'; expected some of {', '.join(known)}") from None
        if first["type"] == "value_error":
            where = f"{key}: " if key else ""
            raise ConfigError(f"{source}: {where}{first['ctx']['error']}") from None
        raise ConfigError(f"{source}: {key}: {first['msg']}, got {first['input']!r}") from None


def _inner(kind: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The table within ``kind`` at the end of ``path``, as far as its type tells."""
    for key in path:
        inner = kind.model_fields[str(key)].annotation if key in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        kind = inner
    return kind


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises
    ------
    ConfigError
        It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
