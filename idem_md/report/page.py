"""A comparison as one HTML file that needs nothing else: no network, no fonts, no files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import Any

from ..ensemble import WeightedEnsemble
from .markdown import Table, tables
from .plots import Plot, plots, structures

__all__ = ["page"]


def page(ensembles: Mapping[str, WeightedEnsemble], summary: Mapping[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    ensembles : dict
    summary : dict
        What `comparison.compare` found.
    """
    from plotly.offline import get_plotlyjs

    figures = plots(ensembles)
    shapes = structures(ensembles)
    head, reference = summary["system"], summary["reference"]
    data = {
        "plots": {p.key: p.spec for p in figures},
        "structures": shapes,
        "flat": next(iter(ensembles.values())).positions.shape[2] == 2,
    }
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    others = [label for label in summary["ensembles"] if label != reference]
    return template.substitute(
        title=escape(f"{head}: {', '.join(others)} against {reference}"),
        verdict="\n".join(f"<p>{escape(s)}</p>" for s in summary["sentences"][: len(others)]),
        words="\n".join(f"<li>{escape(s)}</li>" for s in summary["sentences"][len(others) :]),
        **{name: _table(one) for name, one in tables(summary).items()},
        protocol=_definitions(summary["protocol"]),
        figures="\n".join(map(_figure, figures)),
        structures=_structures(shapes),
        details="\n".join(
            f"<details><summary>{escape(label)}</summary><pre>"
            f"{escape(json.dumps(e.provenance, indent=1, sort_keys=True))}</pre></details>"
            for label, e in ensembles.items()
        ),
        version=escape(version("idem-md")),
        # The same JSON, in which nothing can end or begin an element of the page.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
    )


def _table(one: Table) -> str:
    """A table and what to know to read it. Cells know their column, for narrow screens, where each row becomes a
    card."""
    _, note, columns, rows = one
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = []
    for first, *rest in rows:
        cells = "".join(f'<td data-label="{escape(c)}">{escape(v)}</td>' for c, v in zip(columns[1:], rest))
        body.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        f'<p class="soft">{escape(note)}</p>'
    )


def _definitions(pairs: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items())


def _figure(p: Plot) -> str:
    return (
        f'<figure><h3>{escape(p.title)}</h3><div class="plot" id="{p.key}" role="img" aria-label="{escape(p.title)}">'
        f"</div><figcaption>{escape(p.caption)}</figcaption></figure>"
    )


def _structures(shapes: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not any(shapes.values()):
        return ""
    options = "".join(
        f'<optgroup label="{escape(label)}">'
        + "".join(
            f'<option value="{escape(json.dumps([label, k]))}">{escape(label)} {escape(one["name"])}</option>'
            for k, one in enumerate(found)
        )
        + "</optgroup>"
        for label, found in shapes.items()
    )
    return (
        '<figure class="wide"><h3>Structures</h3><label for="which">Samples of largest weight, with their energy and '
        f'share</label> <select id="which">{options}</select>'
        '<div class="plot tall" id="structure" role="img" aria-label="Structure"></div>'
        "<figcaption>Turn it by dragging, zoom by scrolling or pinching.</figcaption></figure>"
    )
