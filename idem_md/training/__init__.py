"""Energy-only training of denoisers."""

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainingConfig, load_config
from .gain import how_it_ended
from .presets import PRESETS, default_preset, preset
from .run import recover, train
from .state import run_config, run_samples, run_trap

__all__ = [
    "PRESETS",
    "Checkpoint",
    "TrainingConfig",
    "default_preset",
    "how_it_ended",
    "load_checkpoint",
    "load_config",
    "preset",
    "recover",
    "run_config",
    "run_samples",
    "run_trap",
    "save_checkpoint",
    "train",
]
