"""Figures of a mixture in the plane, in the style of the iDEM paper: samples over contours, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
from matplotlib.figure import Figure

from idem_md.diffusion import Denoiser
from idem_md.energies import GaussianMixture
from idem_md.ensemble import WeightedEnsemble
from idem_md.report.figures import COLOURS, save_png
from idem_md.targets import dem_scores

__all__ = ["plot_mixture", "plot_scores"]


def _contours(axis, energy: GaussianMixture, half: float) -> None:
    ticks = torch.linspace(-half, half, 200, dtype=torch.float64)
    xy = torch.cartesian_prod(ticks, ticks)[:, None]
    u = energy(xy)[0].reshape(200, 200).T
    axis.contour(ticks, ticks, -u, levels=[-20, -15, -10, -7], colors="#bbbbbb", linestyles="solid", linewidths=0.6)
    axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="x", ylabel="y")


def plot_mixture(energy: GaussianMixture, ensembles: Mapping[str, WeightedEnsemble], file, half: float = 50.0) -> None:
    """Raw samples over contours of the log density of a mixture in the plane, a panel a set."""
    panels = max(len(ensembles), 1)
    figure = Figure(figsize=(4.2 * panels, 4.3), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)
    for axis, (label, e), colour in zip(axes[0], ensembles.items(), cycle(COLOURS)):
        _contours(axis, energy, half)
        points = e.positions[:1000, 0]
        axis.scatter(points[:, 0], points[:, 1], s=4, color=colour, alpha=0.6, linewidths=0)
        axis.set_title(label, fontsize=10)
    figure.suptitle(f"Where {len(points)} raw samples lie, by preset, and of the shipped network", fontsize=12)
    save_png(figure, file)


@torch.no_grad()
def plot_scores(
    energy: GaussianMixture,
    denoiser: Denoiser,
    file,
    sigmas: Sequence[float] = (2.0, 8.0, 25.0),
    n_samples: int = 500,
    half: float = 50.0,
) -> None:
    """Scores of a noised mixture in the plane: exact, estimated from ``n_samples`` draws, and of the network, a row a
    noise level."""
    figure = Figure(figsize=(9.6, 3.2 * len(sigmas)), layout="constrained")
    axes = figure.subplots(len(sigmas), 3, squeeze=False)
    ticks = torch.linspace(-0.9 * half, 0.9 * half, 19, dtype=torch.float64)
    x = torch.cartesian_prod(ticks, ticks)[:, None]
    for row, sigma in zip(axes, sigmas):
        level = torch.full((len(x),), sigma, dtype=torch.float64)
        noised = GaussianMixture(energy.means, (energy.sd**2 + sigma**2) ** 0.5)
        fields = {
            "exact": noised(x)[1],
            f"S_K, K = {n_samples}": dem_scores(energy, x, level, n_samples, 0).tsi,
            "network": (denoiser(x, level) - x) / sigma**2,
        }
        longest = float(fields["exact"].norm(dim=-1).quantile(0.95))
        for axis, (label, score) in zip(row, fields.items()):
            _contours(axis, energy, half)
            s = score[:, 0] * (longest / score[:, 0].norm(dim=-1, keepdim=True).clamp(min=longest))
            axis.quiver(
                x[:, 0, 0], x[:, 0, 1], s[:, 0], s[:, 1], color=COLOURS[0], angles="xy", scale=12 * longest, width=0.004
            )
            axis.set_title(f"{label}, σ = {sigma:g}", fontsize=10)
    figure.suptitle("At large σ the estimate that the network learnt from is mostly noise, the network is not")
    save_png(figure, file)
