"""Live view of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..progress import Work
from .config import TrainingConfig
from .gain import how_it_ended
from .loop import IterationReport
from .state import TrainingState

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["TrainingDisplay"]


class TrainingDisplay:
    """Loss by noise level, raw samples, energy calls; a line an iteration where there is no terminal."""

    def __init__(
        self, work: Work, inner_steps: int, resume: bool = False, may_end: bool = False, what: str = "energy calls"
    ):
        self.work, self.inner_steps, self.total, self.calls, self.what = work, inner_steps, 0, 0, what
        self.may_end = may_end
        work.phase("first iteration after the last state" if resume else "first buffer")

    def cost(self, first: int, each: int, config: TrainingConfig, seconds_a_call: float) -> None:
        """Before the first energy call of the run: those of the first buffer, and of each iteration, with the time that
        they take."""
        self.work.phase("first buffer", first, self.what)
        targets = "" if config.target.name == "buffer" else " and those of its targets"
        self.work.say(
            f"the first buffer takes {first:,} {self.what}{_time(first * seconds_a_call)}, each of up to "
            f"{config.optimizer.iterations} iterations about {each:,} more{_time(each * seconds_a_call)}{targets}"
        )

    def first_buffer(self, calls: int) -> None:
        """After so many energy calls."""
        self.work.advance(calls - self.calls)
        self.calls = calls

    def began(self) -> None:
        """The first buffer is made."""
        self.work.phase("first iteration", self.inner_steps, "steps")

    def ended(self, config: TrainingConfig, log: Sequence[Mapping[str, Any]]) -> None:
        """After the last iteration."""
        self.work.detail = ""
        if sentence := how_it_ended(log, config):
            self.work.say(sentence)

    def step(self) -> None:
        """After every optimiser step."""
        self.work.advance()

    def iteration(self, report: IterationReport, state: TrainingState, calls: int) -> None:
        """After every outer iteration."""
        work = self.work
        if not self.total:
            work.phase("training (may end sooner)" if self.may_end else "training", unit="steps")
        if state.total != self.total:
            self.total = state.total
            work.resize(state.total * self.inner_steps, state.iteration * self.inner_steps)
        if work.terminal:
            work.detail = _table(report, calls)
            return
        # The first iteration has none.
        raw = "" if math.isnan(report.raw_median_energy) else f"raw median {report.raw_median_energy:.2f} kT  "
        work.say(
            f"iteration {state.iteration}/{state.total}  {state.seconds:.0f} s  loss {report.loss:.4f}  {raw}"
            f"buffer mean {report.buffer_mean_energy:.2f} kT  {calls:.3g} {self.what}"
        )


def _time(seconds: float) -> str:
    """In words, if it is worth a word."""
    if seconds < 5:
        return ""
    for least, unit, size in ((7200, "hours", 3600), (100, "minutes", 60)):
        if seconds >= least:
            return f" (about {seconds / size:.0f} {unit})"
    return f" (about {seconds:.0f} s)"


def _table(r: IterationReport, calls: int) -> Table:
    from rich.table import Table

    loss = Table("noise level σ", "loss", box=None)
    for lo, hi, value in zip(r.sigma_edges, r.sigma_edges[1:], r.loss_by_sigma):
        loss.add_row(f"{lo:.3f} – {hi:.3f}", f"{value:.4f}")
    facts = Table(show_header=False, box=None)
    if not math.isnan(r.raw_median_energy):
        facts.add_row("raw median energy", f"{r.raw_median_energy:.2f} kT ({r.raw_failed} failed)")
    facts.add_row("buffer mean energy", f"{r.buffer_mean_energy:.2f} kT")
    if not math.isnan(r.weighted_mean_energy):
        mean = f"{r.weighted_mean_energy:.2f} ± {r.weighted_mean_energy_err:.2f} kT"
        facts.add_row("by weight", f"{mean} ({r.weighted_ess:.0f} effective)")
    if not math.isnan(r.acceptance):
        facts.add_row("MALA acceptance", f"{r.acceptance:.2f}")
    if not math.isnan(r.swaps):
        facts.add_row("swaps of neighbouring temperatures", f"{r.swaps:.2f}")
    if r.gain is not None:
        facts.add_row("gain of the last third", f"{r.gain.nats:.2f} ± {r.gain.error:.2f} nats")
    facts.add_row("energy calls", f"{calls:.3g}")
    facts.add_row("step size", f"{r.learning_rate:.2g}")
    both = Table.grid(padding=(0, 4))
    both.add_row(loss, facts)
    return both
