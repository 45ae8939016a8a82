"""A comparison as tables: rows of text, and Markdown made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..rounding import with_error
from .costs import SPREAD

__all__ = ["Table", "table", "tables"]


class Table(NamedTuple):
    """A heading, what to know to read it, the names of columns, and an ensemble a row."""

    heading: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(summary: Mapping[str, Any]) -> dict[str, Table]:
    """What `compare` found, by ``averages``, ``distances``, ``costs`` and ``training``; cells are text."""
    return {
        "averages": Table(
            "Averages",
            "Errors are one standard error. The last column says how far each mean energy is from that of the "
            "reference, in standard errors of the difference.",
            (
                "ensemble",
                "samples",
                "effective",
                *(f"mean energy ({unit})" for unit in summary["kT"]),
                "log Z",
                "standard errors apart",
            ),
            list(_averages(summary)),
        ),
        "distances": Table(
            "Distances from the reference",
            "Raw samples are those without their weights. Each distance stands beside what chance gives, in "
            "parentheses: the same distance between two halves of the reference, scaled to as many independent samples "
            "as are compared (aligned W2 is not scaled).",
            (
                "ensemble",
                "raw median (kT)",
                "energy W2, raw (kT)",
                "weighted (kT)",
                "aligned W2, raw",
                "total variation, raw",
                "weighted",
                "exploded",
            ),
            list(_distances(summary)),
        ),
        "costs": Table(
            "Costs",
            "Effective samples a second and an energy call are those of sampling alone. Machines differ: compare what "
            "ran on the same hardware.",
            (
                "ensemble",
                "seconds",
                "network evaluations",
                "energy calls",
                "effective a second",
                "effective an energy call",
            ),
            list(_costs(summary)),
        ),
        "training": Table(
            "Costs with the training",
            f"The training is spread over {' or '.join(f'{n:,}' for n in SPREAD)} samples.",
            (
                "ensemble",
                *(f"effective a second, over {n:,}" for n in SPREAD),
                *(f"effective an energy call, over {n:,}" for n in SPREAD),
            ),
            list(_with_training(summary)),
        ),
    }


def _number(value, spec: str) -> str:
    return "–" if value is None else format(value, spec)


def _rate(value: float | None) -> str:
    return _number(value, ",.0f" if value is not None and value >= 100 else ".3g")


def _averages(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    for label, s in summary["ensembles"].items():
        apart = "reference" if label == summary["reference"] else _number(s["standard_errors_apart"], ".1f")
        mean, error = s["mean_energy"], s["mean_energy_err"]
        yield [
            label,
            f"{s['n']:,}",
            _number(s["ess"], ",.0f"),
            *(with_error(f * mean, None if error is None else f * error) for f in summary["kT"].values()),
            "–" if s["log_z"] is None else with_error(s["log_z"], s["log_z_err"]),
            apart,
        ]


def _distances(summary: Mapping[str, Any]) -> Iterator[list[str]]:

    def beside(value: float | None, floor: float | None, spec: str) -> str:
        return _number(value, spec) + ("" if value is None or floor is None else f" ({floor:{spec}})")

    for label, s in summary["ensembles"].items():
        m = summary["metrics"].get(label)
        if m is None:
            metrics = ["–"] * 6
        else:
            floors = summary["floors"][label]
            specs = {"energy_w2": ".2f", "aligned_w2": ".2f", "total_variation": ".3f"}
            raw, weighted = (
                {key: beside(m[kind].get(key), floors[kind].get(key), spec) for key, spec in specs.items()}
                for kind in ("raw", "weighted")
            )
            metrics = [
                raw["energy_w2"],
                weighted["energy_w2"],
                raw["aligned_w2"],
                raw["total_variation"],
                weighted["total_variation"],
                str(m["exploded"]),
            ]
        yield [label, _number(s["raw_median_energy"], ".2f"), *metrics]


def _costs(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    for label, s in summary["ensembles"].items():
        c = s["cost"]
        yield [
            label,
            _number(c["seconds"], ".1f"),
            _number(c["nfe"], "d"),
            _number(c["energy_calls"], ",d"),
            _rate(c["ess_per_second"]),
            _rate(c["ess_per_energy_call"]),
        ]


def _with_training(summary: Mapping[str, Any]) -> Iterator[list[str]]:
    for label, s in summary["ensembles"].items():
        c = s["cost"]
        spread = [c["spread"][str(n)] for n in SPREAD] if c["training"] else [{}] * len(SPREAD)
        rates = [[_rate(one.get(key)) for one in spread] for key in ("ess_per_second", "ess_per_energy_call")]
        yield [label, *rates[0], *rates[1]]


def table(summary: Mapping[str, Any]) -> str:
    """What `compare` returned, as Markdown: the verdict and what each set is worth, then tables."""
    lines = [f"- {s}" for s in summary["sentences"]]
    for heading, note, columns, rows in tables(summary).values():
        lines += ["", f"## {heading}", "", note, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines) + "\n"
