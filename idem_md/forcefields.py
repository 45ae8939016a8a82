"""Where the OpenMM force fields are: found by `openmm.app.ForceField("idem_md/lj13.xml")` after installation."""

from importlib.metadata import files
from pathlib import Path

__all__ = ["directory"]


def directory() -> str:
    """The folder that holds ``idem_md/*.xml``, for OpenMM's entry point ``openmm.forcefielddir``.

    Imports nothing heavy: OpenMM calls it when it looks for a force field that is not its own.
    """
    beside = Path(__file__).parent / "openmm"
    if beside.is_dir():
        return str(beside)
    # An editable installation keeps these files elsewhere than the sources: by the record of what was installed.
    found = (f for f in files("idem-md") or () if f.parts[-2:] == ("idem_md", "lj13.xml"))
    return next((str(Path(str(f.locate())).parent.parent) for f in found), str(beside))
