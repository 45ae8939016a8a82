"""Energy-only training of denoisers."""

from ..checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import TrainingConfig, load_config
from .distill import Distillation, distill
from .finish import run_samples, tune
from .presets import PRESETS, preset
from .run import recover, train
from .springs import SpringsTraining

__all__ = [
    "PRESETS",
    "Checkpoint",
    "Distillation",
    "SpringsTraining",
    "TrainingConfig",
    "distill",
    "load_checkpoint",
    "load_config",
    "preset",
    "recover",
    "run_samples",
    "save_checkpoint",
    "train",
    "tune",
]
