"""A comparison as tables: rows of text, and Markdown made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .costs import SPREAD

__all__ = ["COST_COLUMNS", "METRIC_COLUMNS", "cost_rows", "metric_rows", "table"]

METRIC_COLUMNS = (
    "ensemble",
    "samples",
    "effective",
    "mean energy (kT)",
    "raw median (kT)",
    "log Z",
    "E-W2 raw / weighted (chance), kT",
    "aligned W2 (chance)",
    "TV raw / weighted (chance)",
    "exploded",
)
COST_COLUMNS = (
    "ensemble",
    "seconds",
    "network evaluations",
    "energy calls",
    "effective a second",
    "effective an energy call",
    *(f"a second, training over {n:,}" for n in SPREAD),
    *(f"an energy call, training over {n:,}" for n in SPREAD),
)


def _number(value, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def metric_rows(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    """Cells of `METRIC_COLUMNS`, an ensemble a row."""

    def beside(value: float | None, floor: float | None, spec: str) -> str:
        return _number(value, spec) + ("" if value is None or floor is None else f" ({floor:.3g})")

    for label, s in summary["ensembles"].items():
        m = summary["metrics"].get(label)
        if m is None:
            metrics = ["reference", "–", "–", "–"]
        else:
            floors = summary["floors"][label]
            specs = {"energy_w2": ".2f", "aligned_w2": ".2f", "total_variation": ".3f"}
            raw, weighted = (
                {key: beside(m[kind].get(key), floors[kind].get(key), spec) for key, spec in specs.items()}
                for kind in ("raw", "weighted")
            )
            metrics = [
                f"{raw['energy_w2']} / {weighted['energy_w2']}",
                raw["aligned_w2"],
                f"{raw['total_variation']} / {weighted['total_variation']}",
                str(m["exploded"]),
            ]
        log_z = "–" if s["log_z"] is None else f"{s['log_z']:.3f} ± {_number(s['log_z_err'], '.3f')}"
        yield [
            label,
            f"{s['n']:,}",
            _number(s["ess"], ",.0f"),
            f"{s['mean_energy']:.2f} ± {_number(s['mean_energy_err'], '.2f')}",
            _number(s["raw_median_energy"], ".2f"),
            log_z,
            *metrics,
        ]


def cost_rows(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    """Cells of `COST_COLUMNS`, an ensemble a row."""
    for label, s in summary["ensembles"].items():
        c = s["cost"]
        spread = [c["spread"][str(n)] for n in SPREAD] if c["training"] else [{}] * len(SPREAD)
        yield [
            label,
            _number(c["seconds"], ".1f"),
            _number(c["nfe"], "d"),
            _number(c["energy_calls"], ",d"),
            _number(c["ess_per_second"], ".3g"),
            _number(c["ess_per_energy_call"], ".3g"),
            *(_number(one.get("ess_per_second"), ".3g") for one in spread),
            *(_number(one.get("ess_per_energy_call"), ".3g") for one in spread),
        ]


def _markdown(columns: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def table(summary: Mapping[str, Any]) -> str:
    """What `compare` returned, as Markdown: sentences, metrics, costs."""
    words = [f"- {s}" for s in summary["sentences"]]
    metrics, cost = _markdown(METRIC_COLUMNS, metric_rows(summary)), _markdown(COST_COLUMNS, cost_rows(summary))
    return "\n".join([*words, "", *metrics, "", *cost]) + "\n"
