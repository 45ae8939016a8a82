"""One table from nothing: train, sample, measure, per system, preset and seed, beside the published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import Reference, raw_metrics
from ..baselines import reference_engine
from ..checks import check_float, check_int
from ..energies import GaussianMixture, Modes
from ..ensemble import WeightedEnsemble, load_ensemble
from ..errors import ResultError, UsageError
from ..files import atomic_set, write_atomic
from ..report.figures import plot_energies
from ..sampler import load_sampler
from ..systems import get_system
from ..tables import tomllib
from ..training import preset, train
from .mixture_figures import plot_mixture, plot_scores

__all__ = ["PROTOCOLS", "raw_table", "reference_sets", "reproduce"]

# System -> budget, protocol and published numbers.
PROTOCOLS: dict[str, dict[str, Any]] = tomllib.loads(
    files(__package__).joinpath("published.toml").read_text(encoding="utf-8")
)


def reference_sets(system: str, folder: Path, n: int = 10_000) -> tuple[WeightedEnsemble, WeightedEnsemble]:
    """Two independent exact sets, kept in ``folder`` once made: parallel tempering, or a formula where there is one.

    The same as ``idem-md baseline SYSTEM --engine pt|exact -n N --seed 0|1``.
    """
    engine = reference_engine(system)
    sets = []
    for seed in (0, 1):
        path = folder / f"{system}-{engine.name}-{seed}.dcd"
        if not path.with_suffix(".npz").exists():  # which is written last
            folder.mkdir(parents=True, exist_ok=True)
            engine.run(system, n, seed=seed).save(path)
        sets.append(load_ensemble(path))
    return sets[0], sets[1]


def _centres(system: str):
    energy = get_system(system).energy()
    return energy.means if isinstance(energy, Modes) else None


def _row(system: str, label: str, seed: int | None, metrics: Mapping[str, Any], **facts) -> dict[str, Any]:
    return {"system": system, "settings": label, "seed": seed, **metrics, **facts}


def _measure(source, system: str, label: str, seed: int, reference: Reference, n: int | None):
    """Raw metrics of one checkpoint, with its costs; where the protocol says so also after a few Langevin steps."""
    sampler, protocol = load_sampler(source), PROTOCOLS[system]["raw"]
    kernel, nfe = protocol["kernel"], protocol["nfe"]
    raw = sampler.sample(n or protocol["n"], nfe, seed=1000 + seed, kernel=kernel, last_step="plain")
    metrics = raw_metrics(raw.positions, raw.energies, reference, _centres(system))
    if protocol["mala_steps"]:
        moved = raw.refine(protocol["mala_steps"], seed=seed, resample=False)
        after = raw_metrics(moved.positions, moved.energies, reference, aligned=False, plain=False)
        metrics["energy_w2_after_mala"] = after["energy_w2"]
    cost = sampler.checkpoint.provenance
    facts = {
        "training_seconds": cost["seconds"],
        "training_energy_calls": cost["energy_calls"],
        "training_threads": cost["threads"],
        "sampling_seconds": raw.provenance["seconds"],
        "nfe": nfe,
        "kernel": kernel,
        "hardware": raw.provenance["hardware"],
    }
    return _row(system, label, seed, metrics, **facts), raw


def _draw(system: str, out: Path, reference: WeightedEnsemble, shown: Mapping[str, WeightedEnsemble], source) -> None:
    """The figures of a system, all or none."""
    energy = get_system(system).energy()
    names = ("energies", "samples", "scores") if isinstance(energy, GaussianMixture) else ("energies",)
    with atomic_set({name: out / f"{system}-{name}.png" for name in names}) as new:
        plot_energies({"exact": reference, **shown}, new["energies"])
        if isinstance(energy, GaussianMixture):
            plot_mixture(energy, shown, new["samples"])
            plot_scores(energy, load_sampler(source).checkpoint.denoiser, new["scores"])


def reproduce(
    systems: Sequence[str],
    presets: Sequence[str] = ("refined", "idem"),
    seeds: int = 3,
    out: Path = Path("runs/reproduce"),
    minutes: float | None = None,
    n: int | None = None,
    on_run: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train what is not there yet, sample, measure; writes ``table.md``, ``rows.json`` and figures to ``out``.

    Parameters
    ----------
    systems, presets : sequences of str
        Names; presets get equal wall time.
    seeds : int
        0, 1, ... for each.
    out : Path
        Keeps the training runs, which a second call resumes or finds done, and the reference sets.
    minutes : float, optional
        Wall time of a training; by default that of `PROTOCOLS`.
    n : int, optional
        Raw samples of each checkpoint; by default what the protocols ask for, 2000 or, for GMM-40, 10,000.
    on_run : callable (str), optional
        Told what is going on.

    Returns
    -------
    list of dict
        What ``rows.json`` holds: the noise floor, each run, and the published numbers.
    """
    seeds, n = check_int("seeds", seeds, 1), None if n is None else check_int("n", n, 2)
    if minutes is not None:
        check_float("minutes", minutes, above=0.0)
    for system in systems:
        if system not in PROTOCOLS:
            raise UsageError(f"systems: expected some of {', '.join(PROTOCOLS)}, got {system!r}")
        for name in presets:
            preset(system, name)
    rows = []
    for system in systems:
        protocol = PROTOCOLS[system]
        on_run(f"{system}: reference sets")
        exact, second = reference_sets(system, out / "reference")
        reference, size = Reference.of(exact), n or protocol["raw"]["n"]
        floor = raw_metrics(second.positions[:size], second.energies[:size], reference, _centres(system))
        rows.append(_row(system, "exact, second set", None, floor))
        shown: dict[str, WeightedEnsemble] = {}
        for name in presets:
            for seed in range(seeds):
                folder = out / f"{system}-{name}-{seed}"
                on_run(f"{system}: {name}, seed {seed}")
                if not (folder / "model.safetensors").exists():
                    train(
                        preset(system, name, seed),
                        folder,
                        resume=(folder / "state.safetensors").exists(),
                        minutes=protocol["minutes"] if minutes is None else minutes,
                    )
                try:
                    row, raw = _measure(folder, system, name, seed, reference, n)
                    shown.setdefault(name, raw)
                except ResultError as error:  # every sample exploded: that belongs into the table
                    row = _row(system, name, seed, {"failure": str(error)})
                rows.append(row)
        rows += [_row(system, f"published: {name}", None, numbers) for name, numbers in protocol["published"].items()]
        _draw(system, out, exact, shown, out / f"{system}-{presets[0]}-0")
    write_atomic(out / "rows.json", json.dumps([_jsonable(r) for r in rows], indent=1, allow_nan=False).encode())
    write_atomic(out / "table.md", raw_table(rows).encode())
    return rows


def _jsonable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


# Key -> heading and format.
COLUMNS = {
    "energy_w2": ("E-W2 (kT)", ".2f"),
    "plain_w2": ("plain W2", ".2f"),
    "aligned_w2": ("aligned W2", ".2f"),
    "total_variation": ("TV of distances", ".3f"),
    "modes": ("modes", ".0f"),
    "mode_tv": ("TV of modes", ".3f"),
    "exploded": ("exploded", ".0f"),
    "energy_w2_after_mala": ("E-W2 after MALA", ".2f"),
    "training_seconds": ("training (s)", ".0f"),
    "training_energy_calls": ("energy calls", ".2e"),
}


def _cell(key: str, members: Sequence[Mapping[str, Any]]) -> str:
    """Mean (smallest – largest) over the seeds."""
    spec = COLUMNS[key][1]
    values = [r[key] for r in members if key in r]
    failed = sum("failure" in r for r in members)
    note = f"{failed} of {len(members)} seeds failed" if failed and key == "energy_w2" else ""
    if not values:
        return note or "–"
    mean = format(float(np.mean(values)), spec)
    spread = f" ({min(values):{spec}} – {max(values):{spec}})" if len(values) > 1 else ""
    return mean + spread + (f"; {note}" if note else "")


def raw_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `reproduce` as Markdown; runs of one preset as mean (smallest – largest) over their seeds."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["system"], row["settings"]), []).append(row)
    keys = [key for key in COLUMNS if any(key in r for r in rows)]
    headings = ["system", "settings", *(COLUMNS[key][0] for key in keys)]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for (system, settings), members in groups.items():
        lines.append(f"| {system} | {settings} | {' | '.join(_cell(key, members) for key in keys)} |")
    return "\n".join(lines) + "\n"
