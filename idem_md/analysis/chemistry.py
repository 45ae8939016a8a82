"""Samples that have left the molecule: broken bonds, inverted centres, turned double and amide bonds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import weighted_mean

__all__ = ["Departure", "departures"]


class Departure(NamedTuple):
    """Samples that differ from the molecule in one way.

    Attributes
    ----------
    what : str
        Such as ``bond ALA2-CA ALA2-HA broken``; names are those of the topology.
    samples : int
        How many, failed ones not counted.
    share, error : float
        Of the weight, with its standard error; of raw samples of their number.
    """

    what: str
    samples: int
    share: float
    error: float


def departures(e: WeightedEnsemble) -> list[Departure]:
    """What differs from the molecule in the geometry of the system, the largest share of the weight first; empty for
    clusters of atoms, and where no sample has left the molecule.

    A bond is broken that is half as long again, a stereocentre inverted that has the other hand, an amide or double
    bond turned whose torsion is on the other side of 90 degrees.
    """
    molecule = e.system.chemistry
    if molecule is None:
        return []
    topology, x = e.system.named_atoms, e.positions[e.alive]
    names = [f"{topology.residues[k][0]}{topology.residues[k][1]}-" for k in topology.residue_of]
    names = [f"{residue if len(topology.residues) > 1 else ''}{own}" for residue, own in zip(names, topology.names)]
    turned = molecule.turned(x).T
    columns = [
        *((f"bond {names[a]} {names[b]} broken", y) for (a, b), y in zip(molecule.bonds, molecule.broken(x).T)),
        *((f"stereocentre {names[c[0]]} inverted", y) for c, y in zip(molecule.centres, molecule.inverted(x).T)),
        *((f"torsion about {names[b]} {names[c]} turned", y) for (_, b, c, _), y in zip(molecule.rigid, turned)),
    ]
    w = np.full(len(x), 1 / max(len(x), 1)) if e.kind == "raw" else e.weights[e.alive]
    found = []
    for what, there in columns:
        if there.any():
            share, error = weighted_mean(there.astype(float), w, len(x) if e.kind == "raw" else e.ess)
            found.append(Departure(what, int(there.sum()), float(share), float(error)))
    return sorted(found, key=lambda one: -one.share)
