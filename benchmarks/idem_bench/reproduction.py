"""One table that anyone can make again, in as many pieces of time as it takes, beside the published numbers."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from idem_md.checks import check_float, check_int
from idem_md.energies import GaussianMixture
from idem_md.ensemble import load_ensemble
from idem_md.errors import UsageError
from idem_md.files import atomic_set, write_atomic
from idem_md.provenance import bare, hardware, sources
from idem_md.report.figures import plot_energies
from idem_md.systems import get_system
from idem_md.training import preset

from .figures import plot_methods
from .methods import kept_methods, methods_table, with_error
from .mixture_figures import plot_mixture, plot_scores
from .pieces import (
    PROTOCOLS,
    RAW_NFES,
    REFERENCE_SAMPLES,
    SEED,
    Piece,
    methods_file,
    pieces_of,
    raw_file,
    reference_sets,
    shipped,
)
from .target_figures import plot_bias_by_energy, plot_estimators

__all__ = ["raw_table", "reproduce"]

# Order of work: what takes seconds, then trainings, seed by seed, then what takes long.
LAST = "shipped, best method"

HEADER = """# All systems

Written by `python -m idem_bench reproduce`. *Shipped* networks follow the plans of their checkpoints, annealing and
Langevin steps included, for so many network evaluations; the others were trained from nothing, by name of the preset,
for equal wall time, and sampled without anything after the network: mean (smallest – largest) over seeds. *Exact,
second set* is the noise floor: what one exact set gives against another. *Exploded* samples, more than 100 kT above
the highest exact energy, are left out of the metrics. Averages with a dagger (†) have fewer than 30 effective samples
or a Pareto k above 0.7: neither they nor any error of theirs can be trusted. What has not been run is said.

"""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _kept(path: Path, piece: Piece) -> dict[str, Any] | None:
    """The row of an earlier call, if it was of the same settings."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return row if row["asked"] == dict(piece.asked) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _order(piece: Piece) -> tuple[int, int]:
    if piece.seed is not None:
        return 1, piece.seed
    return (2 if piece.settings == LAST else 0), 0


def reproduce(
    systems: Sequence[str],
    presets: Sequence[str] = ("refined", "idem", "pdem"),
    seeds: int | None = None,
    out: Path = Path("runs/reproduce"),
    minutes: float | None = None,
    budget_minutes: float | None = None,
    n: int | None = None,
    on_run: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure what is not there yet; writes ``table.md``, ``rows.json`` and figures to ``out``.

    Shipped networks, raw and weighted, and networks trained from nothing. What a call has no time for is said in the
    table; the next call goes on.

    Parameters
    ----------
    systems, presets : sequences of str
        Names; presets get equal wall time.
    seeds : int, optional
        0, 1, ... for each; 0: only the shipped networks; by default what the protocols ask for.
    out : Path
        Keeps rows, training runs, samples and reference sets.
    minutes : float, optional
        Wall time of a training; by default that of `PROTOCOLS`.
    budget_minutes : float, optional
        Wall time of this call. Trainings are interrupted; the sampling of a row is not.
    n : int, optional
        Samples of each row, not more than the 10,000 of the exact sets; by default what the protocols ask for.
    on_run : callable (str), optional
        Told what is going on.

    Returns
    -------
    list of dict
        What ``rows.json`` holds: the noise floor, each piece, with ``missing`` where it has not been measured, and the
        published numbers.
    """
    seeds = None if seeds is None else check_int("seeds", seeds, 0)
    n = None if n is None else check_int("n", n, 2, REFERENCE_SAMPLES)
    deadline = math.inf
    if minutes is not None:
        check_float("minutes", minutes, above=0.0)
    if budget_minutes is not None:
        deadline = time.monotonic() + 60 * check_float("budget_minutes", budget_minutes, above=0.0)
    for system in systems:
        if system not in PROTOCOLS:
            raise UsageError(f"systems: expected some of {', '.join(PROTOCOLS)}, got {system!r}")
        for name in presets:
            preset(system, name)
    pieces = [p for system in systems for p in pieces_of(system, tuple(presets), seeds, minutes, n, out)]
    rows = {}
    for piece in sorted(pieces, key=_order):
        rows[piece.name] = _measured(piece, out, deadline, on_run)
    table = [rows[piece.name] for piece in pieces]
    for system in systems:
        numbers = PROTOCOLS[system]["published"]
        table += [{"system": system, "settings": f"published: {k}", "seed": None, **v} for k, v in numbers.items()]
    methods = {}
    for system in systems:
        size = PROTOCOLS[system]["methods"]["n"]
        if size and (kept := kept_methods(shipped(system), methods_file(out, system), n or size, SEED)):
            methods[system] = kept
    text = HEADER + raw_table(table)
    for system, kept in methods.items():
        text += f"\n## {system}: effective samples by method\n\n{methods_table(kept)}"
    write_atomic(out / "rows.json", json.dumps(table, indent=1, allow_nan=False).encode())
    write_atomic(out / "table.md", text.encode())
    drawn = dict(_figures(systems, presets, methods, out, deadline, on_run))
    write_atomic(out / "table.md", (text + _figure_list(drawn)).encode())
    return table


def _measured(piece: Piece, out: Path, deadline: float, on_run: Callable[[str], None]) -> dict[str, Any]:
    """A row that is there, or one that is now; or that it is missing."""
    path = out / "rows" / f"{piece.name}.json"
    row: dict[str, Any] = {
        "system": piece.system,
        "settings": piece.settings,
        "seed": piece.seed,
        "asked": dict(piece.asked),
    }
    kept = _kept(path, piece)
    if kept is not None:
        return kept
    if time.monotonic() < deadline:
        path.parent.mkdir(parents=True, exist_ok=True)
        on_run(f"{piece.system}: {piece.settings}" + ("" if piece.seed is None else f", seed {piece.seed}"))
        start, code = time.perf_counter(), sources()
        found = piece.measure(deadline)
        if found is not None:
            row = {**row, "code": code, "hardware": hardware(), "seconds": time.perf_counter() - start, **found}
            row = json.loads(json.dumps({k: _finite(v) for k, v in row.items()}, default=bare))
            write_atomic(path, json.dumps(row, indent=1, allow_nan=False).encode())
            return row
    return row | {"missing": True}


def _figures(
    systems: Sequence[str],
    presets: Sequence[str],
    methods: Mapping[str, Sequence[Mapping[str, Any]]],
    out: Path,
    deadline: float,
    on_run: Callable[[str], None],
) -> Iterator[tuple[str, float]]:
    """Draw what there are samples or rows for; yields names and seconds."""
    jobs: dict[str, Callable[[Path], object]] = {}
    for system in systems:
        files = {name: raw_file(out, system, name) for name in (*presets, *(f"shipped-{k}" for k in RAW_NFES))}
        shown = {name: load_ensemble(path) for name, path in files.items() if path.exists()}
        if shown:
            exact = reference_sets(system, out / "reference")[0]
            jobs[f"{system}-energies"] = partial(plot_energies, {"exact": exact, **shown})
        energy = get_system(system).energy()
        if isinstance(energy, GaussianMixture):
            if shown:
                jobs[f"{system}-samples"] = partial(plot_mixture, energy, shown)
            jobs[f"{system}-scores"] = partial(plot_scores, energy, shipped(system).checkpoint.denoiser)
            jobs[f"{system}-bias"] = plot_bias_by_energy
        if system == "lj13":
            jobs[f"{system}-estimators"] = plot_estimators
    if methods:
        jobs["ess-by-evaluations"] = partial(plot_methods, methods)
    for name, draw in jobs.items():
        path = out / f"{name}.png"
        # These two are measurements of their own, of nothing that changes from call to call.
        if time.monotonic() > deadline or (path.exists() and name.endswith(("-bias", "-estimators"))):
            continue
        on_run(f"figure {path.name}")
        start = time.perf_counter()
        with atomic_set({"": path}) as new:
            draw(new[""])
        yield path.name, time.perf_counter() - start


# Key -> heading and format.
COLUMNS = {
    "nfe": ("evaluations", ".0f"),
    "energy_w2": ("E-W2 (kT)", ".2f"),
    "plain_w2": ("plain W2", ".2f"),
    "aligned_w2": ("aligned W2", ".2f"),
    "total_variation": ("TV of distances", ".3f"),
    "modes": ("modes", ".0f"),
    "mode_tv": ("TV of modes", ".3f"),
    "exploded_share": ("exploded", ".2%"),
    "ess_fraction": ("effective", ".2%"),
    "log_z": ("log Z", ".3f"),
    "mean_energy": ("mean energy (kT)", ".2f"),
    "training_seconds": ("training (s)", ".0f"),
    "training_energy_calls": ("its energy calls", ".2e"),
    "sampling_seconds": ("sampling (s)", ".0f"),
    "sampling_energy_calls": ("its energy calls", ".2e"),
}


def _cell(key: str, members: Sequence[Mapping[str, Any]]) -> str:
    """Mean (smallest – largest) over the seeds."""
    spec = COLUMNS[key][1]
    values = [r[key] for r in members if r.get(key) is not None]
    note = ""
    if key == "energy_w2":
        missing, failed = (sum(bool(r.get(k)) for r in members) for k in ("missing", "failure"))
        notes = [f"{k} of {len(members)} {what}" for k, what in ((failed, "failed"), (missing, "not run")) if k]
        note = "; ".join(notes)
    if not values:
        return note or "–"
    if len(members) == 1 and key in ("log_z", "mean_energy"):
        return with_error(members[0], key, spec)
    text = format(sum(values) / len(values), spec)
    least, most = format(min(values), spec), format(max(values), spec)
    if least != most:
        text += f" ({least} – {most})"
    return text + (f"; {note}" if note else "")


def raw_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `reproduce` as Markdown, a table a system; runs of one preset as mean (smallest – largest) over their
    seeds, and below which code and machine they are of."""
    parts = []
    for system in dict.fromkeys(row["system"] for row in rows):
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["system"] == system:
                groups.setdefault(row["settings"], []).append(row)
        here = [row for members in groups.values() for row in members]
        keys = [key for key in COLUMNS if any(r.get(key) is not None for r in here)]
        keys = keys if "energy_w2" in keys else ["energy_w2", *keys]
        lines = [f"## {system}", "", "| | " + " | ".join(COLUMNS[key][0] for key in keys) + " |"]
        lines.append("|" + "---|" * (len(keys) + 1))
        for settings, members in groups.items():
            lines.append(f"| {settings} | {' | '.join(_cell(key, members) for key in keys)} |")
        made = [f"{row['code']} on {row['hardware']}" for row in here if "code" in row]
        notes = [f"Code {where}: {k} row{'s' * (k > 1)}." for where, k in Counter(made).items()]
        parts.append("\n".join([*lines, "", *notes]))
    return "\n\n".join(parts) + "\n"


def _figure_list(drawn: Mapping[str, float]) -> str:
    lines = [f"- {name}, drawn in {seconds:.0f} s" for name, seconds in drawn.items()]
    return "\n## Figures\n\n" + "\n".join(lines) + "\n" if lines else ""
