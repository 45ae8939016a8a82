"""Comparison of ensembles: figures, a table, a JSON summary."""

from .comparison import compare
from .figures import plot_energies, plot_histograms, plot_map
from .markdown import table
from .training import plot_training

__all__ = ["compare", "plot_energies", "plot_histograms", "plot_map", "plot_training", "table"]
