"""The figure of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from idem_md.report.figures import COLOURS, save_png

__all__ = ["plot_methods"]


def plot_methods(systems: Mapping[str, Sequence[Mapping[str, Any]]], file) -> None:
    """Share of effective samples against network evaluations as PNG, a panel a system: rows of
    `measure_methods`; lines for the last step of the plan, dashes for the plain one."""
    figure = Figure(figsize=(1.2 + 3.6 * len(systems), 3.6), layout="constrained")
    panels = figure.subplots(1, len(systems), squeeze=False, sharey=True)[0]
    kernels = list(dict.fromkeys(row["kernel"] for rows in systems.values() for row in rows))
    for axis, (name, rows) in zip(panels, systems.items()):
        for kernel, colour in zip(kernels, cycle(COLOURS)):
            for asked, style in (("plan", "-"), ("plain", "--")):
                points = [(r["nfe"], r["ess_fraction"]) for r in rows if (r["kernel"], r["asked"]) == (kernel, asked)]
                if points:
                    label = f"{kernel}, {'last step of the plan' if asked == 'plan' else 'plain'}"
                    axis.plot(*zip(*sorted(points)), style, color=colour, marker="o", ms=3.5, lw=1.6, label=label)
        axis.set(xscale="log", yscale="log", title=name, xlabel="network evaluations", ylim=(1e-4, 1.15))
        ticks = [4, 6, 10, 16, 25, 50, 100]
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of effective samples")
    handles: dict[str, Any] = {}
    for axis in panels:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1]))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(len(systems) + 1, 4),
        frameon=False,
        fontsize=8,
        handlelength=3.2,
    )
    figure.suptitle(
        "With the last step of the plan most samples are effective from four evaluations on, by the best kernel",
        fontsize=11,
    )
    save_png(figure, file)
