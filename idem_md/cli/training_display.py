"""Live view of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ..energies import Energy
    from ..training.loop import IterationReport
    from ..training.state import TrainingState

__all__ = ["TrainingDisplay"]


class TrainingDisplay:
    """Loss by noise level, raw samples, energy calls, time left; plain lines where there is no terminal."""

    def __init__(self, inner_steps: int):
        self.inner_steps = inner_steps
        self.report: IterationReport | None = None
        self.calls = 0
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task("first buffer", total=None)
        self.live = Live(
            self, console=self.console, refresh_per_second=2, transient=True, auto_refresh=self.console.is_terminal
        )

    def __enter__(self) -> TrainingDisplay:
        self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """One line above the view."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def step(self) -> None:
        """After every optimiser step."""
        self.bar.advance(self.task)

    def iteration(self, report: IterationReport, state: TrainingState, energy: Energy) -> None:
        """After every outer iteration."""
        self.report, self.calls = report, energy.calls
        self.bar.update(
            self.task,
            total=state.total * self.inner_steps,
            completed=state.iteration * self.inner_steps,
            description=f"iteration {state.iteration} of {state.total}",
        )
        if not self.console.is_terminal:
            self.say(
                f"iteration {state.iteration}/{state.total}  {state.seconds:.0f} s  loss {report.loss:.4f}  raw median "
                f"{report.raw_median_energy:.2f} kT  buffer mean {report.buffer_mean_energy:.2f} kT  "
                f"{energy.calls:.3g} energy calls"
            )

    def __rich__(self) -> Table:
        grid = Table.grid()
        grid.add_row(self.bar)
        if (r := self.report) is not None:
            loss = Table("noise level σ", "loss", box=None)
            for lo, hi, value in zip(r.sigma_edges, r.sigma_edges[1:], r.loss_by_sigma):
                loss.add_row(f"{lo:.3f} – {hi:.3f}", f"{value:.4f}")
            facts = Table(show_header=False, box=None)
            facts.add_row("raw median energy", f"{r.raw_median_energy:.2f} kT ({r.raw_failed} failed)")
            facts.add_row("buffer mean energy", f"{r.buffer_mean_energy:.2f} kT")
            facts.add_row("MALA acceptance", f"{r.acceptance:.2f}")
            facts.add_row("energy calls", f"{self.calls:.3g}")
            facts.add_row("step size", f"{r.learning_rate:.2g}")
            both = Table.grid(padding=(0, 4))
            both.add_row(loss, facts)
            grid.add_row(both)
        return grid
