"""Topologies of loose atoms for OpenMM."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["openmm_topology"]


def openmm_topology(elements: Sequence[str]):
    """An OpenMM topology of free atoms, each a residue of its own named after its element, as the force fields expect.

    Parameters
    ----------
    elements : sequence of str
        Chemical symbols.

    Returns
    -------
    openmm.app.Topology
    """
    from openmm import app

    topology = app.Topology()
    chain = topology.addChain()
    for symbol in elements:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), topology.addResidue(symbol.upper(), chain))
    return topology
