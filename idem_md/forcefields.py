"""Where the OpenMM force fields are: found by `openmm.app.ForceField("idem_md/lj13.xml")` after installation."""

from importlib.metadata import files

__all__ = ["directory"]


def directory() -> str:
    """The folder that holds ``idem_md/*.xml``, for OpenMM's entry point ``openmm.forcefielddir``.

    Imports nothing heavy: OpenMM calls it when it looks for a force field that is not its own.
    """
    # By the record of what was installed: an editable installation keeps these files elsewhere than the sources.
    return str(next(f for f in files("idem-md") if f.parts[-2:] == ("idem_md", "lj13.xml")).locate().parent.parent)
