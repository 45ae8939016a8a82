"""What ``idem-md bench`` runs: native code against plain torch, networks against the exact denoiser, and the table of
all systems."""

from .coverage import measure_coverage
from .engines import measure_engines
from .kernels import BENCHMARKS, run_benchmark, score_reference
from .log_z import measure_log_z
from .meter import SIGMAS, MeterReading, measure_score, read_meter
from .networks import compare_networks, held_out_error
from .reproduction import raw_table, reproduce
from .weights import measure_methods, measure_weights, methods_table
from .workers import bench_workers

__all__ = [
    "BENCHMARKS",
    "SIGMAS",
    "MeterReading",
    "bench_workers",
    "compare_networks",
    "held_out_error",
    "measure_coverage",
    "measure_engines",
    "measure_log_z",
    "measure_methods",
    "measure_score",
    "measure_weights",
    "methods_table",
    "raw_table",
    "read_meter",
    "reproduce",
    "run_benchmark",
    "score_reference",
]
