"""What a training log shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from .figures import COLOURS, save_png

__all__ = ["plot_training"]


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def plot_training(log: Sequence[Mapping[str, Any]], file) -> None:
    """Loss by noise level, and energies of raw and of weighted samples beside the buffer's, over the seconds of a run.

    Parameters
    ----------
    log : sequence of dict
        Entries of ``log.jsonl``, one an outer iteration.
    file : path or file object
    """
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    seconds = np.array([entry["seconds"] for entry in log])
    losses, edges = np.array([entry["loss_by_sigma"] for entry in log]), log[0]["sigma_edges"]
    shades = colormaps["viridis"](np.linspace(0, 0.9, losses.shape[1]))
    # A level that no draw of an iteration fell into has no loss.
    for values, lo, hi, shade in zip(np.where(losses > 0, losses, np.nan).T, edges, edges[1:], shades):
        left.plot(seconds, values, ".-", ms=3, lw=1.2, color=shade, label=f"{lo:.2g} – {hi:.2g}")
    left.set(xlabel="seconds", ylabel="squared error, units of the network's output", yscale="log")
    above: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
    left.legend(title="noise level σ", fontsize=7, title_fontsize=8, ncols=4, **above)
    series = (("raw_median_energy", "raw samples, median"), ("buffer_mean_energy", "replay buffer, mean"))
    by_weight = [
        (s, entry["weighted_mean_energy"], entry["weighted_mean_energy_err"])
        for s, entry in zip(seconds, log)
        if _is_known(entry.get("weighted_mean_energy"))
    ]
    if by_weight:
        x, y, error = map(list, zip(*by_weight))
        right.errorbar(x, y, error, fmt="s", ms=3, lw=0.8, color=COLOURS[2], label="fresh samples by weight, mean")
    for (key, label), colour in zip(series, COLOURS):
        known = [(s, entry[key]) for s, entry in zip(seconds, log) if _is_known(entry[key])]
        if known:
            right.plot(*zip(*known), ".-", ms=4, lw=1.4, color=colour, label=label)
    # The first samples of an untrained network may lie anywhere.
    shown = [*(key for key, _ in series), "weighted_mean_energy"]
    late = [entry[key] for key in shown for entry in log[len(log) // 4 :] if _is_known(entry.get(key))]
    if late:
        margin = 0.1 * max(float(np.ptp(late)), 1.0)
        right.set_ylim(min(late) - margin, max(late) + margin)
    right.set(xlabel="seconds", ylabel="energy u (kT)")
    right.legend(fontsize=8, **above)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    save_png(figure, file)
