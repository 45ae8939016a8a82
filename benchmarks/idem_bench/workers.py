"""Two worker processes against one."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

from idem_md.checks import check_int
from idem_md.energies import ASE

__all__ = ["bench_workers"]


def bench_workers(batch: int = 512, repeats: int = 5) -> dict[str, Any]:
    """Cu13 with ASE's EMT: B configurations by two worker processes against one; numbers compared bit for bit."""
    batch, repeats = check_int("batch", batch, 1), check_int("repeats", repeats, 1)
    atoms = Icosahedron("Cu", 2)
    noise = torch.randn(batch, 13, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(atoms.positions) + 0.1 * noise
    pools = {n: ASE(atoms, EMT, temperature_K=1200, workers=n) for n in (1, 2)}
    results = {n: pool(x) for n, pool in pools.items()}  # the processes are running now
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for n, pool in pools.items():
            start = time.perf_counter()
            pool(x)
            seconds[n].append(time.perf_counter() - start)
    for pool in pools.values():
        pool.close()
    return {
        "bench": "workers",
        "system": "Cu13, EMT",
        "batch": batch,
        "repeats": repeats,
        "seconds": statistics.median(seconds[2]),
        "reference_seconds": statistics.median(seconds[1]),
        "speedup": statistics.median(a / b for a, b in zip(seconds[1], seconds[2])),
        "identical": all(torch.equal(a, b) for a, b in zip(results[1], results[2])),
    }
