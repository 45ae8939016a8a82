"""The kernels' own benchmarks: what `idem-md bench` prints, one dictionary a measurement.

Each measures the native op and the same work in plain torch, in one run on one machine: quote the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import native
from ..chains import Schedule, run_annealing, run_mala
from ..checks import check_int
from ..energies import Energy, LennardJones
from ..errors import UsageError
from ..geometry import standard_normal
from ..provenance import hardware
from ..registry import Registry
from ..systems import get_system
from ..targets import dem_scores

__all__ = ["BENCHMARKS", "Case", "Measurement", "run_benchmark", "score_reference"]


def _potential(energy: LennardJones, x: torch.Tensor) -> torch.Tensor:
    """Energies of (..., N, D) over pairs, for one species, left to autograd."""
    i, j = torch.tril_indices(energy.n_atoms, energy.n_atoms, -1, device=x.device)
    inv6 = (((x[..., i, :] - x[..., j, :]) ** 2).sum(-1) / energy.r_min**2) ** -3
    centre = x - x.mean(-2, keepdim=True)
    return energy.epsilon * (inv6 * (inv6 - 2)).sum(-1) + 0.5 * energy.trap * (centre**2).sum((-1, -2))


def score_reference(energy: LennardJones, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """The usual implementation of the DEM target: vmap of grad of logsumexp over K energies, for one species.

    Parameters
    ----------
    x : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    eps : torch.Tensor, shape (B, K, N, D)

    Returns
    -------
    torch.Tensor, shape (B, N, D)
        Gradient of log mean_k exp(-u(x + sigma eps_k)).
    """

    def log_density(x, sigma, eps):
        return torch.logsumexp(-_potential(energy, x + sigma * eps), 0)

    return torch.func.vmap(torch.func.grad(log_density))(x, sigma, eps)


class _PlainLennardJones(Energy):
    """Energy and forces by torch autograd over pairs, for the reference chains."""

    users_code = False

    def __init__(self, energy: LennardJones):
        super().__init__(energy.n_atoms, energy.n_dims)
        self.energy = energy

    def evaluate(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = _potential(self.energy, x)
            (g,) = torch.autograd.grad(u.sum(), x)
        return u.detach(), -g


def _seconds(fn: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median wall time of ``repeats`` calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        fn()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _extra_memory(fn: Callable[[], object], device: torch.device) -> float | None:
    """MiB by which the peak of memory during a call exceeds what was in use before; None where that is not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        clear.write_text("5")  # sets the high-water mark of resident memory to the present value
    except OSError:
        return None

    def read(key):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1]) / 1024

    before = read("VmRSS:")
    fn()
    return max(read("VmHWM:") - before, 0.0)


def _positions(energy: LennardJones, scale: float, batch: int, device: torch.device) -> torch.Tensor:
    """Short chains from noise: ordinary configurations, whose energies and weights are finite."""
    generator = torch.Generator().manual_seed(0)
    x = scale * standard_normal((batch, energy.n_atoms, energy.n_dims), generator, torch.float32)
    for k, step in enumerate((1e-6, 1e-5, 1e-4)):
        x = run_mala(energy, x, step, 200, k).x
    return x.to(device)


@dataclass(frozen=True)
class Case:
    """What is to be measured: one system of one species, a batch size B, samples or steps, a device."""

    energy: LennardJones
    scale: float
    batch: int
    samples: int
    device: torch.device


@dataclass(frozen=True)
class Measurement:
    """Native code and the same work in plain torch.

    Attributes
    ----------
    native, reference : callable ()
    work, reference_work : int
        Energies with forces in one call of each.
    bytes_moved : int
        Inputs and outputs of the native call.
    facts : dict
        What else the result is to say.
    """

    native: Callable[[], object]
    reference: Callable[[], object]
    work: int
    reference_work: int
    bytes_moved: int
    facts: dict[str, Any] = field(default_factory=dict)


def _timed(case: Case, m: Measurement, repeats: int, reference: bool) -> dict[str, Any]:
    """Time both, and put the native one beside the machine's peak."""
    row: dict[str, Any] = dict(m.facts)
    row["extra_memory_mib"] = _extra_memory(m.native, case.device)
    row["seconds"] = _seconds(m.native, repeats, case.device)
    row["evaluations_per_second"] = m.work / row["seconds"]
    row["flop"], row["bytes"] = m.work * case.energy.flop, m.bytes_moved
    row["flop_per_second"] = row["flop"] / row["seconds"]
    row["peak_flop_per_second"] = statistics.median(native.peak_flops(case.device) for _ in range(5))
    row["share_of_peak"] = row["flop_per_second"] / row["peak_flop_per_second"]
    if reference:
        row["reference_extra_memory_mib"] = _extra_memory(m.reference, case.device)
        row["reference_seconds"] = _seconds(m.reference, min(repeats, 3), case.device)
        row["reference_evaluations_per_second"] = m.reference_work / row["reference_seconds"]
        row["speedup"] = row["evaluations_per_second"] / row["reference_evaluations_per_second"]
    return row


class Benchmark(NamedTuple):
    """A benchmark: how to set it up, and its default sizes; ``samples`` is None where there are none."""

    prepare: Callable[[Case], Measurement]
    batch: int
    samples: int | None


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")


def bench_target(case: Case) -> Measurement:
    """B x K energies with forces to B scores; the reference is `score_reference`, random numbers included."""
    batch, samples, energy, device = case.batch, case.samples, case.energy, case.device
    x = _positions(energy, case.scale, batch, device)
    sigma = torch.logspace(-2, 0, batch, dtype=torch.float32, device=device)
    noise = standard_normal(x.shape, torch.Generator().manual_seed(1), torch.float32).to(device)
    x = x + sigma[:, None, None] * noise
    return Measurement(
        lambda: dem_scores(energy, x, sigma, samples, 0),
        lambda: score_reference(
            energy, x, sigma, torch.randn(batch, samples, *x.shape[1:], dtype=torch.float32, device=device)
        ),
        batch * samples,
        batch * samples,
        4 * (3 * x.numel() + 4 * batch),
        {"samples": samples},
    )


def bench_energy(case: Case) -> Measurement:
    """Energies with forces of B configurations; the reference is autograd over pairs."""
    x = _positions(case.energy, case.scale, case.batch, case.device)
    plain = _PlainLennardJones(case.energy)
    return Measurement(
        lambda: case.energy(x), lambda: plain(x), case.batch, case.batch, 4 * (2 * x.numel() + case.batch)
    )


def bench_mala(case: Case) -> Measurement:
    """``samples`` steps of B chains; the reference is the torch loop over autograd energies, for a fiftieth of the
    steps."""
    x = _positions(case.energy, case.scale, case.batch, case.device)
    short = max(case.samples // 50, 1)
    step = 1e-3 * case.scale**2
    plain = _PlainLennardJones(case.energy)
    return Measurement(
        lambda: run_mala(case.energy, x, step, case.samples, 0),
        lambda: run_mala(plain, x, step, short, 0),
        case.batch * (case.samples + 1),
        case.batch * (short + 1),
        4 * (3 * x.numel() + 2 * case.batch),
        {"steps": case.samples},
    )


def bench_anneal(case: Case) -> Measurement:
    """Annealing of B chains, ``samples`` steps in stages of eight; the reference takes a fiftieth of the stages."""
    x = _positions(case.energy, case.scale, case.batch, case.device)
    schedule = Schedule(max(case.samples // 8, 1), 5.0, 8, (1e-3 * case.scale**2,))
    short = Schedule(max(schedule.stages // 50, 1), 5.0, 8, schedule.steps)
    plain = _PlainLennardJones(case.energy)
    return Measurement(
        lambda: run_annealing(case.energy, x, x, 0.01, 0.3, schedule, 0),
        lambda: run_annealing(plain, x, x, 0.01, 0.3, short, 0),
        case.batch * schedule.calls,
        case.batch * short.calls,
        4 * (3 * x.numel() + 2 * case.batch),
        {"steps": schedule.stages * 8},
    )


BENCHMARKS.register("target")(Benchmark(bench_target, 512, 1024))
BENCHMARKS.register("energy")(Benchmark(bench_energy, 65_536, None))
BENCHMARKS.register("mala")(Benchmark(bench_mala, 4096, 500))
BENCHMARKS.register("anneal")(Benchmark(bench_anneal, 4096, 512))


def run_benchmark(
    name: str,
    system: str = "lj13",
    batch: int | None = None,
    samples: int | None = None,
    repeats: int = 5,
    device: str = "cpu",
    reference: bool = True,
) -> dict[str, Any]:
    """One measurement, as a dictionary of numbers and strings.

    Parameters
    ----------
    name : str
        A key of `BENCHMARKS`.
    system : str
        A named Lennard-Jones system.
    batch, samples : int, optional
        B, and K (target) or the number of steps (mala).
    repeats : int
        Calls timed, of which the median is given (at most three of the reference); one more warms up.
    device : str
        cpu or cuda.
    reference : bool
        Also time plain torch (gigabytes of memory at the default sizes of ``target``).

    Returns
    -------
    dict
        seconds (median), evaluations_per_second (energies with forces), flop (those of energies and forces, counted;
        noise, weights and sums are not), bytes (inputs and outputs), peak_flop_per_second (measured), share_of_peak,
        extra_memory_mib, and reference_... with speedup.

    Raises
    ------
    UsageError
        An unknown name, a system without native ops, a device that is not there.
    """
    benchmark = BENCHMARKS.find(name)
    batch = check_int("batch", benchmark.batch if batch is None else batch, 1)
    if benchmark.samples is None and samples is not None:
        raise UsageError(f"samples: expected none for {name!r}, got {samples}")
    samples = check_int("samples", (benchmark.samples or 1) if samples is None else samples, 1)
    repeats = check_int("repeats", repeats, 1)
    where = native.check_device("device", device)
    target = get_system(system)
    energy = target.energy()
    if not isinstance(energy, LennardJones) or energy.species is not None:
        raise UsageError(f"system: expected a Lennard-Jones system of one species, got {system!r}")
    row: dict[str, Any] = {
        "bench": name,
        "system": system,
        "device": device,
        "batch": batch,
        "repeats": repeats,
        "hardware": torch.cuda.get_device_name(where)
        if where.type == "cuda"
        else f"{hardware()}, {native.instruction_sets()[0]}",
    }
    case = Case(energy, target.sigma_data, batch, samples, where)
    return row | _timed(case, benchmark.prepare(case), repeats, reference)
