"""One table from nothing: train, sample, measure, per system, preset and seed, beside the published numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .analysis import raw_metrics
from .baselines import ENGINES
from .checks import UsageError, check_int
from .ensemble import WeightedEnsemble, load_ensemble
from .figures import plot_energies, plot_mixture, plot_scores
from .files import write_atomic
from .sampler import load_sampler
from .systems import get_system
from .training import preset, train

__all__ = ["BUDGET_MINUTES", "PUBLISHED", "raw_table", "reference_sets", "reproduce"]

# Wall time that every preset of a system gets.
BUDGET_MINUTES = {"gmm40": 5.0, "dw4": 5.0, "lj13": 20.0, "lj55": 150.0}
# Raw samples: kernel, network evaluations and number, fixed for all presets of a system.
RAW = {"gmm40": ("ddpm", 100, 10_000), "dw4": ("ddpm", 100, 2000), "lj13": ("ddpm", 200, 2000), "lj55": ("ddpm", 100, 2000)}
# Langevin steps after which the last column is measured.
MALA_STEPS = 200
# Energy-only results of the literature: name -> metric -> number, as collected from the papers and their re-runs.
PUBLISHED = {
    "gmm40": {"iDEM": {"plain_w2": 7.4}},
    "dw4": {"iDEM, re-run by others": {"energy_w2": 0.55}, "ASBS": {"energy_w2": 0.20}, "Flow Sampling": {"energy_w2": 0.11}},
    "lj13": {"iDEM, re-run by others": {"energy_w2": 5.2, "aligned_w2": 1.61}, "SGDS": {"energy_w2": 0.89, "aligned_w2": 1.56},
             "Flow Sampling": {"energy_w2": 0.97}},
    "lj55": {"iDEM, re-run by others": {"energy_w2": 21.7, "aligned_w2": 4.69}, "ASBS": {"energy_w2": 28.1, "aligned_w2": 4.00},
             "Flow Sampling": {"energy_w2": 21.3}},
}


def reference_sets(system: str, folder: Path, n: int = 10_000) -> tuple[WeightedEnsemble, WeightedEnsemble]:
    """Two independent exact sets, kept in ``folder`` once made: parallel tempering, or a formula where there is one.

    The same as ``idem-md baseline SYSTEM --engine pt|exact -n N --seed 0|1``.
    """
    engine = "exact" if hasattr(get_system(system).energy(), "sample") else "pt"
    sets = []
    for seed in (0, 1):
        path = folder / f"{system}-{engine}-{seed}.dcd"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            ENGINES[engine](system, n, seed=seed).save(path)
        sets.append(load_ensemble(path))
    return sets[0], sets[1]


def _centres(system: str):
    return getattr(get_system(system).energy(), "means", None)


def _row(system: str, label: str, seed: int | None, metrics: dict, **facts) -> dict:
    return {"system": system, "settings": label, "seed": seed, **metrics, **facts}


def _measure(source, system: str, label: str, seed: int, reference: WeightedEnsemble, n: int | None) -> tuple[dict, WeightedEnsemble]:
    """Raw metrics of one checkpoint, with its costs; Lennard-Jones clusters also after a few Langevin steps."""
    sampler = load_sampler(source)
    kernel, nfe, usual = RAW[system]
    raw = sampler.sample(n or usual, nfe, seed=1000 + seed, kernel=kernel)
    metrics = raw_metrics(raw.positions, raw.energies, reference.positions, reference.energies, _centres(system))
    if system.startswith("lj"):
        moved = raw.refine(MALA_STEPS, seed=seed, resample=False)
        metrics["energy_w2_after_mala"] = raw_metrics(moved.positions, moved.energies, reference.positions, reference.energies,
                                                      aligned=False)["energy_w2"]
    p = sampler.checkpoint.provenance
    facts = {"training_seconds": p["seconds"], "training_energy_calls": p["energy_calls"], "training_threads": p["threads"],
             "sampling_seconds": raw.provenance["seconds"], "nfe": nfe, "kernel": kernel, "hardware": raw.provenance["hardware"]}
    return _row(system, label, seed, metrics, **facts), raw


def reproduce(systems, presets=("refined", "idem"), seeds: int = 3, out: Path = Path("runs/reproduce"), minutes: float | None = None,
              n: int | None = None, on_run: Callable[[str], None] = lambda _: None) -> list[dict]:
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
        Wall time of a training; by default `BUDGET_MINUTES` of the system.
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
    for system in systems:
        if system not in BUDGET_MINUTES:
            raise UsageError(f"systems: expected some of {', '.join(BUDGET_MINUTES)}, got {system!r}")
        for name in presets:
            preset(system, name)
    rows = []
    for system in systems:
        on_run(f"{system}: reference sets")
        reference, second = reference_sets(system, out / "reference")
        floor = raw_metrics(second.positions[: n or RAW[system][2]], second.energies[: n or RAW[system][2]], reference.positions, reference.energies, _centres(system))
        rows.append(_row(system, "exact, second set", None, floor))
        shown = {}
        for name in presets:
            for seed in range(seeds):
                folder = out / f"{system}-{name}-{seed}"
                on_run(f"{system}: {name}, seed {seed}")
                if not (folder / "model.safetensors").exists():
                    train(preset(system, name, seed), folder, resume=(folder / "state.safetensors").exists(),
                          minutes=BUDGET_MINUTES[system] if minutes is None else minutes)
                try:
                    row, raw = _measure(folder, system, name, seed, reference, n)
                    shown.setdefault(name, raw)
                except UsageError as error:  # every sample exploded: a result too
                    row = _row(system, name, seed, {"failure": str(error)})
                rows.append(row)
        for name, numbers in PUBLISHED[system].items():
            rows.append(_row(system, f"published: {name}", None, numbers))
        figure = io.BytesIO()
        plot_energies({"exact": reference, **shown}, figure)
        write_atomic(out / f"{system}-energies.png", figure.getvalue())
        if _centres(system) is not None:
            figure = io.BytesIO()
            plot_mixture(get_system(system).energy(), shown, figure)
            write_atomic(out / f"{system}-samples.png", figure.getvalue())
            figure = io.BytesIO()
            plot_scores(get_system(system).energy(), load_sampler(out / f"{system}-{presets[0]}-0").checkpoint.denoiser, figure)
            write_atomic(out / f"{system}-scores.png", figure.getvalue())
    write_atomic(out / "rows.json", json.dumps([_jsonable(r) for r in rows], indent=1, allow_nan=False).encode())
    write_atomic(out / "table.md", raw_table(rows).encode())
    return rows


def _jsonable(row: dict) -> dict:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def raw_table(rows: list[dict]) -> str:
    """Rows of `reproduce` as Markdown; runs of one preset as mean (smallest – largest) over their seeds."""
    columns = {"energy_w2": "E-W2 (kT)", "plain_w2": "plain W2", "aligned_w2": "aligned W2", "total_variation": "TV of distances",
               "modes": "modes", "mode_tv": "TV of modes", "exploded": "exploded", "energy_w2_after_mala": f"E-W2 after {MALA_STEPS} MALA steps",
               "training_seconds": "training (s)", "training_energy_calls": "energy calls"}
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["system"], row["settings"]), []).append(row)
    columns = {k: v for k, v in columns.items() if any(k in r for r in rows)}
    lines = ["| system | settings | " + " | ".join(columns.values()) + " |", "|" + "---|" * (len(columns) + 2)]
    for (system, settings), members in groups.items():
        cells = []
        for key in columns:
            values = [r[key] for r in members if key in r]
            failed = sum("failure" in r for r in members)
            note = f"{failed} of {len(members)} seeds failed" if failed and key == "energy_w2" else ""
            if not values:
                cells.append(note or "–")
                continue
            f = ".2e" if key == "training_energy_calls" else ".0f" if key in ("training_seconds", "modes", "exploded") else ".3f" if "t" == key[0] or "mode_tv" == key else ".2f"
            mean = format(float(np.mean(values)), f)
            cells.append((mean if len(values) == 1 else f"{mean} ({min(values):{f}} – {max(values):{f}})") + (f"; {note}" if note else ""))
        lines.append(f"| {system} | {settings} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
