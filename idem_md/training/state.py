"""Everything that a resumed run needs to go on bit for bit, in memory and on disk."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..chains import ChainState
from ..checkpoint import build_denoiser
from ..checks import all_finite, check_float, check_int
from ..diffusion import Denoiser
from ..errors import ConfigError, FileFormatError, UsageError
from ..systems import System
from ..tensor_files import read_tensors, write_tensors
from ..twin.made import CALLS
from ..twin.record import parameters_of
from .config import TrainingConfig
from .ladder import Ladder
from .optimisers import load_optimizers, make_optimizers, optimizer_tensors
from .ranks import ALONE, Ranks
from .ring import RingBuffer

__all__ = [
    "SavedRun",
    "TrainingState",
    "first_difference",
    "load_state",
    "run_config",
    "run_samples",
    "run_trap",
    "save_state",
]

# Key of headers and provenances for the stiffness of the trap: descriptions of foreign systems do not have it.
TRAP = "trap_kT_per_angstrom2"

# What descriptions of systems may differ in: prose, and names and a geometry of a molecule.
NOT_COMPARED = ("description", "topology", "geometry", "mirror_images")


@dataclass
class TrainingState:
    """A run between two outer iterations.

    Attributes
    ----------
    denoiser, ema : Denoiser
        The weights being trained and their exponential moving average.
    optimizers : tuple of torch.optim.Optimizer
        See `make_optimizers`.
    buffer : RingBuffer
    generator : torch.Generator
        The one source of randomness.
    iteration, total : int
        Outer iterations done and planned; ``total`` fixes the step-size schedule.
    mala_step : float
        Tuned between refinements by `chains.tune_step`.
    system : System
    seconds : float
        Wall time so far.
    filled : tuple[float, int]
        Seconds and energy calls of the first buffer.
    ladder : Ladder, optional
        The temperatures of the buffer, if there are several.
    """

    denoiser: Denoiser
    ema: Denoiser
    optimizers: tuple[torch.optim.Optimizer, ...]
    buffer: RingBuffer
    generator: torch.Generator
    iteration: int
    total: int
    mala_step: float
    system: System
    seconds: float = 0.0
    filled: tuple[float, int] = (0.0, 0)
    ladder: Ladder | None = None

    @property
    def rungs(self) -> int:
        """How many temperatures the buffer has."""
        return 1 if self.ladder is None else len(self.ladder)

    @property
    def own_energies(self) -> torch.Tensor:
        """Energies of the samples at the system's own temperature, or that which is nearest."""
        u = self.buffer.samples.u
        return u if self.ladder is None else u[self.ladder.own :: len(self.ladder)]

    def average_at(self, rung: int) -> Denoiser:
        """The averaged network at the temperature of a rung; without a ladder there is one rung, number 0."""
        return self.ema if self.ladder is None else self.ema.at(math.log(self.ladder.betas[rung]))

    def drawn(self, n: int, rung: int, generator: torch.Generator) -> torch.Tensor:
        """``n`` indices of samples of a rung, each drawn from all."""
        index = self.buffer.drawn(n, generator)
        return index - index % self.rungs + rung

    def colder(self, index: torch.Tensor, cold: float) -> torch.Tensor:
        """Indices of samples, each moved to the coldest rung of its ladder with the probability ``cold``."""
        if not cold:
            return index
        moved = torch.rand(len(index), generator=self.generator, device=index.device) < cold
        return torch.where(moved, index - index % self.rungs, index)

    @property
    def device(self) -> torch.device:
        """Where networks and buffer are; the generator is on the CPU."""
        return self.buffer.samples.x.device


class SavedRun(NamedTuple):
    """What `load_state` returns: the state, the energy calls so far, the log, and the number of processes then."""

    state: TrainingState
    energy_calls: int
    log: list[dict[str, Any]]
    processes: int


def save_state(
    path: Path, config: TrainingConfig, state: TrainingState, energy_calls: int, log: list[dict], ranks: Ranks = ALONE
) -> None:
    """Write everything that `load_state` needs, as one safetensors file: the first process does, for all."""
    s = state.buffer.samples
    steps = {k: v.cpu() for k, v in optimizer_tensors(state.optimizers, ranks).items()}
    own = ((s.x.cpu(), s.u.cpu(), s.f.cpu()), state.buffer.next, state.generator.get_state(), steps)
    rings, nexts, generators, optimizers = zip(*ranks.gather(own))
    if not ranks.first:
        return
    tensors = {f"denoiser.{k}": v for k, v in state.denoiser.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for steps in optimizers:
        tensors |= steps
    tensors |= {f"buffer.{name}": torch.cat(values) for name, values in zip(("x", "u", "f"), zip(*rings))}
    tensors["generator"] = torch.stack(generators)
    header = {
        "config": config.model_dump(),
        "iteration": state.iteration,
        "total": state.total,
        "mala_step": state.mala_step,
        "seconds": state.seconds,
        "filled": state.filled,
        "rings": [[len(ring[0]), next] for ring, next in zip(rings, nexts)],
        "energy_calls": energy_calls,
        "log": log,
        "system": state.system.describe(),
        TRAP: state.system.trap,
    }
    if state.ladder is not None:
        header |= {"betas": state.ladder.betas, "walkers": state.buffer.walkers}
    write_tensors(path, "state", tensors, header)


def first_difference(theirs: Mapping, ours: Mapping) -> tuple[str, Any, Any] | None:
    """The first key whose values differ (``table.key`` within tables), with their value and ours."""
    for key, new in ours.items():
        old = theirs.get(key, new)  # older versions did not have every key
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            if found := first_difference(old, new):
                return f"{key}.{found[0]}", *found[1:]
        elif old != new:
            return key, old, new
    return None


def _refuse_another(path: Path, what: str, theirs: Mapping, ours: Mapping, hint: str = "") -> None:
    """Raise `ConfigError` for the first key whose values differ."""
    if found := first_difference(theirs, ours):
        key, old, new = found
        raise ConfigError(f"{path}: cannot resume: {what}{key} was {old!r} in that run, now it is {new!r}{hint}")


def _check(header: Mapping[str, Any], rings: list, samples: ChainState, config: TrainingConfig, system: System) -> None:
    """Raise `UsageError` for numbers that no run has written."""
    total = check_int("total", header["total"], 1, config.optimizer.iterations)
    iteration = check_int("iteration", header["iteration"], 0, total)
    seconds, filled = header["filled"]
    check_float("filled", seconds, minimum=0.0)
    check_int("energy_calls", header["energy_calls"], check_int("filled", filled, 0))
    check_float("seconds", header["seconds"], minimum=0.0)
    check_float("mala_step", header["mala_step"], above=0.0)
    n, log = len(samples.x), header["log"]
    if len(log) != iteration or [entry["iteration"] for entry in log] != list(range(iteration)):
        raise UsageError(f"log: expected an entry for each of {iteration} iterations, got {len(log)}")
    shape = (system.n_atoms, system.n_dims)
    if not 1 <= n <= config.buffer.size or samples.x.shape[1:] != shape or samples.f.shape != samples.x.shape:
        raise UsageError(f"buffer: expected up to {config.buffer.size} samples of shape {shape}, got {samples.x.shape}")
    if samples.u.shape != (n,) or not all(map(all_finite, (samples.x, samples.u, samples.f))):
        raise UsageError("buffer: expected finite positions, energies and forces")
    if sum(check_int("rings", length, 1) for length, _ in rings) != n:
        raise UsageError(f"rings: expected {n} samples in all, got {rings}")
    for length, next in rings:
        check_int("next", next, 0, length - 1)
    if config.ladder is not None:
        betas = [check_float("betas", beta, above=0.0) for beta in header["betas"]]
        if len(betas) < 2 or any(a <= b for a, b in itertools.pairwise(betas)):
            raise UsageError(f"betas: expected two or more that fall, got {betas}")
        if any(number % len(betas) for ring in rings for number in ring):
            raise UsageError(f"rings: expected whole ladders of {len(betas)} samples, got {rings}")
        check_int("walkers", header["walkers"], len(betas), n)


def _own_part(samples: ChainState, rings: list, ranks: Ranks, rungs: int = 1) -> tuple[ChainState, int]:
    """A process's samples, and where its next ones go; ladders stay whole."""
    if rungs > 1:
        shape = len(samples.u) // rungs, rungs
        ladders = ChainState(*(a.reshape(*shape, *a.shape[1:]) for a in (samples.x, samples.u, samples.f)))
        part, first = _own_part(ladders, [[length // rungs, next // rungs] for length, next in rings], ranks)
        return ChainState(*(a.flatten(0, 1) for a in (part.x, part.u, part.f))), first * rungs
    starts = [sum(length for length, _ in rings[:k]) for k in range(len(rings) + 1)]
    if len(rings) == ranks.size:
        own = torch.arange(starts[ranks.rank], starts[ranks.rank + 1], device="cpu")
        next = rings[ranks.rank][1]
    else:  # everyone's oldest first, and dealt out in turn
        ages = torch.cat([(torch.arange(n, dtype=torch.float32, device="cpu") - next) % n / n for n, next in rings])
        own, next = torch.argsort(ages, stable=True)[ranks.rank :: ranks.size], 0
    return ChainState(samples.x[own], samples.u[own], samples.f[own]), next


def load_state(
    path: Path, config: TrainingConfig, system: System, device: torch.device | str = "cpu", ranks: Ranks = ALONE
) -> SavedRun:
    """Read a state, wherever it was made and by however many processes.

    The buffer is shared out anew if their number is another, and the random numbers from there on are others.

    Raises
    ------
    FileFormatError
        Not a state file, or a damaged one.
    ConfigError
        It belongs to a run with another configuration or system; names the first key that differs.
    """
    tensors, header = read_tensors(path, "state")
    try:
        theirs = TrainingConfig.parse(header["config"], str(path)).model_dump()
        hint = "; training.run_config(folder) has the settings of a run"
        _refuse_another(path, "", theirs, config.model_dump(), hint)
        named = {k: v for k, v in system.describe().items() if k not in NOT_COMPARED}
        _refuse_another(path, "the system's ", header["system"], named)
        was, now = header.get(TRAP), system.trap
        if was is not None and now is not None and not math.isclose(was, now, rel_tol=1e-9):
            raise ConfigError(f"{path}: cannot resume: the trap was {was:g} kT/Å^2 in that run, now it is {now:g}")

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        denoiser, ema = (build_denoiser(config.network, system, config.ladder is not None).to(device) for _ in range(2))
        denoiser.load_state_dict(part("denoiser."))
        ema.load_state_dict(part("ema."))
        optimizers = make_optimizers(config.optimizer, denoiser)
        load_optimizers(optimizers, tensors)
        samples = ChainState(*(tensors[f"buffer.{name}"] for name in ("x", "u", "f")))
        # Older versions had one process.
        rings = header["rings"] if "rings" in header else [[len(samples.x), header["next"]]]
        _check(header, rings, samples, config, system)
        generators = tensors["generator"].reshape(len(rings), -1)
        generator = ranks.generator(config.seed, header["iteration"])
        if generators.shape[1:] != generator.get_state().shape:
            raise UsageError(f"generator: expected one for each of {len(rings)} processes")
        if len(rings) == ranks.size:
            generator.set_state(generators[ranks.rank].clone())  # it ignores where in its storage a tensor begins
        ladder = None if config.ladder is None else Ladder(tuple(header["betas"]), config.ladder.moves)
        own, next = _own_part(samples, rings, ranks, 1 if ladder is None else len(ladder))
        size, walkers = (ranks.part(n) for n in (config.buffer.size, config.buffer.walkers or config.buffer.size))
        if ladder is not None:
            size = ladder.whole(size) if config.buffer.walkers else len(own.u)
            walkers = ladder.whole(header["walkers"] * len(rings) // ranks.size) if config.buffer.walkers else size
            walkers = min(max(walkers, len(ladder)), size)
        here = ChainState(own.x.to(device), own.u.to(device), own.f.to(device))
        buffer = RingBuffer(here, size, walkers, next)
        seconds, calls = header["filled"]
        state = TrainingState(
            denoiser,
            ema.eval().requires_grad_(False),
            optimizers,
            buffer,
            generator,
            header["iteration"],
            header["total"],
            header["mala_step"],
            system,
            header["seconds"],
            (seconds, calls),
            ladder,
        )
        return SavedRun(state, header["energy_calls"], header["log"], len(rings))
    except ConfigError:
        raise
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"{path}: its contents do not describe a training state ({error})") from None


def run_trap(folder: Path) -> float | None:
    """Stiffness of the trap (kT / Å^2) of a run that has begun; None if there is no run, or it does not say."""
    with suppress(FileFormatError):
        return read_tensors(Path(folder) / "state.safetensors", "state")[1].get(TRAP)
    return parameters_of(Path(folder) / CALLS).get(TRAP)  # its twin may still be being made


def run_config(folder: Path) -> TrainingConfig:
    """The configuration of a run that has begun.

    Raises
    ------
    FileFormatError
        No state, or a damaged one.
    """
    path, config = Path(folder) / "state.safetensors", Path(folder) / "config.json"
    try:
        if not path.exists() and config.exists():  # its twin is still being made
            return TrainingConfig.parse(json.loads(config.read_text(encoding="utf-8")), str(config))
        _, header = read_tensors(path, "state")
        return TrainingConfig.parse(header["config"], str(path))
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: its contents do not describe a training state ({error})") from None


def run_samples(folder: Path) -> torch.Tensor:
    """The replay buffer of a run: samples of its system as far as the run has got, shape (n, N, D), float32; with a
    ladder of temperatures those of all rungs in turn, the coldest first."""
    path = Path(folder) / "state.safetensors"
    tensors, _ = read_tensors(path, "state")
    if "buffer.x" not in tensors:
        raise FileFormatError(f"{path}: expected the tensor buffer.x, there is none")
    return tensors["buffer.x"]
