"""What elements say of a system."""

__all__ = ["COVALENT"]

# Those of molecules, whose atoms keep their neighbours.
COVALENT = frozenset("H B C N O F Si P S Cl Ge As Se Br Te I".split())
