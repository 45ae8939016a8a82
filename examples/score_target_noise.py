"""Bias and noise of the score estimators against the number of draws K, on LJ-13.

    python examples/score_target_noise.py [folder]

S_T weights the forces at the draws (the DEM estimator), S_D their displacements, and the mix is the combination of
least variance. Truth comes from long MALA chains on the posterior of x_0 given x_t. Writes score_target_noise.png.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import NullFormatter

from idem_md import get_system
from idem_md.baselines import ENGINES
from idem_md.chains import posterior_mean
from idem_md.geometry import standard_normal
from idem_md.targets import dem_scores, mix_with_force

SIGMAS, DRAWS = (0.01, 0.1, 0.2, 0.8), (64, 256, 1024, 4096, 16384)
NAMES, COLOURS = ("$S_T$ (forces)", "$S_D$ (displacements)", "mix"), ("tab:red", "tab:blue", "black")
FORCE_SCALE = 0.07  # <f^2>^(-1/2) a coordinate


def rms(a):
    return float((a**2).mean().sqrt())


def true_scores(energy, x_0, x_t, sigma, chains, steps):
    """Scores (D - x_t) / sigma^2 by posterior averages, and their rms error from the spread over chains."""
    s = torch.full((len(x_t),), sigma)
    halves = [
        posterior_mean(energy, x_t, s, x_0, 6e-4, chains, steps, seed) for seed in (1, 3)
    ]  # a call uses its seed and the next
    a, b = ((mix_with_force(x_t, s, p.mean, p.force, FORCE_SCALE) - x_t) / sigma**2 for p in halves)
    return (a + b) / 2, rms(a - b) / 2


def measure(energy, x_0, sigma, draws, repeats, chains, steps):
    """Rows (K, ess, noise of each, bias of each) and the rms of the true score, per coordinate."""
    x_t = x_0 + sigma * standard_normal(x_0.shape, torch.Generator().manual_seed(3), torch.float32)
    truth, truth_error = true_scores(energy, x_0, x_t, sigma, chains, steps)
    rows = []
    for k in draws:
        s_t, s_d, alpha, _, ess = dem_scores(
            energy, x_t.repeat(repeats, 1, 1), torch.full((repeats * len(x_t),), sigma), k, 7
        )
        a = alpha[:, None, None]
        row = [k, float(ess.mean())]
        noises, biases = [], []
        for estimate in (s_t, s_d, a * s_t + (1 - a) * s_d):
            estimate = estimate.reshape(repeats, *x_t.shape)
            noise = rms(estimate.std(0))
            noises.append(noise)
            excess = rms(estimate.mean(0) - truth) ** 2 - noise**2 / repeats - truth_error**2
            biases.append(max(excess, 0.0) ** 0.5)
        rows.append((*row, noises, biases))
    return rows, rms(truth)


def main(folder=".", points=32, repeats=64, draws=DRAWS, chains=32, steps=4000):
    """Measure, print and draw; returns {sigma: (rows, scale)}."""
    energy = get_system("lj13").energy()
    x_0 = torch.as_tensor(ENGINES["mala"].run("lj13", points, seed=1).positions, dtype=torch.float32)
    figure, axes = plt.subplots(1, len(SIGMAS), figsize=(13, 3.6), sharex=True, constrained_layout=True)
    results = {}
    print(f"{'sigma':>6} {'K':>6} {'ess':>7} | noise S_T    S_D    mix | bias S_T    S_D    mix | true scale")
    for sigma, axis in zip(SIGMAS, axes):
        rows, scale = results[sigma] = measure(energy, x_0, sigma, draws, repeats, chains, steps)
        for k, ess, noise, bias in rows:
            print(
                f"{sigma:6g} {k:6d} {ess:7.1f} | "
                + " ".join(f"{v:8.3g}" for v in noise)
                + " | "
                + " ".join(f"{v:8.2g}" for v in bias)
                + f" | {scale:.3g}"
            )
        for i, (name, colour) in enumerate(zip(NAMES, COLOURS)):
            axis.loglog(draws, [row[2][i] for row in rows], "o-", color=colour, markersize=4, label=f"{name}, noise")
            axis.loglog(
                draws,
                [row[3][i] or float("nan") for row in rows],
                "s--",
                color=colour,
                markersize=4,
                markerfacecolor="none",
                alpha=0.7,
                label=f"{name}, bias",
            )
        axis.axhline(scale, color="grey", linewidth=6, alpha=0.25, label="rms of the true score")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set(title=f"$\\sigma$ = {sigma:g}", xlabel="draws K")
    axes[0].set_ylabel("score per coordinate (1/$r_m$)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    figure.savefig(Path(folder) / "score_target_noise.png", dpi=110)
    plt.close(figure)
    return results


if __name__ == "__main__":
    main(*sys.argv[1:2])
