"""Parallel tempering from noise: the reference sets that everything is measured against."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch

from ..chains import ChainState, Tempering, Torsion, geometry_start, noise_start
from ..checks import check_float
from ..energies import Energy, HasWorkers, NativeChains, TemperingRun, bare
from ..errors import UsageError
from ..seeds import draw_seed
from ..systems import System
from .base import NEAR, Budget, Engine, EngineSamples, Progress, register_engine, tuned_chains, tuning_calls
from .correlation import statistical_inefficiency

__all__ = ["TemperingEngine"]

# Inverse temperatures of the rungs: neighbours of LJ-55 swap about every fourth time, those of smaller systems more
# often.
BETAS = (1.0, 0.92, 0.85, 0.78, 0.72)
# For molecules, whose barriers are higher.
MOLECULE_BETAS = tuple((1 / 3) ** (k / 7) for k in range(8))
# Rotations about bonds that are tried of each replica, before so many rounds.
TRIALS, EVERY = 3, 10
MOVES = 10
LADDERS = 1000
TUNING_STEPS = 2000
# Share of seconds that is planned with, and configurations by which a call is timed, for each worker.
BUDGET_SHARE, TIMED = 0.85, 16


@register_engine("pt")
class TemperingEngine(Engine):
    """Samples from the coldest rungs of up to 1000 ladders of replicas; see `chains.run_tempering`.

    Each ladder runs ``n_steps`` MALA steps a replica, ten between swaps, from relaxed noise or, of a molecule, from
    near its geometry, whose bonds that turn are turned by trial every hundred steps. Its first half is let go; from the
    second come its samples, equally spaced. Samples of one ladder may be correlated: more steps, or fewer samples, set
    them further apart. They count for n/g, g the statistical inefficiency of the energies over the draws of a ladder.
    The provenance has the acceptance of the chains, that of the swaps, and, but for molecules, round trips a ladder
    between the coldest and the hottest rung, of those that one draw saw whole.

    Parameters
    ----------
    betas : sequence of float, optional
        Inverse temperatures of the rungs, relative to the system's; they fall from one. By default five down to 0.72,
        for molecules eight down to a third; barriers want hotter ones.
    """

    minimum_steps: ClassVar[int] = 1000
    counts_calls: ClassVar[bool] = True
    # Ladders of the run that is under way, and bonds that turn; see `planned`.
    _ladders: int | None = None
    _rotations: Sequence[tuple[int, int, Sequence[int]]] = ()

    def __init__(self, betas: Sequence[float] | None = None):
        self._given = betas is not None
        self.betas = tuple(check_float("betas", beta, above=0.0) for beta in (BETAS if betas is None else betas))
        if len(self.betas) < 2 or self.betas[0] != 1.0:
            raise UsageError(f"betas: expected two or more that fall from one, got {list(self.betas)}")

    def planned(self, system: System, n: int, budget: Budget, seed: int) -> Budget:
        """See `Engine`; a budget of a potential without native chains makes fewer ladders before it makes shorter
        ones."""
        self._ladders, energy = None, system.energy()
        if not self._given:
            self.betas = BETAS if system.chemistry is None else MOLECULE_BETAS
        self._rotations = system.rotations.bonds
        if budget.steps is not None or budget == Budget() or isinstance(energy, NativeChains):
            return super().planned(system, n, budget, seed)
        calls = budget.energy_calls
        if budget.seconds is not None:
            calls = int(BUDGET_SHARE * budget.seconds / _seconds_a_call(system, energy, seed))
        assert calls is not None
        ladders = min(n, LADDERS)
        while ladders:
            steps = self._steps(n, calls, ladders)
            if steps >= max(self.minimum_steps, 4 * MOVES * -(-n // ladders)):
                self._ladders = ladders
                return Budget(steps)
            ladders //= 2
        name, value = ("seconds", budget.seconds) if budget.energy_calls is None else ("energy_calls", calls)
        needed = min(
            self._calls(n, max(self.minimum_steps, 4 * MOVES * -(-n // k)), k) for k in range(1, min(n, 64) + 1)
        )
        raise UsageError(
            f"{name}: expected at least {needed:,} energy calls for {n} samples by the engine 'pt', got {value:g}"
            + (f", which are about {calls:,} calls" if name == "seconds" else "")
        )

    def _steps(self, n: int, calls: int, ladders: int) -> int:
        """Steps a replica of so many ladders for so many energy calls, without more than there are calls for."""
        spare = calls - self._calls(n, 0, ladders)
        steps = max(2 * (spare // (2 * ladders * len(self.betas) * MOVES)) * MOVES, 0)
        while steps and self._calls(n, steps, ladders) > calls:  # of trials
            steps = 19 * steps // 20
        return steps

    def calls(self, n: int, n_steps: int) -> int:
        """See `Engine`."""
        return self._calls(n, n_steps, self._ladders or min(n, LADDERS))

    def _calls(self, n: int, n_steps: int, ladders: int) -> int:
        rounds, draws = n_steps // 2 // MOVES, -(-n // ladders)
        legs = [leg for part in _parts(rounds, draws) for leg in self._legs(part)]
        trials = (TRIALS + 1) * len(legs) if self._rotations else 0
        return ladders * len(self.betas) * (tuning_calls(TUNING_STEPS) + MOVES * sum(legs) + len(legs) + trials) + n

    def _legs(self, rounds: int) -> list[int]:
        """Rounds that are made at a time: all, or so many that bonds are turned often enough."""
        if not self._rotations:
            return [rounds]
        legs = [min(EVERY, rounds - k) for k in range(0, rounds, EVERY)]
        if len(legs) > 1 and legs[-1] == 1:  # in which every other pair of rungs would not be tried
            legs[-2:] = [EVERY + 1]
        return legs

    def draw(
        self, system: System, energy: Energy, n: int, budget: Budget, generator: torch.Generator, progress: Progress
    ) -> EngineSamples:
        """See `Engine`."""
        n_steps = cast(int, budget.steps)
        ladders, self._ladders = self._ladders or min(n, LADDERS), None
        draws = -(-n // ladders)
        rounds = n_steps // 2 // MOVES
        # Two rounds at least, or only every other pair of rungs would ever be tried: each draw begins with the first.
        if rounds < 2 * draws:
            raise UsageError(
                f"steps: expected at least {4 * MOVES * draws} for {draws} samples a ladder, got {n_steps}"
            )
        chains, step = tuned_chains(system, energy, ladders * len(self.betas), TUNING_STEPS, generator)
        beta = torch.tensor(self.betas, dtype=torch.float32)
        move = Tempering(step / beta, beta, MOVES)
        turn = Torsion(self._rotations, beta.repeat(ladders), system.rotations.contacts) if self._rotations else None
        shape = (ladders, len(self.betas))

        def shaped(state: ChainState) -> ChainState:
            return ChainState(*(a.reshape(*shape, *a.shape[1:]) for a in (state.x, state.u, state.f)))

        def advanced(state: ChainState, rounds: int) -> tuple[ChainState, list[tuple[int, TemperingRun]]]:
            runs = []
            for leg in self._legs(rounds):
                if turn is not None:
                    flat = ChainState(*(a.flatten(0, 1) for a in (state.x, state.u, state.f)))
                    state = shaped(turn.step(energy, flat, TRIALS, draw_seed(generator))[0])
                state, run = move.step(energy, state, leg, draw_seed(generator))
                runs.append((leg, run))
            return state, runs

        first, *parts = _parts(rounds, draws)
        state, _ = advanced(shaped(chains), first)
        progress(0.5, f"{ladders} ladders equilibrated")
        samples, trips, accepted, swaps = [], beta.new_zeros(ladders), 0.0, beta.new_zeros(2, len(self.betas) - 1)
        for k, part in enumerate(parts):
            state, runs = advanced(state, part)
            for leg, run in runs:
                trips += run.round_trips
                accepted += float(run.acceptance.mean()) * leg / rounds
                tried = (leg + 1 - torch.arange(len(self.betas) - 1) % 2) // 2  # every other pair in turn
                swaps += torch.stack([run.swaps.mean(0) * tried, tried])
            samples.append(ChainState(*(a[:, 0].clone() for a in (state.x, state.u, state.f))))
            self._so_far = partial(self._draws, list(samples), n, {"betas": list(self.betas), "ladders": ladders})
            progress(0.5 + 0.5 * (k + 1) / draws, f"{min((k + 1) * ladders, n)} samples")
        facts = {
            "steps": n_steps,
            "betas": list(self.betas),
            "ladders": ladders,
            "step": move.step_size.tolist(),
            "acceptance": accepted,
            "swaps": (swaps[0] / swaps[1]).tolist(),
        }
        if turn is None:  # else no call of `run_tempering` is long enough to see one
            facts["round_trips"] = float(trips.mean())
        return self._draws(samples, n, facts)._replace(energies=None)  # to be evaluated in double precision

    @staticmethod
    def _draws(samples: Sequence[ChainState], n: int, facts: dict[str, Any]) -> EngineSamples:
        """EngineSamples of one ladder may be correlated; those of different ones are not."""
        x, u = torch.cat([s.x for s in samples])[:n], torch.stack([s.u for s in samples]).double()
        energies = u.flatten()[:n]
        if len(samples) == 1:
            return EngineSamples(x, facts, None, energies)
        g = statistical_inefficiency(list(u.numpy().T))
        return EngineSamples(x, facts | {"draw_inefficiency": g}, len(x) / g, energies)


def _parts(rounds: int, draws: int) -> list[int]:
    """Rounds of the first half, and those before each draw of the second."""
    return [rounds, *(rounds * (k + 1) // draws - rounds * k // draws for k in range(draws))]


def _seconds_a_call(system: System, energy: Energy, seed: int) -> float:
    """Seconds of an energy call, by some near the geometry of the system, if it has one, or by relaxing noise."""
    generator = torch.Generator().manual_seed(seed)
    n = TIMED * max(os.cpu_count() or 1, 1) if isinstance(bare(energy), HasWorkers) else TIMED

    def made(rounds: int) -> None:
        if system.geometry is None:
            noise_start(energy, system.sigma_data, n, rounds, generator)
            return
        geometry = torch.tensor(system.geometry, dtype=torch.float64)
        for _ in range(rounds + 1):
            geometry_start(energy, geometry, NEAR * system.sigma_data, n, generator)

    made(1)  # the first call may build something
    start, before = time.perf_counter(), energy.calls
    made(4)
    return (time.perf_counter() - start) / (energy.calls - before)
