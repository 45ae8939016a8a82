"""Annealed importance sampling to x_0: needs no network below its noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from ...chains import Schedule, first_step, paced_schedule, run_annealing, tuned_schedule
from ...checks import check_int
from ...energies import AnnealRun, Energy, NativeAnnealing, Twin
from ...errors import UsageError
from ...seeds import draw_seed
from ..kernels import Evaluation
from .base import LastStep, LastStepResult, register_last_step
from .nested import choose

__all__ = ["AnnealedLastStep"]

# Samples in plain torch at a time, and bytes of the vectors between all of their atoms.
MAX_SAMPLES, MAX_PAIR_BYTES = {"cpu": 1024, "cuda": 2**16}, {"cpu": 2**26, "cuda": 2**32}
# Chains of native code on a GPU at a time.
MAX_CHAINS = 2**17


@dataclass(frozen=True)
class Effort:
    """One way of annealing: stages, moves, chains, power, leapfrogs of a move."""

    stages: int
    moves: int
    chains: int
    power: float
    leapfrogs: int = 1


@dataclass(frozen=True)
class Pilot:
    """Efforts that are tried, and by what step sizes and the pace are tuned: samples, rounds, moves of a stage."""

    efforts: tuple[Effort, ...]
    step_samples: int = 250
    step_rounds: int = 15
    step_moves: int = 10
    pace_samples: int = 128
    pace_rounds: int = 2


# One long chain is better than several short ones, one move a stage than several, and moves of five leapfrogs than
# Langevin moves (docs/lab-notes.md).
NATIVE = Pilot((Effort(512, 1, 1, 5.0, 5),))
# In plain torch a few chains cost no more than one of as many steps in all; where there are modes they see more.
PLAIN = Pilot((Effort(256, 1, 1, 3.0), Effort(128, 1, 4, 3.0), Effort(128, 1, 16, 3.0)))
# A network's energy takes a thousand times as long as a native one.
TWIN = Pilot((Effort(128, 1, 1, 5.0, 5),), 24, 8, 4, 32, 1)


@register_last_step("annealed")
class AnnealedLastStep(LastStep):
    """From N(D, mse) to exp(-u(y)) N(y; x, sigma^2), with M chains a sample; see `chains.run_annealing`.

    The marginal density of exp(-u) noised to the evaluation's level is estimated without bias by the mean weight of the
    chains; one end point is drawn by weight. Costs M (1 + T moves leapfrogs) energy calls a sample.

    Parameters
    ----------
    schedule : Schedule
    chains : int
        M.
    """

    takes_calls: ClassVar[bool] = True
    open_ended: ClassVar[bool] = True

    def __init__(self, schedule: Schedule, chains: int = 1):
        self.schedule, self.chains = schedule, check_int("chains", chains, 1)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> AnnealedLastStep:
        """See `LastStep`; the schedule as a table."""
        if "schedule" not in options:
            raise UsageError(
                "last_step: expected another than 'annealed', for which there is no plan; see idem-md tune"
            )
        schedule = dict(options["schedule"])
        rest = {k: v for k, v in options.items() if k != "schedule"}
        schedule |= {name: tuple(schedule[name]) for name in ("steps", "pace") if name in schedule}
        return cls(Schedule(**schedule), **rest)

    @classmethod
    def efforts(cls, energy: Energy, evaluation: Evaluation, sigma_data: float, seed: int) -> list[dict[str, Any]]:
        """See `LastStep`: schedules with step sizes and pace tuned at that level."""
        pilot = NATIVE if isinstance(energy, NativeAnnealing) else TWIN if isinstance(energy, Twin) else PLAIN
        n = pilot.step_samples
        x_t, mean, level = evaluation.x[:n].float(), evaluation.denoised[:n].float(), (evaluation.mse, evaluation.sigma)
        counts = {"rounds": pilot.step_rounds, "moves": pilot.step_moves}
        tuned: dict[tuple, Schedule] = {}  # it depends on nothing else of an effort
        for effort in pilot.efforts:
            known = effort.power, effort.leapfrogs
            if known not in tuned:
                start = Schedule(effort.stages, effort.power, 1, (first_step(sigma_data),), effort.leapfrogs)
                stepped = tuned_schedule(energy, mean, x_t, *level, start, seed, **counts)
                few = evaluation.denoised[: pilot.pace_samples].float(), evaluation.x[: pilot.pace_samples].float()
                tuned[known] = paced_schedule(energy, *few, *level, stepped, seed + 1, rounds=pilot.pace_rounds)
        schedules = [
            (replace(tuned[e.power, e.leapfrogs], stages=e.stages, moves=e.moves), e.chains) for e in pilot.efforts
        ]
        return [
            {
                "schedule": {**asdict(schedule), "steps": list(schedule.steps), "pace": list(schedule.pace)},
                "chains": chains,
            }
            for schedule, chains in schedules
        ]

    @property
    def calls(self) -> int:
        """See `LastStep`: those of the chains."""
        return self.chains * self.schedule.calls

    @classmethod
    def of_calls(cls, options: Mapping[str, Any], calls: int) -> dict[str, Any]:
        """See `LastStep`: as many stages as will do, and with few calls fewer moves, chains and leapfrogs."""
        calls = check_int("last_step_calls", calls, 2)
        own = cls.build(options)
        moves, chains, leapfrogs = own.schedule.moves, own.chains, own.schedule.leapfrogs
        while calls < own.schedule.stages * moves * leapfrogs * chains and (moves > 1 or chains > 1):
            chains, moves = (chains - 1, moves) if chains > 1 else (chains, moves // 2)
        leapfrogs = min(leapfrogs, calls - 1)
        stages = max((calls // chains - 1) // (moves * leapfrogs), 1)
        schedule = {**options["schedule"], "stages": stages, "moves": moves, "leapfrogs": leapfrogs}
        return {**options, "schedule": schedule, "chains": chains}

    def block(self, energy: Energy, device: str = "cpu") -> int:
        """See `LastStep`: in plain torch many, which share what a stage costs, as far as pairs of atoms fit."""
        if isinstance(energy, NativeAnnealing):
            return max(MAX_CHAINS // self.chains, 1) if device == "cuda" else super().block(energy)
        return max(min(MAX_SAMPLES[device], MAX_PAIR_BYTES[device] // (8 * energy.n_atoms**2 * energy.n_dims)), 1)

    def finish(self, energy: Energy, evaluation: Evaluation, generator: torch.Generator) -> LastStepResult:
        """See `LastStep`; chains run in float32."""
        ok = self._alive(evaluation)
        x, u = torch.full_like(evaluation.x, torch.nan), evaluation.x.new_full(ok.shape, torch.inf)
        log_ratio, seed = evaluation.x.new_full(ok.shape, -torch.inf), draw_seed(generator)
        if bool(ok.any()):
            run = self._run(energy, evaluation, ok, self.chains, seed)
            log_w = run.log_w.reshape(-1, self.chains)
            chosen, log_mean = choose(log_w, generator)
            chosen += self.chains * torch.arange(len(log_w), device=chosen.device)
            x[ok] = run.x[chosen].to(x.dtype)
            # In the precision of the path: a weight may not depend on the rounding of the chains.
            u[ok] = energy(x[ok])[0]
            log_ratio[ok] = log_mean + u[ok]
        return LastStepResult(x, u, log_ratio)

    def retrace(
        self, energy: Energy, evaluation: Evaluation, x_0: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See `LastStep`: one chain from the given sample the way back, and M - 1 the way forth beside it."""
        ok = self._alive(evaluation)
        log_w, seeds = evaluation.x.new_full(ok.shape, -torch.inf), (draw_seed(generator), draw_seed(generator))
        if bool(ok.any()):
            parts = [self._run(energy, evaluation, ok, 1, seeds[0], x_0[ok].float()).log_w[:, None]]
            if self.chains > 1:
                parts.append(
                    self._run(energy, evaluation, ok, self.chains - 1, seeds[1]).log_w.reshape(-1, self.chains - 1)
                )
            log_w[ok] = choose(torch.cat(parts, 1), generator)[1]
        return log_w

    @staticmethod
    def _alive(evaluation: Evaluation) -> torch.Tensor:
        return torch.isfinite(evaluation.x).flatten(1).all(1) & torch.isfinite(evaluation.denoised).flatten(1).all(1)

    def _run(
        self, energy: Energy, evaluation: Evaluation, ok: torch.Tensor, chains: int, seed: int, start=None
    ) -> AnnealRun:
        x_t, mean = (a[ok].float().repeat_interleave(chains, 0) for a in (evaluation.x, evaluation.denoised))
        return run_annealing(energy, mean, x_t, evaluation.mse, evaluation.sigma, self.schedule, seed, start=start)
