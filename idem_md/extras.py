"""Packages that serve one feature: found when it is used, or named in an error."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from .errors import MissingPackage

__all__ = ["import_extra"]


def import_extra(package: str, extra: str, feature: str) -> ModuleType:
    """A package of the extra of that name.

    Parameters
    ----------
    package : str
        A dotted name.
    extra : str
        Of this package, as in ``pip install ".[h5md]"``.
    feature : str
        The argument or option that asks for it, for the error.

    Raises
    ------
    MissingPackage
        It is not installed; says how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise MissingPackage(
            f"{feature}: expected the package {name}, got none ({error}); in a clone pip install '.[{extra}]', "
            f"else pip install 'idem-md[{extra}]'"
        ) from None
