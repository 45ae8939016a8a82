"""Bias and noise of score estimators, measured and drawn in the style of the iDEM paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from idem_md.baselines import ENGINES
from idem_md.chains import posterior_mean
from idem_md.energies import DemScores, Energy, GaussianMixture
from idem_md.geometry import standard_normal
from idem_md.report.figures import save_png
from idem_md.systems import get_system
from idem_md.targets import dem_scores, mix_with_force

__all__ = ["Estimates", "measure_estimators", "plot_bias_by_energy", "plot_estimators"]

# S_T weights the forces at the draws (the estimator of iDEM), S_D their displacements; the mix has the least variance.
ESTIMATORS: dict[str, Callable[[DemScores], torch.Tensor]] = {
    "$S_T$ (forces)": lambda s: s.tsi,
    "$S_D$ (displacements)": lambda s: s.dsi,
    "mix": lambda s: s.alpha[:, None, None] * s.tsi + (1 - s.alpha[:, None, None]) * s.dsi,
}
COLOURS = ("tab:red", "tab:blue", "black")
# A Langevin step and <f^2>^(-1/2) a coordinate, for LJ-13.
STEP, FORCE_SCALE = 6e-4, 0.07


@dataclass(frozen=True)
class Estimates:
    """Root mean squares a coordinate, at one noise level and number of draws.

    Attributes
    ----------
    sigma : float
    draws : int
    ess : float
        Mean effective number of draws.
    noise, bias : dict of float
        By estimator; a bias below its own error is zero.
    scale : float
        Of the true score.
    """

    sigma: float
    draws: int
    ess: float
    noise: dict[str, float]
    bias: dict[str, float]
    scale: float


def _rms(a: torch.Tensor) -> float:
    return float((a**2).mean().sqrt())


def _truth(energy: Energy, x_0, x_t, sigma: float, chains: int, steps: int) -> tuple[torch.Tensor, float]:
    """Scores (D - x_t) / sigma^2 by posterior averages, and their rms error from the difference of two."""
    s = x_t.new_full((len(x_t),), sigma)
    # A call uses its seed and the next.
    halves = [posterior_mean(energy, x_t, s, x_0, STEP, chains, steps, seed) for seed in (1, 3)]
    a, b = ((mix_with_force(x_t, s, p.mean, p.force, FORCE_SCALE) - x_t) / sigma**2 for p in halves)
    return (a + b) / 2, _rms(a - b) / 2


def measure_estimators(
    sigmas: Sequence[float] = (0.01, 0.1, 0.2, 0.8),
    draws: Sequence[int] = (64, 256, 1024, 4096, 16384),
    points: int = 32,
    repeats: int = 64,
    chains: int = 32,
    steps: int = 4000,
) -> list[Estimates]:
    """Bias and noise on LJ-13 against long Markov chains on the posterior of x_0 given x_t.

    Parameters
    ----------
    sigmas, draws : sequences
    points, repeats : int
        Noised positions, and estimates at each.
    chains, steps : int
        For the truth, at each.
    """
    energy = get_system("lj13").energy()
    x_0 = torch.tensor(ENGINES["mala"].run("lj13", points, seed=1).positions, dtype=torch.float32)
    rows = []
    for sigma in sigmas:
        x_t = x_0 + sigma * standard_normal(x_0.shape, torch.Generator().manual_seed(3), torch.float32)
        truth, error = _truth(energy, x_0, x_t, sigma, chains, steps)
        for k in draws:
            scores = dem_scores(energy, x_t.repeat(repeats, 1, 1), x_t.new_full((repeats * points,), sigma), k, 7)
            noise, bias = {}, {}
            for name, estimator in ESTIMATORS.items():
                estimate = estimator(scores).reshape(repeats, *x_t.shape)
                noise[name] = _rms(estimate.std(0))
                excess = _rms(estimate.mean(0) - truth) ** 2 - noise[name] ** 2 / repeats - error**2
                bias[name] = max(excess, 0.0) ** 0.5
            rows.append(Estimates(sigma, k, float(scores.ess.mean()), noise, bias, _rms(truth)))
    return rows


def plot_estimators(file, rows: Sequence[Estimates] | None = None) -> None:
    """Bias and noise against the number of draws as PNG, a panel a noise level; by default of `measure_estimators`."""
    rows = measure_estimators() if rows is None else rows
    sigmas = list(dict.fromkeys(row.sigma for row in rows))
    figure = Figure(figsize=(1.0 + 3.0 * len(sigmas), 3.6), layout="constrained")
    panels = figure.subplots(1, len(sigmas), sharex=True, squeeze=False)[0]
    for sigma, axis in zip(sigmas, panels):
        here = [row for row in rows if row.sigma == sigma]
        draws = [row.draws for row in here]
        for name, colour in zip(ESTIMATORS, COLOURS):
            noise, bias = [row.noise[name] for row in here], [row.bias[name] or float("nan") for row in here]
            axis.loglog(draws, noise, "o-", color=colour, ms=4, label=f"{name}, noise")
            axis.loglog(draws, bias, "s--", color=colour, ms=4, mfc="none", alpha=0.7, label=f"{name}, bias")
        axis.axhline(here[0].scale, color="grey", linewidth=6, alpha=0.25, label="rms of the true score")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set(title=f"σ = {sigma:g}", xlabel="draws K")
    panels[0].set_ylabel("score a coordinate (1/$r_m$)")
    figure.suptitle("LJ-13: the mix has as little noise as the better of the two estimators at every noise level")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8, frameon=False
    )
    save_png(figure, file)


def plot_bias_by_energy(
    file, sigmas: Sequence[float] = (2.0, 8.0, 25.0), draws: int = 500, points: int = 200, repeats: int = 100
) -> None:
    """Bias of the estimators at single points of GMM-40 against the energy there as PNG, a panel a noise level.

    The exact score is that of the noised mixture. Below the dotted line is what noise alone makes of that many repeats;
    nothing is shown below 1e-5.
    """
    energy = GaussianMixture()
    generator = torch.Generator().manual_seed(0)
    figure = Figure(figsize=(1.0 + 3.4 * len(sigmas), 3.8), layout="constrained")
    panels = figure.subplots(1, len(sigmas), sharey=True, squeeze=False)[0]
    for sigma, axis in zip(sigmas, panels):
        noised = GaussianMixture(energy.means, (energy.sd**2 + sigma**2) ** 0.5)
        x = noised.sample(points, generator)
        u, truth = energy(x)[0], noised(x)[1]
        level = torch.full((points * repeats,), sigma, dtype=torch.float64)
        scores = dem_scores(energy, x.repeat(repeats, 1, 1), level, draws, 11)
        chance = []
        for (name, estimator), colour in zip(ESTIMATORS.items(), COLOURS):
            estimate = estimator(scores).reshape(repeats, points, 2)
            bias = (estimate.mean(0) - truth[:, 0]).norm(dim=-1).clamp(min=1e-5)
            chance.append(float((estimate.var(0).sum(-1) / repeats).median().sqrt()))
            axis.scatter(u, bias, s=5, color=colour, alpha=0.5, linewidths=0, label=name)
        axis.axhline(min(chance), color="grey", ls=":", lw=1.2, label="chance, least of the three")
        axis.set(
            xscale="log", yscale="log", title=f"σ = {sigma:g}, K = {draws}", xlabel="energy u of the noised point (kT)"
        )
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("bias of the score (1/length)")
    figure.suptitle("GMM-40: the mix of both estimators is less biased than the one from forces alone")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
        markerscale=3,
    )
    save_png(figure, file)
