"""Interactive figures, as JSON for plotly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..analysis import FULL_TURN, OBSERVABLES, Curve, torsion_atoms, torsions_of, turned
from ..ensemble import WeightedEnsemble
from ..ensemble.estimators import log_mean_weight
from .figures import COLOURS, densities, density_edges, named

__all__ = ["Plot", "plots", "structures"]

# Structures to look at, of each ensemble; points of a plane that are drawn.
HEAVIEST, POINTS = 6, 2000
# Torsions of a molecule that are drawn.
MOST_TORSIONS = 4
# Atoms nearer than so many times the median distance of nearest neighbours are joined.
REACH = 1.35


class Plot(NamedTuple):
    """A figure with its heading, what to see in it, and its specification."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]


def _axes(figure: go.Figure, x: str, y: str, **more) -> dict[str, Any]:
    """The figure with its axes, as plotly takes it."""
    figure.update_layout(
        # Labels stand off, or the first may lie on that of the other axis.
        xaxis={"title": {"text": x, "standoff": 8}, "automargin": True, "ticklabelstandoff": 8},
        yaxis={"title": {"text": y, "standoff": 8}, "automargin": True, **more},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hovermode="closest",
        hoverdistance=-1,  # the nearest point, however far
        template="none",
    )
    return figure.to_plotly_json()


def _band(figure: go.Figure, curve: Curve, label: str, colour: str) -> None:
    """A curve with a band of one standard error on either side."""
    x, y = curve.centres.tolist(), curve.values
    error = np.nan_to_num(curve.errors)
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*(y + error).tolist(), *(y - error).tolist()[::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.2)",
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=label,
        showlegend=False,
    )
    figure.add_scatter(
        x=x,
        y=y.tolist(),
        mode="lines",
        line={"color": colour, "width": 2},
        name=label,
        legendgroup=label,
        customdata=error.tolist(),
        hovertemplate=f"%{{x:.4g}}: %{{y:.4g}} ± %{{customdata:.2g}}<extra>{label}</extra>",
    )


def _densities(ensembles: Mapping[str, WeightedEnsemble], values, x: str, y: str, edges=None) -> dict[str, Any]:
    """Densities of values (ensemble -> array of its samples of some weight), by weight; raw ones dotted. By default
    edges are where the values are."""
    found = {label: values(e) for label, e in ensembles.items()}
    edges = density_edges(ensembles, found, 0.001) if edges is None else edges
    figure = go.Figure()
    for (label, e), colour in zip(ensembles.items(), COLOURS):
        curve, density = densities(e, found[label], edges)
        if curve is not None:
            _band(figure, curve, named(label, e), colour)
        if density is not None:
            figure.add_scatter(
                x=(0.5 * (edges[1:] + edges[:-1])).tolist(),
                y=density.tolist(),
                mode="lines",
                line={"color": colour, "width": 1.5, "dash": "dot"},
                name=f"{label}, weights ignored",
                visible=True if e.kind == "raw" else "legendonly",
                hovertemplate=f"%{{x:.4g}}: %{{y:.4g}}<extra>{label}, weights ignored</extra>",
            )
    return _axes(figure, x, y, rangemode="tozero")


def _weights(ensembles: Mapping[str, WeightedEnsemble]) -> dict[str, Any]:
    figure = go.Figure()
    for (label, e), colour in zip(ensembles.items(), COLOURS):
        if e.kind == "importance":
            log_w = e.log_weights[e.alive] - log_mean_weight(e.log_weights)
            figure.add_histogram(x=log_w.tolist(), nbinsx=60, name=label, marker={"color": colour}, opacity=0.7)
    figure.update_layout(barmode="overlay")
    return _axes(figure, "log weight (0: that of the mean)", "samples")


def _plane(ensembles: Mapping[str, WeightedEnsemble]) -> dict[str, Any]:
    """Points of a single particle in the plane, resampled by weight."""
    figure = go.Figure()
    for (label, e), colour in zip(ensembles.items(), COLOURS):
        x = (e if e.kind == "raw" else e.resample(min(len(e), POINTS), seed=0)).positions[:POINTS, 0]
        x = e.system.units.to_angstrom(x)
        figure.add_scatter(
            x=x[:, 0].tolist(), y=x[:, 1].tolist(), mode="markers", name=label, marker={"color": colour, "size": 4}
        )
    return _axes(figure, "x (Å)", "y (Å)", scaleanchor="x")


def plots(ensembles: Mapping[str, WeightedEnsemble]) -> list[Plot]:
    """Those that suit the system, in the order in which to look at them."""
    first = next(iter(ensembles.values()))
    length, n_atoms = first.system.units.length_angstrom, first.positions.shape[1]

    def observed(name: str):
        return lambda e: OBSERVABLES[name](e.positions[e.alive]) * length

    found = [
        Plot(
            "energies",
            "Energies",
            "Bands are one standard error. Drag to zoom, double-click to go back; click a name to hide or show it.",
            _densities(ensembles, lambda e: e.energies[e.alive], "energy (kT)", "probability density (1/kT)"),
        )
    ]
    if n_atoms > 1:
        captions = {
            "pair-distances": "All pairs of atoms together.",
            "rg": "Root mean square distance of the atoms from their centroid.",
        }
        for name, key, title, x in (
            ("pair-distances", "pairs", "Pair distances", "distance (Å)"),
            ("rg", "rg", "Radius of gyration", "radius of gyration (Å)"),
        ):
            spec = _densities(ensembles, observed(name), x, "probability density (1/Å)")
            found.append(Plot(key, title, captions[name], spec))
        named_by = next((e.system for e in ensembles.values() if e.system.chemistry is not None), first.system)
        for name in torsions_of(named_by)[:MOST_TORSIONS]:
            atoms = torsion_atoms(named_by, name)  # by which files without names have it as well
            values = partial(turned, atoms=atoms)
            spec = _densities(ensembles, values, f"{name} (°)", "probability density (1/°)", FULL_TURN[::2])
            found.append(Plot(name, f"Torsion {name}", "A full turn, by weight.", spec))
    else:
        caption = f"Up to {POINTS} samples of each, drawn by weight."
        found.append(Plot("plane", "Where the particle is", caption, _plane(ensembles)))
    if any(e.kind == "importance" for e in ensembles.values()):
        caption = (
            "How many samples have which weight. The further to the right the tail goes, the fewer samples carry the "
            "averages."
        )
        found.append(Plot("weights", "Weights", caption, _weights(ensembles)))
    return found


def structures(ensembles: Mapping[str, WeightedEnsemble]) -> dict[str, list[dict[str, Any]]]:
    """For each ensemble its samples of largest weight (of equal weights the first): what to call them, traces of atoms
    and bonds, as plotly takes them. None for single particles."""
    out: dict[str, list[dict[str, Any]]] = {}
    for label, e in ensembles.items():
        if e.positions.shape[1] < 2:
            return {}
        chosen = np.argsort(-e.log_weights, kind="stable")[:HEAVIEST]
        w, bonds = None if e.kind == "raw" else e.weights, e.system.named_atoms.bonds
        out[label] = [
            {
                "name": f"{k}: {e.energies[k]:.1f} kT" + ("" if w is None else f", {100 * w[k]:.2g}%"),
                "data": _atoms(e.system.units.to_angstrom(e.positions[k]), e.system.elements, bonds),
            }
            for k in chosen
            if np.isfinite(e.positions[k]).all()
        ]
    return out


def _atoms(x: np.ndarray, elements: tuple[str, ...], known: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Atoms and bonds; those of a molecule, or between nearest neighbours."""
    x = x - x.mean(0)
    flat = x.shape[1] == 2
    kind = {"type": "scatter" if flat else "scatter3d"}
    d = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    if known:
        i, j = np.array(known).T
    else:
        i, j = np.nonzero(np.triu(d < REACH * np.median(d.min(1))))
    bonds = np.stack([x[i], x[j], np.full((len(i), x.shape[1]), np.nan)], axis=1).reshape(-1, x.shape[1])
    axes = "xy" if flat else "xyz"

    def columns(points: np.ndarray) -> dict[str, list]:
        rounded = np.round(points, 3).astype(object)
        rounded[np.isnan(points)] = None
        return {name: rounded[:, k].tolist() for k, name in enumerate(axes)}

    kinds = sorted(set(elements))
    line = {"mode": "lines", "line": {"color": "#888888", "width": 4}, "hoverinfo": "skip", "showlegend": False}
    traces = [kind | columns(bonds) | line]
    for colour, element in zip(COLOURS, kinds):
        mine = np.array([e == element for e in elements])
        marker = {"size": 18 if flat else 11, "color": colour, "line": {"width": 1, "color": "#444444"}}
        style = {"mode": "markers", "marker": marker, "name": element, "showlegend": len(kinds) > 1}
        traces.append(kind | columns(x[mine]) | style)
    return traces
