"""Figures of ensembles, drawn without pyplot: nothing global is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from ..analysis import Curve, FreeEnergyMap, distribution, heat_capacity, pair_distances
from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import MIN_ESS_FOR_ERRORS, log_mean_weight

__all__ = [
    "COLOURS",
    "densities",
    "density_edges",
    "named",
    "plot_energies",
    "plot_heat_capacity",
    "plot_histograms",
    "plot_map",
    "plot_weights",
    "save_png",
    "span",
]

# Okabe & Ito: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def save_png(figure: Figure, file) -> None:
    """Write a figure to a path or file object; the same figure gives the same bytes."""
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def _is_weighted(e: WeightedEnsemble) -> bool:
    return e.kind != "raw" and float(np.ptp(e.weights)) > 1e-12


def span(
    ensembles: Mapping[str, WeightedEnsemble], values: Mapping[str, np.ndarray], beyond: float
) -> tuple[float, float]:
    """Where values (of each ensemble, one or more for each of its samples of some weight) lie, but for a share
    ``beyond`` at either end, by weight. Raw samples, some of which may be anywhere, only count where there are no
    others."""
    ends = []
    for label in [label for label, e in ensembles.items() if e.kind != "raw"] or ensembles:
        e, v = ensembles[label], values[label]
        w = np.broadcast_to(e.weights[e.alive].reshape(-1, *[1] * (v.ndim - 1)), v.shape)
        order = np.argsort(v, axis=None)
        v, w = v.ravel()[order], np.cumsum(w.ravel()[order])
        ends.append(v[np.minimum(np.searchsorted(w, [beyond * w[-1], (1 - beyond) * w[-1]]), len(v) - 1)])
    return float(min(lo for lo, _ in ends)), float(max(hi for _, hi in ends))


def density_edges(ensembles: Mapping[str, WeightedEnsemble], values: Mapping[str, np.ndarray], beyond: float):
    """Edges of bins, shape (k + 1,), for a density of values of ensembles on common axes: as many bins as the set of
    fewest effective samples fills smoothly (2 n^(1/3), Rice's rule; at least 10, at most 120)."""
    lo, hi = span(ensembles, values, beyond)
    margin = 0.03 * (hi - lo) or 0.5
    n = min((e.ess * v[0].size for e, v in zip(ensembles.values(), values.values()) if e.kind != "raw"), default=1e3)
    return np.linspace(lo - margin, hi + margin, int(np.clip(2 * max(n, 1.0) ** (1 / 3), 10, 120)) + 1)


def named(label: str, e: WeightedEnsemble) -> str:
    """A label with the number of effective samples, without which no two curves can be compared."""
    few = ", no errors" if e.ess < MIN_ESS_FOR_ERRORS else ""
    return label if e.kind == "raw" else f"{label} ({e.ess:,.0f} effective{few})"


def densities(e: WeightedEnsemble, values: np.ndarray, edges: np.ndarray) -> tuple[Curve | None, np.ndarray | None]:
    """What to draw of values (of the samples of some weight): a density by weight, with errors unless too few samples
    are effective, and one that ignores the weights, if they differ; None for what there is not."""
    weighted = None
    if e.kind != "raw" and e.ess >= MIN_ESS_FOR_ERRORS:
        weighted = distribution(e, values, edges, least=MIN_ESS_FOR_ERRORS)
    elif e.kind != "raw":
        w = np.broadcast_to(e.weights[e.alive].reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        share = np.histogram(values, edges, weights=w / values[0].size)[0] / np.diff(edges)
        weighted = Curve(edges, share, np.full(len(share), np.nan), "value", "probability density")
    if e.kind != "raw" and not _is_weighted(e):
        return weighted, None
    return weighted, np.histogram(values, edges)[0] / (values.size * np.diff(edges))


def plot_histograms(ensembles: Mapping[str, WeightedEnsemble], file) -> None:
    """Densities of energies and pair distances as PNG, by weight, with bands of one standard error; dotted without the
    weights.

    All are shares of the samples of some weight, whatever of them lies outside of the axes.
    """
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    several = next(iter(ensembles.values())).positions.shape[1] > 1  # atoms: a single one has no pairs
    axes = figure.subplots(1, 1 + several, squeeze=False)[0]
    panels = [{k: e.energies[e.alive] for k, e in ensembles.items()}]
    if several:
        panels.append({k: pair_distances(e.positions[e.alive]) for k, e in ensembles.items()})
    for axis, values in zip(axes, panels):
        edges = density_edges(ensembles, values, 0.0005)
        centres = 0.5 * (edges[1:] + edges[:-1])
        for (label, e), colour in zip(ensembles.items(), cycle(COLOURS)):
            curve, ignored = densities(e, values[label], edges)
            if curve is not None:
                axis.plot(centres, curve.values, color=colour, lw=1.6, label=named(label, e))
                band = curve.values - curve.errors, curve.values + curve.errors
                axis.fill_between(centres, *band, color=colour, alpha=0.25, lw=0)
            if ignored is not None:
                axis.plot(centres, ignored, color=colour, lw=1.3, ls=":", label=f"{label}, weights ignored")
    axes[0].set(xlabel="energy u (kT)", ylabel="probability density (1/kT)")
    if several:
        axes[1].set(xlabel="pair distance (reduced length)", ylabel="probability density")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    names = dict.fromkeys(e.system.name for e in ensembles.values())
    figure.suptitle(f"{', '.join(names)}: densities by weight, with bands of one standard error", fontsize=11)
    # Outside the axes, where no curve can pass below it.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_png(figure, file)


def plot_energies(ensembles: Mapping[str, WeightedEnsemble], file) -> None:
    """Energy histograms of raw samples over that of the first set, which is filled; up to its width above that one.

    What lies outside is stated in the legend, as a share of its set.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    first = next(iter(ensembles.values())).energies
    lo, hi = first.min(), first.max()
    edges = np.linspace(lo - (hi - lo) / 4, hi + (hi - lo), 91).tolist()
    for k, (label, e) in enumerate(ensembles.items()):
        outside = float(np.mean(~((e.energies >= edges[0]) & (e.energies <= edges[-1]))))
        name = label if outside == 0 else f"{label} ({100 * outside:.1f}% outside)"
        u = e.energies[np.isfinite(e.energies)]
        weight = np.full(len(u), 1 / (len(e) * (edges[1] - edges[0])))
        if k == 0:
            axis.hist(u, edges, weights=weight, color="#bbbbbb", label=name)
        else:
            axis.hist(
                u, edges, weights=weight, histtype="step", lw=1.8, color=COLOURS[(k - 1) % len(COLOURS)], label=name
            )
    name = next(iter(ensembles.values())).system.name
    axis.set(xlabel="energy u (kT)", ylabel="probability density (1/kT)")
    axis.set_title(f"{name}: energies of raw samples over those of {next(iter(ensembles))} ones", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    save_png(figure, file)


def plot_map(found: FreeEnergyMap, file) -> None:
    """Write a free energy along two observables as PNG, with its standard errors beside it."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, title in ((left, found.values, "free energy (kT)"), (right, found.errors, "standard error (kT)")):
        known = values[np.isfinite(values)]
        top = float(np.quantile(known, 0.98)) if len(known) else 1.0
        shown = axes.pcolormesh(found.x_edges, found.y_edges, values.T, vmin=0.0, vmax=top, cmap="viridis")
        figure.colorbar(shown, ax=axes, label=title, extend="max")
        axes.set(xlabel=found.x, ylabel=found.y, title=title)
    save_png(figure, file)


def plot_weights(ensemble: WeightedEnsemble, file) -> None:
    """How the weights are spread: their logarithms, and what share of the whole the largest carry.

    With one sample in a hundred carrying most of the weight, averages are those of a few configurations.
    """
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    log_w = ensemble.log_weights
    left.hist(log_w[ensemble.alive] - log_mean_weight(log_w), 60, color=COLOURS[0])
    left.axvline(0.0, color="black", lw=1, ls=":")
    left.set(xlabel="log weight, relative to the mean weight", ylabel="samples")
    sums = np.cumsum(np.sort(ensemble.weights)[::-1])
    n = len(sums)
    rank = np.arange(1, n + 1) / n
    right.plot(rank, sums, color=COLOURS[0], lw=1.8, label="these weights")
    right.plot(rank, rank, color="black", lw=1, ls=":", label="equal weights")
    right.set(xscale="log", xlim=(1 / n, 1), ylim=(0, 1.02), xlabel="share of the samples, heaviest first")
    right.set(ylabel="share of the weight")
    right.legend(frameon=False, fontsize=9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    k = ensemble.pareto_k
    tail = "" if np.isnan(k) else f", Pareto k {k:.2f}"
    figure.suptitle(
        f"{ensemble.system.name}: {ensemble.ess:.0f} effective of {len(ensemble)} samples{tail}", fontsize=10
    )
    save_png(figure, file)


def plot_heat_capacity(curves: Mapping[str, Sequence[WeightedEnsemble]], file) -> None:
    """Heat capacity against temperature with one standard error, one curve a label.

    Parameters
    ----------
    curves : mapping of str to sequences of WeightedEnsemble
        Ensembles of one potential at different temperatures.
    file : path or file object
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    for (label, ensembles), colour, marker in zip(curves.items(), cycle(COLOURS), cycle("os^D")):
        points = sorted((e.system.units.temperature_kelvin, *heat_capacity(e)) for e in ensembles)
        t, c, error = zip(*points)
        axis.errorbar(t, c, error, color=colour, marker=marker, ms=5, lw=1.2, capsize=3, label=label)
    axis.set(xlabel="temperature (K)", ylabel="heat capacity ($k_B$)")
    first = next(iter(curves.values()))[0].system
    name = first.name.removesuffix(f"-{first.units.temperature_kelvin:g}K")
    axis.set_title(f"{name}: heat capacity, with bars of one standard error", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    save_png(figure, file)
