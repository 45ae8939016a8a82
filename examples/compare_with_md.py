"""Weighted samples beside molecular dynamics: where each wins, and where chains fail.

    python examples/compare_with_md.py [folder]                # speed on LJ-13, and modes that chains do not cross
    python examples/compare_with_md.py folder runs/cu13        # and an expensive potential, trained by cu13_emt.py

Seven minutes on two cores. Every engine gets all cores; each row says what an effective sample cost. A report for a
browser lies in folder/lj13/index.html afterwards.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import idem_md
from idem_md.analysis import coverage, pair_distances
from idem_md.baselines import ENGINES
from idem_md.report import compare
from idem_md.report.figures import COLOURS, save_png

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# Inverse temperatures that reach over the barriers of DW-4 at 75 K: a reference by other means than either contestant.
LADDER = tuple(np.geomspace(1.0, 0.2, 7))


def engine(name, **options):
    """On every core."""
    kind = ENGINES[name]
    return kind.configured(**options, **({"workers": CORES} if kind.takes_workers else {}))


def row(label, e):
    """What an effective sample cost."""
    (mean, error), p = e.mean_energy, e.provenance
    print(
        f"{label:24s} {len(e):6d} samples, {e.ess:7.0f} effective, {mean:8.2f} ± {error:.2f} kT, "
        f"{p['seconds']:5.1f} s, {e.ess / p['seconds']:.3g} a second, {e.ess / p['energy_calls']:.3g} an energy call",
        flush=True,
    )
    return e


def race(folder, n=10_000, seconds=40):
    """LJ-13: effective samples a second."""
    ours = row("idem-md", idem_md.load_sampler("lj13").sample(n, seed=0))
    found = {"idem-md": ours}
    for name in ("openmm", "ase"):
        found[f"{name} Langevin"] = row(f"{name} Langevin", engine(name).run("lj13", n, seconds=seconds, seed=0))
    found["native MALA"] = row("native MALA", engine("mala").run("lj13", n, seed=0))
    compare(found, folder / "lj13", aligned=False)
    return found


def shares(e):
    """DW-4 in the cold is either of two shapes, or of rare others: four pairs near each other, or two."""
    near = lambda x: (pair_distances(x) < 4.0).sum(1)  # noqa: E731
    return [e.expectation(lambda x, k=k: (near(x) == k).astype(float)) for k in (2, 4)]


def barriers(n=20_000, steps=200_000, reference_steps=40_000):
    """DW-4 at a quarter of its temperature, which makes every barrier four times as high: 18 kT."""
    cold = idem_md.get_system("dw4").at(75.0)
    found = {
        "idem-md": idem_md.load_sampler("dw4").sample(n, seed=0, temperature_K=75.0),
        "openmm Langevin": engine("openmm").run(cold, 2000, steps, seed=0),
        "native MALA": engine("mala").run(cold, 2000, min(steps, 20_000), seed=0),
        "tempering up to 375 K": engine("pt", betas=LADDER).run(cold, 4000, reference_steps, seed=1),
    }
    out = {label: shares(row(label, e)) for label, e in found.items()}
    for label, ((a, da), (b, db)) in out.items():
        print(f"{label:24s} two near pairs {a:.3f} ± {da:.3f}, four {b:.3f} ± {db:.3f}")
    return out


def mixture(n=10_000, steps=200_000):
    """GMM-40: 40 modes, the reference by formula."""
    exact = engine("exact").run("gmm40", 10_000, seed=5)
    found = {
        "idem-md": idem_md.load_sampler("gmm40").sample(n, seed=0),
        "ase Langevin": engine("ase").run("gmm40", 2000, steps, seed=0),
        "native MALA": engine("mala").run("gmm40", 1000, min(steps, 20_000), seed=0),
    }
    out = {label: coverage(row(label, e), exact) for label, e in found.items()}
    for label, c in out.items():
        print(
            f"{label:24s} mass missing {c.missing:.3f} (by chance {c.missing_by_chance:.3f}), "
            f"modes found {int((c.share > 0.0025).sum())} of 40, worst by {abs(c.worst[1]):.1f} standard errors"
        )
    return out


def expensive(run, n=4000, steps=20_000):
    """A copper cluster, one energy call a sample: effective samples a call, and when the training has paid off."""
    sys.path.insert(0, str(Path(__file__).parent))
    from cu13_emt import copper

    system = copper(CORES)
    sampler = idem_md.load_sampler(run, system)
    ours = row("idem-md, Cu13", sampler.sample(n, nfe=50, seed=0, last_step_calls=1))
    md = row("ase Langevin, Cu13", engine("ase").run(system, 1000, steps, seed=0))
    system.make_energy().close()
    rates = [e.ess / e.provenance["energy_calls"] for e in (ours, md)]
    training = ours.provenance["training"]["energy_calls"]
    even = training / (1 / rates[1] - 1 / rates[0]) if rates[0] > rates[1] else np.inf
    print(f"{rates[0] / rates[1]:.1f} times as many an energy call; with the training's calls ahead from {even:.0f} on")
    return ours, md


def figure(raced, crossed, covered, file):
    """Speed; shares of the shapes of DW-4 beside the reference's; mass of GMM-40 that is missing beside what chance
    gives. Bars of error are one standard error; that of the missing mass takes the shares of modes for independent."""
    drawing = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    colours = dict(zip(("idem-md", "openmm Langevin", "ase Langevin", "native MALA"), COLOURS))
    speeds = [e.ess / e.provenance["seconds"] for e in raced.values()]
    bars = left.barh(list(raced), speeds, color=[colours[k] for k in raced])
    left.bar_label(bars, [f"{speed:.2g}" if speed < 10 else f"{speed:,.0f}" for speed in speeds], padding=3)
    left.set(xscale="log", xlim=(0.5, 10 * max(speeds)), xlabel="effective samples a second (one run)")
    left.set(title="LJ-13: chains mix, and win")
    *contestants, reference = crossed
    (share, error), _ = crossed[reference]
    middle.axvline(share, color="black", lw=1, ls="--")
    middle.text(share - 0.03, 1, f"reference: {reference}", rotation=90, ha="right", va="center", fontsize=8)
    middle.axvspan(share - error, share + error, color="black", alpha=0.2, lw=0)
    for k, label in enumerate(contestants):
        (a, da), _ = crossed[label]
        middle.errorbar(a, k, xerr=da, fmt="o", ms=4, color=colours[label], capsize=5)
    middle.set_yticks(range(len(contestants)), contestants)
    middle.set(xlim=(-0.05, 1.05), ylim=(-0.5, len(contestants) - 0.5), xlabel="share with two near pairs")
    middle.set(title="DW-4 at 75 K: barriers of 18 kT")
    missing = [c.missing for c in covered.values()]
    errors = [np.linalg.norm(c.error[c.share < c.reference]) for c in covered.values()]
    right.barh(list(covered), missing, xerr=errors, color=[colours[k] for k in covered], capsize=4)
    by_chance = [c.missing_by_chance for c in covered.values()]
    right.plot(by_chance, list(covered), "|", ms=28, mew=1.5, color="black", label="by chance")
    right.set(xlim=(0, 1), xlabel="share of the distribution missing", title="GMM-40: 40 modes")
    for axis in (left, middle, right):
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8, loc="lower right", markerscale=0.4)
    save_png(drawing, file)


def main(folder="runs/compare", run=None):
    """All of it; returns what was found."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", idem_md.ensemble.WeightWarning)  # rows say how few effective samples there are
    found = race(folder), barriers(), mixture()
    figure(*found, folder / "compare_with_md.png")
    return (*found, expensive(run)) if run is not None else found


if __name__ == "__main__":
    main(*sys.argv[1:3])
