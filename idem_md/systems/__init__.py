"""Named targets of sampling: an energy, its physical scale, and what is known exactly about it."""

from .builtin import SYSTEMS, built_in_name, get_system, system_described
from .chemistry import Chemistry, torsions
from .system import System, nearest_neighbour_distance

__all__ = [
    "SYSTEMS",
    "Chemistry",
    "System",
    "built_in_name",
    "get_system",
    "nearest_neighbour_distance",
    "system_described",
    "torsions",
]
