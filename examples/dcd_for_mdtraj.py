"""Samples as DCD, analysed with MDTraj: a weighted pair distribution.

python examples/dcd_for_mdtraj.py [folder]
"""

import itertools
import sys
from pathlib import Path

import mdtraj
import numpy as np

import idem_md


def main(folder=".", n=500):
    """Write lj13.dcd, .pdb and .npz, read them back with MDTraj, and return the weighted mean radius of gyration in
    nm."""
    path = Path(folder) / "lj13.dcd"
    idem_md.load_sampler("lj13").sample(n, seed=0).save(path)

    trajectory = mdtraj.load(str(path), top=str(path.with_suffix(".pdb")))  # nm, like any other trajectory
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        log_w = data["log_weights"]
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()

    radius = mdtraj.compute_rg(trajectory)
    mean = weights @ radius
    print(f"{trajectory.n_frames} frames, {1 / (weights**2).sum():.0f} effective samples")
    print(f"radius of gyration: weighted {mean:.4f} nm, raw {radius.mean():.4f} nm")

    pairs = list(itertools.combinations(range(trajectory.n_atoms), 2))
    distances = mdtraj.compute_distances(trajectory, pairs)
    edges = np.linspace(0.3, 1.2, 19)
    histogram, _ = np.histogram(distances, edges, weights=np.repeat(weights[:, None], len(pairs), 1), density=True)
    for lo, hi, h in zip(edges, edges[1:], histogram):
        print(f"{lo:5.2f}-{hi:4.2f} nm  {'#' * int(12 * h)}")
    return mean


if __name__ == "__main__":
    main(*sys.argv[1:2])
