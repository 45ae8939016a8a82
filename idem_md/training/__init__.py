"""Energy-only training of denoisers."""

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import PRESETS, TrainingConfig, load_config, preset
from .run import train

__all__ = ["PRESETS", "Checkpoint", "TrainingConfig", "load_checkpoint", "load_config", "preset", "save_checkpoint", "train"]
