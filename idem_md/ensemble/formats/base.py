"""The extension point of file formats, and what they are given."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ...registry import Registry
from ...rows import blocks_of
from ...units import Units

if TYPE_CHECKING:
    import mdtraj

    from ...energies import Topology

__all__ = ["FORMATS", "WEIGHTS_ARE", "Contents", "Format", "register_format", "save_whole", "to_trajectory"]

# What files say of their log weights, by kind of ensemble.
WEIGHTS_ARE = {
    "importance": "natural log of importance weights, to be added to log probabilities; the mean of exp estimates Z",
    "raw": "none: raw samples, whose distribution is not known",
}
RELATIVE = "natural log of weights, to be added to log probabilities; up to a constant"


@dataclass(frozen=True)
class Contents:
    """An ensemble as it is written.

    Attributes
    ----------
    positions, energies, log_weights : numpy.ndarray
        As in `WeightedEnsemble`.
    record : mapping
        Provenance, system and kind of weights; JSON.
    elements : tuple of str
    units : Units
    topology : Topology
        Names, residues and bonds; that of loose atoms if there are no others.
    """

    positions: np.ndarray
    energies: np.ndarray
    log_weights: np.ndarray
    record: Mapping[str, Any]
    elements: tuple[str, ...]
    units: Units
    topology: Topology

    @cached_property
    def trajectory(self) -> mdtraj.Trajectory:
        """In nm, float32."""
        return to_trajectory(self.positions, self.elements, self.units, self.topology)

    def trajectories(self) -> Iterator[mdtraj.Trajectory]:
        """The same in blocks, for files that are written one after the other."""
        for rows in blocks_of(self.positions):
            yield to_trajectory(self.positions[rows], self.elements, self.units, self.topology)

    @property
    def angstrom(self) -> np.ndarray:
        """Positions (n, N, 3) in Å, float64; two dimensions get z = 0."""
        return spatial(self.units.to_angstrom(self.positions))

    @property
    def alive(self) -> np.ndarray:
        """Mask of the samples whose weight is not zero."""
        return self.log_weights > -np.inf

    @property
    def weights_are(self) -> str:
        """What the log weights are, in words."""
        return WEIGHTS_ARE.get(self.record["kind"], RELATIVE)


class Format(NamedTuple):
    """How a file is written, and whether it is a trajectory with files beside it, from which an ensemble is read."""

    write: Callable[[Path, Contents], None]
    whole: bool


FORMATS: Registry[Format] = Registry("suffix")

Writer = TypeVar("Writer", bound=Callable[[Path, Contents], None])


def register_format(suffix: str, whole: bool = False) -> Callable[[Writer], Writer]:
    """Decorator: makes a function that writes `Contents` to a path the one for that suffix, dot included."""

    def add(write: Writer) -> Writer:
        FORMATS.register(suffix)(Format(write, whole))
        return write

    return add


def save_whole(save: Callable[[str], object], path: str) -> None:
    """Call a writer of MDTraj's; whatever it makes of a full disk is an `OSError`."""
    try:
        save(path)
    except OSError:
        raise
    except Exception:
        raise OSError(errno.EIO, "MDTraj could not write it whole") from None


def spatial(positions: np.ndarray) -> np.ndarray:
    """With z = 0 if there is none."""
    return np.pad(positions, [(0, 0), (0, 0), (0, 3 - positions.shape[2])])


def to_trajectory(
    positions: np.ndarray, elements: tuple[str, ...], units: Units, topology: Topology
) -> mdtraj.Trajectory:
    """MDTraj trajectory (nm, float32) of reduced positions (n, N, D); two dimensions get z = 0."""
    import mdtraj

    xyz = spatial(units.to_angstrom(np.asarray(positions, dtype=np.float64)) / 10.0)
    return mdtraj.Trajectory(xyz.astype(np.float32), topology.mdtraj(elements))
