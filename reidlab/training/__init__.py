"""Training: one configuration, one loop, runs that can be resumed, checkpoints of tensors and plain values."""

from reidlab.training.checkpoint import load_checkpoint, save_checkpoint
from reidlab.training.config import RANGES, TrainConfig
from reidlab.training.loop import Training, TrainResult, train
from reidlab.training.presets import PRESETS, parse_settings
from reidlab.training.randomness import seed_everything
from reidlab.training.run_folder import RunFolder

__all__ = [
    "PRESETS",
    "RANGES",
    "RunFolder",
    "TrainConfig",
    "TrainResult",
    "Training",
    "load_checkpoint",
    "parse_settings",
    "save_checkpoint",
    "seed_everything",
    "train",
]
