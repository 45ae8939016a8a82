"""What ``idem-md bench`` measures on a user's machine and networks: native code against plain torch, a network against
the exact denoiser, effective samples by kernel and last step, and log Z by several routes."""

from .log_z import measure_log_z
from .native_ops import BENCHMARKS, run_benchmark, score_reference
from .score import SIGMAS, MeterReading, measure_score, read_meter
from .weights import measure_weights

__all__ = [
    "BENCHMARKS",
    "SIGMAS",
    "MeterReading",
    "measure_log_z",
    "measure_score",
    "measure_weights",
    "read_meter",
    "run_benchmark",
    "score_reference",
]
