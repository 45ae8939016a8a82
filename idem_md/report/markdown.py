"""A comparison as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["table"]

COLUMNS = (
    "ensemble",
    "n",
    "ESS",
    "mean energy (kT)",
    "raw median",
    "E-W2 raw / weighted",
    "aligned W2",
    "TV raw / weighted",
    "exploded",
    "seconds",
    "energy calls",
)


def _number(value, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def table(summary: Mapping[str, Any]) -> str:
    """What `compare` returned, as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for label, s in summary["ensembles"].items():
        m, cost = summary["metrics"].get(label), s["cost"]
        if m is None:
            metrics = ["reference", "–", "–", "–"]
        else:
            raw, weighted = m["raw"], m["weighted"]
            metrics = [
                f"{raw['energy_w2']:.2f} / {_number(weighted.get('energy_w2'), '.2f')}",
                _number(raw.get("aligned_w2"), ".2f"),
                f"{_number(raw.get('total_variation'), '.3f')} / {_number(weighted.get('total_variation'), '.3f')}",
                str(m["exploded"]),
            ]
        mean = f"{s['mean_energy']:.2f} ± {_number(s['mean_energy_err'], '.2f')}"
        cells = [
            label,
            str(s["n"]),
            _number(s["ess"], ".0f"),
            mean,
            _number(s["raw_median_energy"], ".2f"),
            *metrics,
            _number(cost["seconds"], ".1f"),
            _number(cost["energy_calls"], "d"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
