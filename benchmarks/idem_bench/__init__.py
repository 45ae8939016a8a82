"""The project's own measurements: the table of all systems beside published numbers, baselines, networks, errors."""

from .coverage import measure_coverage
from .engines import measure_engines
from .figures import plot_methods
from .methods import measure_methods, methods_table
from .networks import compare_networks, held_out_error
from .reproduction import raw_table, reproduce
from .workers import bench_workers

__all__ = [
    "bench_workers",
    "compare_networks",
    "held_out_error",
    "measure_coverage",
    "measure_engines",
    "measure_methods",
    "methods_table",
    "plot_methods",
    "raw_table",
    "reproduce",
]
