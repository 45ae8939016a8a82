"""The kernels' own benchmarks: what `idem-md bench` prints, one dictionary a measurement.

Each measures the native kernel and the same work in plain torch, in one run on one machine: quote the ratio.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import kernels
from .checks import UsageError, check_int
from .energies import ASE, Energy, LennardJones
from .geometry import standard_normal
from .systems import get_system

__all__ = ["BENCHMARKS", "run_benchmark", "score_reference"]


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
    for k in range(repeats + 1):
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
        x, *_ = energy.mala(x, step, 200, k)
    return x.to(device)


def _measure(row: dict, native, reference, work: float, reference_work: float, repeats: int, device, energy, bytes_moved: int):
    """Time both, and put the native one beside the machine's peak. ``work`` counts energies with forces."""
    row["extra_memory_mib"] = _extra_memory(native, device)
    row["seconds"] = _seconds(native, repeats, device)
    row["evaluations_per_second"] = work / row["seconds"]
    row["flop"], row["bytes"] = work * energy.flop, bytes_moved
    row["flop_per_second"] = row["flop"] / row["seconds"]
    row["peak_flop_per_second"] = statistics.median(kernels.peak_flops(device) for _ in range(5))
    row["share_of_peak"] = row["flop_per_second"] / row["peak_flop_per_second"]
    if reference is not None:
        row["reference_extra_memory_mib"] = _extra_memory(reference, device)
        row["reference_seconds"] = _seconds(reference, min(repeats, 3), device)
        row["reference_evaluations_per_second"] = reference_work / row["reference_seconds"]
        row["speedup"] = row["evaluations_per_second"] / row["reference_evaluations_per_second"]
    return row


def bench_target(energy, scale, batch, samples, repeats, device, reference) -> dict:
    """B x K energies with forces to B scores; the reference is `score_reference`, random numbers included."""
    x = _positions(energy, scale, batch, device)
    sigma = torch.logspace(-2, 0, batch, device=device)
    x = x + sigma[:, None, None] * standard_normal(x.shape, torch.Generator().manual_seed(1), torch.float32).to(device)
    native = lambda: energy.dem_scores(x, sigma, samples, 0)  # noqa: E731
    plain = lambda: score_reference(energy, x, sigma, torch.randn(batch, samples, *x.shape[1:], device=device))  # noqa: E731
    bytes_moved = 4 * (3 * x.numel() + 4 * batch)
    return _measure({"samples": samples}, native, plain if reference else None, batch * samples, batch * samples, repeats,
                    device, energy, bytes_moved)


def bench_energy(energy, scale, batch, samples, repeats, device, reference) -> dict:
    """Energies with forces of B configurations; the reference is autograd over pairs."""
    x = _positions(energy, scale, batch, device)
    plain = _PlainLennardJones(energy)
    return _measure({}, lambda: energy(x), (lambda: plain(x)) if reference else None, batch, batch, repeats, device, energy,
                    4 * (2 * x.numel() + batch))


def bench_mala(energy, scale, batch, samples, repeats, device, reference) -> dict:
    """``samples`` steps of B chains; the reference is the torch loop over autograd energies, for a fiftieth of the steps."""
    x = _positions(energy, scale, batch, device)
    short = max(samples // 50, 1)
    step = 1e-3 * scale**2
    plain = _PlainLennardJones(energy)
    return _measure({"steps": samples}, lambda: energy.mala(x, step, samples, 0),
                    (lambda: plain.mala(x, step, short, 0)) if reference else None, batch * (samples + 1), batch * (short + 1),
                    repeats, device, energy, 4 * (3 * x.numel() + 2 * batch))


def bench_workers(batch: int, repeats: int) -> dict:
    """Cu13 with ASE's EMT: B configurations by two worker processes against one; numbers compared bit for bit."""
    from ase.calculators.emt import EMT
    from ase.cluster import Icosahedron

    atoms = Icosahedron("Cu", 2)
    noise = torch.randn(batch, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(atoms.positions) + 0.1 * noise
    pools = {n: ASE(atoms, EMT, temperature_K=1200, workers=n) for n in (1, 2)}
    results, seconds = {n: pool(x) for n, pool in pools.items()}, {1: [], 2: []}  # the processes are running now
    for _ in range(repeats):
        for n, pool in pools.items():
            start = time.perf_counter()
            pool(x)
            seconds[n].append(time.perf_counter() - start)
    for pool in pools.values():
        pool.close()
    return {"seconds": statistics.median(seconds[2]), "reference_seconds": statistics.median(seconds[1]),
            "speedup": statistics.median(a / b for a, b in zip(seconds[1], seconds[2])),
            "identical": all(torch.equal(a, b) for a, b in zip(results[1], results[2]))}


# Name -> (function, default batch, default samples or steps).
BENCHMARKS = {"target": (bench_target, 512, 1024), "energy": (bench_energy, 65_536, None), "mala": (bench_mala, 4096, 500)}


def run_benchmark(name: str, system: str = "lj13", batch: int | None = None, samples: int | None = None, repeats: int = 5,
                  device: str = "cpu", reference: bool = True) -> dict:
    """One measurement, as a dictionary of numbers and strings.

    Parameters
    ----------
    name : str
        A key of `BENCHMARKS`, or ``workers``: two processes against one on an ASE calculator.
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
        An unknown name, a system without native kernels, a device that is not there.
    """
    if name == "workers":
        if system != "lj13" or samples is not None or device != "cpu" or not reference:
            raise UsageError("workers: expected neither system nor samples, device or reference; it is Cu13 with EMT on the CPU")
        size = check_int("batch", 512 if batch is None else batch, 1)
        return {"bench": name, "system": "Cu13, EMT", "batch": size, "repeats": repeats} | bench_workers(size, check_int("repeats", repeats, 1))
    if name not in BENCHMARKS:
        raise UsageError(f"benchmark: expected one of {', '.join(BENCHMARKS)}, workers, got {name!r}")
    fn, default_batch, default_samples = BENCHMARKS[name]
    batch = check_int("batch", default_batch if batch is None else batch, 1)
    if default_samples is None and samples is not None:
        raise UsageError(f"samples: expected none for {name!r}, got {samples}")
    samples = default_samples if samples is None else check_int("samples", samples, 1)
    repeats = check_int("repeats", repeats, 1)
    where = kernels.check_device("device", device)
    target = get_system(system)
    energy = target.energy()
    if not isinstance(energy, LennardJones) or energy.species is not None:
        raise UsageError(f"system: expected a Lennard-Jones system of one species, got {system!r}")
    row = {"bench": name, "system": system, "device": device, "batch": batch, "repeats": repeats,
           "hardware": torch.cuda.get_device_name(where) if where.type == "cuda" else
           f"{platform.machine()}, {torch.get_num_threads()} threads, {kernels.instruction_sets()[0]}"}
    return row | fn(energy, target.sigma_data, batch, samples, repeats, where, reference)
