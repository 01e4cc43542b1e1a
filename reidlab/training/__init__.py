"""Training: one configuration, one loop, checkpoints that hold tensors and plain values only."""

from reidlab.training.checkpoint import load_checkpoint, save_checkpoint
from reidlab.training.config import PRESETS, RANGES, TrainConfig, parse_settings
from reidlab.training.loop import TrainResult, seed_everything, train

__all__ = [
    "PRESETS",
    "RANGES",
    "TrainConfig",
    "TrainResult",
    "load_checkpoint",
    "parse_settings",
    "save_checkpoint",
    "seed_everything",
    "train",
]
