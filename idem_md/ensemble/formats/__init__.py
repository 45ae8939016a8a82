"""One file format a file, by suffix."""

from .base import FORMATS, Contents, Format, register_format, to_trajectory
from .colvar import write_colvar
from .dcd import write_dcd
from .extxyz import to_atoms, write_extxyz
from .h5md import write_h5md
from .npz import write_npz
from .pdb import write_pdb
from .weights import write_weights
from .xtc import write_xtc

__all__ = [
    "FORMATS",
    "Contents",
    "Format",
    "register_format",
    "to_atoms",
    "to_trajectory",
    "write_colvar",
    "write_dcd",
    "write_extxyz",
    "write_h5md",
    "write_npz",
    "write_pdb",
    "write_weights",
    "write_xtc",
]
