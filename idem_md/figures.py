"""Figures in the style of the iDEM paper."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

from .analysis import pair_distances  # noqa: E402
from .diffusion import Denoiser  # noqa: E402
from .energies import GaussianMixture  # noqa: E402
from .ensemble import WeightedEnsemble  # noqa: E402
from .targets import importance_target  # noqa: E402

__all__ = ["plot_energies", "plot_histograms", "plot_mixture", "plot_scores"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito: told apart by colour-blind readers too


def _save(figure, file) -> None:
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)


def _is_weighted(e: WeightedEnsemble) -> bool:
    return float(np.ptp(e.weights)) > 1e-12


def plot_histograms(ensembles: dict[str, WeightedEnsemble], file) -> None:
    """Energy and pair-distance histograms as PNG; a dashed line shows the samples before weighting."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.7), layout="constrained")
    pooled = np.concatenate([e.energies[np.isfinite(e.energies)] for e in ensembles.values()])
    lo, hi = np.quantile(pooled, [0.0005, 0.9995])
    energy_edges = np.linspace(lo - 0.02 * (hi - lo), hi + 0.02 * (hi - lo), 40)
    distances = {k: pair_distances(e.positions) for k, e in ensembles.items()}
    top = max(float(np.nanquantile(d, 0.9995)) for d in distances.values())
    distance_edges = np.linspace(0, 1.05 * top, 120)
    for (label, e), colour in zip(ensembles.items(), COLOURS):
        w, d = e.weights, distances[label]
        alive = w > 0
        panels = ((axes[0], e.energies, energy_edges, w), (axes[1], d, distance_edges, w[:, None]))
        for axis, values, edges, weight in panels:
            weight = np.broadcast_to(weight, values.shape)
            axis.hist(values[alive].ravel(), edges, weights=weight[alive].ravel(), density=True, histtype="step",
                      color=colour, lw=1.8, label=f"{label}, weighted" if _is_weighted(e) else label)
            if _is_weighted(e):
                ok = np.isfinite(e.energies)
                axis.hist(values[ok].ravel(), edges, density=True, histtype="step", color=colour, lw=1.2, ls="--",
                          label=f"{label}, raw")
    axes[0].set(xlabel="energy u (kT)", ylabel="probability density (1/kT)")
    axes[1].set(xlabel="pair distance (reduced length)", ylabel="probability density")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    # Outside the axes, where no curve can pass below it; lines instead of the boxes that step histograms get.
    handles, labels = axes[0].get_legend_handles_labels()
    lines = [Line2D([], [], color=h.get_edgecolor(), ls=h.get_linestyle(), lw=1.8) for h in handles]
    figure.legend(lines, labels, loc="outside upper center", ncols=min(len(lines), 3), frameon=False, fontsize=9)
    _save(figure, file)


def plot_energies(ensembles: dict[str, WeightedEnsemble], file) -> None:
    """Energy histograms of raw samples, the first set filled; the range is that of the first, three times its width.

    What lies outside is stated in the legend, as a share of its set.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    first = next(iter(ensembles.values())).energies
    lo, hi = first.min(), first.max()
    edges = np.linspace(lo - (hi - lo), hi + (hi - lo), 121)
    for k, (label, e) in enumerate(ensembles.items()):
        outside = float(np.mean(~((e.energies >= edges[0]) & (e.energies <= edges[-1]))))
        name = label if outside == 0 else f"{label} ({100 * outside:.1f}% outside)"
        u = e.energies[np.isfinite(e.energies)]
        weight = np.full(len(u), 1 / (len(e) * (edges[1] - edges[0])))
        if k == 0:
            axis.hist(u, edges, weights=weight, color="#bbbbbb", label=name)
        else:
            axis.hist(u, edges, weights=weight, histtype="step", lw=1.8, color=COLOURS[(k - 1) % len(COLOURS)], label=name)
    axis.set(xlabel="energy u (kT)", ylabel="probability density (1/kT)", title=next(iter(ensembles.values())).system.name)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, file)


def _contours(axis, energy: GaussianMixture, half: float) -> None:
    ticks = torch.linspace(-half, half, 200, dtype=torch.float64)
    xy = torch.cartesian_prod(ticks, ticks)[:, None]
    u = energy(xy)[0].reshape(200, 200).T
    axis.contour(ticks, ticks, -u, levels=[-20, -15, -10, -7], colors="#bbbbbb", linestyles="solid", linewidths=0.6)
    axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="x", ylabel="y")


def plot_mixture(energy: GaussianMixture, ensembles: dict[str, WeightedEnsemble], file, half: float = 50.0) -> None:
    """Raw samples over contours of the log density of a mixture in the plane, a panel a set."""
    figure, axes = plt.subplots(1, max(len(ensembles), 1), figsize=(4.2 * max(len(ensembles), 1), 4.3), layout="constrained", squeeze=False)
    for axis, (label, e), colour in zip(axes[0], ensembles.items(), COLOURS):
        _contours(axis, energy, half)
        points = e.positions[:1000, 0]
        axis.scatter(points[:, 0], points[:, 1], s=4, color=colour, alpha=0.6, linewidths=0)
        axis.set_title(f"{label}: 1000 raw samples", fontsize=10)
    _save(figure, file)


@torch.no_grad()
def plot_scores(energy: GaussianMixture, denoiser: Denoiser, file, sigmas=(2.0, 8.0, 25.0), n_samples: int = 500, half: float = 50.0) -> None:
    """Scores of a noised mixture in the plane: exact, estimated from ``n_samples`` draws, and of the network, a row a noise level."""
    figure, axes = plt.subplots(len(sigmas), 3, figsize=(9.6, 3.2 * len(sigmas)), layout="constrained", squeeze=False)
    ticks = torch.linspace(-0.9 * half, 0.9 * half, 19, dtype=torch.float64)
    x = torch.cartesian_prod(ticks, ticks)[:, None]
    for row, sigma in zip(axes, sigmas):
        level = torch.full((len(x),), sigma, dtype=torch.float64)
        noised = GaussianMixture(energy.means, (energy.sd**2 + sigma**2) ** 0.5)
        estimate = importance_target(energy, x, level, n_samples, 0, mix=False)
        fields = {"exact": noised(x)[1], f"S_K, K = {n_samples}": (estimate - x) / sigma**2, "network": (denoiser(x, level) - x) / sigma**2}
        longest = float(fields["exact"].norm(dim=-1).quantile(0.95))
        for axis, (label, score) in zip(row, fields.items()):
            _contours(axis, energy, half)
            s = score[:, 0] * (longest / score[:, 0].norm(dim=-1, keepdim=True).clamp(min=longest))
            axis.quiver(x[:, 0, 0], x[:, 0, 1], s[:, 0], s[:, 1], color=COLOURS[0], angles="xy", scale=12 * longest, width=0.004)
            axis.set_title(f"{label}, σ = {sigma:g}", fontsize=10)
    _save(figure, file)
