"""Training: one configuration, one loop, checkpoints that hold tensors and plain values only."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reidlab import __version__
from reidlab.data.dataset import ReIDDataset, class_labels, stack_batch
from reidlab.data.records import Splits
from reidlab.data.samplers import PKBatchSampler
from reidlab.data.transforms import train_transform
from reidlab.errors import DataError
from reidlab.files import atomic_path
from reidlab.models import Baseline
from reidlab.models.backbones import BACKBONES
from reidlab.progress import progress

logger = logging.getLogger(__name__)


RANGES: dict[str, tuple[type, float, float]] = {
    "iterations": (int, 1, 10**9),
    "identities_per_batch": (int, 2, 10**6),
    "images_per_identity": (int, 2, 10**6),
    "learning_rate": (float, 0, 10**6),
    "warmup": (float, 0, 0.99),
    "weight_decay": (float, 0, 10**6),
    "label_smoothing": (float, 0, 0.99),
    "margin": (float, 0, 10**6),
    "erasing": (float, 0, 1),
    "jitter": (float, 0, 1),
    "seed": (int, 0, 2**32 - 1),
    "log_every": (int, 1, 10**9),
}
"""Type, smallest and largest value of each number in `TrainConfig`."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on, besides the data.

    Args:
        backbone: "small" or "resnet50".
        weights: ImageNet weights for "resnet50": a path, "torchvision", or None.
        iterations: batches to train on; epochs follow from it.
        identities_per_batch: P.
        images_per_identity: K.
        learning_rate: peak of the schedule: linear warm-up, then half a cosine down to 0.
        warmup: share of the iterations spent warming up, in [0, 1).
        weight_decay: of AdamW.
        label_smoothing: ε of the cross-entropy, in [0, 1).
        margin: of the batch-hard triplet loss, in units of Euclidean distance; None for the soft margin.
        erasing: probability of random erasing, in [0, 1].
        jitter: strength of the colour jitter, ≥ 0.
        seed: of weights, batches and augmentation.
        log_every: iterations between two rows of the history.

    Raises:
        ValueError: a value out of its range.

    Example:
        >>> TrainConfig.preset("laptop", iterations=10).iterations
        10

    Taught in: notebooks/00_start_here.ipynb
    """

    backbone: str = "small"
    weights: str | None = None
    iterations: int = 250
    identities_per_batch: int = 16
    images_per_identity: int = 4
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 5e-2
    label_smoothing: float = 0.1
    margin: float | None = 0.3
    erasing: float = 0.5
    jitter: float = 0.1
    seed: int = 0
    log_every: int = 25

    def __post_init__(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and name == "margin":
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
                what = "whole number" if kind is int else "number"
                raise ValueError(f"{name}={value!r}: expected a {what} from {low} to {high}")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r}: expected one of {', '.join(BACKBONES)}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Return the settings called `name`, with some of them changed.

        Raises:
            ValueError: no such preset, or no such setting; the message lists what there is.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}; the settings are {', '.join(known)}")
        return cls(**{**PRESETS[name], **changes})

    def __str__(self) -> str:
        width = max(len(f.name) for f in dataclasses.fields(self))
        return "\n".join(f"{f.name:<{width}}  {getattr(self, f.name)}" for f in dataclasses.fields(self))


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "smoke": {"iterations": 8, "identities_per_batch": 4, "images_per_identity": 2, "log_every": 4},
}


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it got there.

    Args:
        model: in evaluation mode.
        config: what it was trained with.
        history: one row every `log_every` iterations: iteration, learning_rate, and the mean of each loss term.
        seconds: wall time of the loop.
        epochs: passes over the identities.
    """

    model: Baseline
    config: TrainConfig
    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    epochs: float


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, which torchvision's transforms draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  third-party transforms draw from it
    torch.manual_seed(seed)


def train(
    config: TrainConfig,
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    report: Callable[[dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train a `Baseline` on the training identities of a data set.

    Args:
        config: the settings.
        data: only `data.train` is read.
        device: "cpu", "cuda" or "cuda:1".
        workers: processes that read images; 0 reads in this one and keeps them in memory, shrunk to input size.
        report: called with each row of the history as it is made, for printing or plotting.

    Returns:
        A `TrainResult`. On the CPU the same seed and number of threads give the same numbers.

    Raises:
        ValueError: fewer identities than P.
        FloatingPointError: the loss became NaN or infinite; the message names iteration and term.

    Taught in: notebooks/00_start_here.ipynb
    """
    seed_everything(config.seed)
    labels = class_labels(data.train)
    sampler = _sampler(config, data)
    model = _new_model(config, len(labels)).to(device, memory_format=torch.channels_last).train()
    dataset = ReIDDataset(
        data.train,
        train_transform(model.height, model.width, config.erasing, config.jitter),
        labels,
        cache_size=(model.height, model.width) if workers == 0 else None,
    )
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=stack_batch)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    scheduler = _schedule(optimizer, config)
    history: list[dict[str, float]] = []
    running: list[dict[str, float]] = []
    start = time.perf_counter()
    batches = progress(_endless(loader, sampler, config.iterations), "training", config.iterations)
    for iteration, (images, targets, _) in enumerate(batches, start=1):
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        outputs = model(images)
        _check_finite({"features": outputs["features"]}, iteration)
        terms = model.loss(outputs, targets.to(device))
        _check_finite(terms, iteration)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        running.append({name: float(value.detach()) for name, value in terms.items()})
        if iteration % config.log_every == 0 or iteration == config.iterations:
            means = {name: float(np.mean([row[name] for row in running])) for name in running[0]}
            history.append({"iteration": iteration, "learning_rate": scheduler.get_last_lr()[0], **means})
            running = []
            if report:
                report(history[-1])
        scheduler.step()
    return TrainResult(model.eval(), config, history, time.perf_counter() - start, config.iterations / len(sampler))


def _sampler(config: TrainConfig, data: Splits) -> PKBatchSampler:
    pids, wanted = [record.pid for record in data.train], config.identities_per_batch
    there = len(set(pids))
    if there < wanted:
        raise ValueError(
            f"identities_per_batch={wanted}, but the training set has {there} identities; "
            f"set identities_per_batch to {max(2, there)} or less"
        )
    return PKBatchSampler(pids, wanted, config.images_per_identity, config.seed)


def _new_model(config: TrainConfig, num_classes: int) -> Baseline:
    return Baseline(num_classes, config.backbone, config.weights, config.margin, config.label_smoothing)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay weights of convolutions and linear layers; norms and biases (one-dimensional) are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LRScheduler:
    warm = max(1, round(config.warmup * config.iterations))
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, config.iterations - warm))
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warm])


def _endless(loader: DataLoader, sampler: PKBatchSampler, iterations: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `iterations` batches, epoch after epoch."""
    left, epoch = iterations, 0
    while left:
        sampler.set_epoch(epoch)
        for batch in loader:
            yield batch
            left -= 1
            if not left:
                return
        epoch += 1


def _check_finite(values: dict[str, Tensor], iteration: int) -> None:
    for name, value in values.items():
        if not torch.isfinite(value.detach()).all():
            raise FloatingPointError(
                f"iteration {iteration}: NaN or infinity in {name}; lower learning_rate or lengthen the warm-up"
            )


def save_checkpoint(path: str | os.PathLike[str], result: TrainResult, data: Splits) -> Path:
    """Write the model with what it was trained on, atomically; tensors and plain values only.

    Taught in: notebooks/00_start_here.ipynb
    """
    content = {
        "format": "reidlab checkpoint 1",
        "version": __version__,
        "model": result.model.arguments,
        "input": {"height": result.model.height, "width": result.model.width, "channels": "RGB"},
        "config": dataclasses.asdict(result.config),
        "data": {"dataset": data.name, "box": data.box, "protocol": data.protocol},
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in result.model.state_dict().items()},
    }
    buffer = io.BytesIO()  # torch reports a full disk as an internal error; writing bytes says what it is
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return Path(path)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[Baseline, dict[str, Any]]:
    """Read a checkpoint of `save_checkpoint`.

    Returns:
        The model in evaluation mode, and everything else that the file says.

    Raises:
        FileNotFoundError: no such file.
        DataError: damaged, or not a checkpoint of this package.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here, from EOFError to UnpicklingError
        raise DataError(f"{path}: damaged, or not a checkpoint ({type(error).__name__}); copy it again") from None
    if not isinstance(content, dict) or content.get("format") != "reidlab checkpoint 1":
        raise DataError(f"{path}: not a checkpoint of reidlab train; it lacks the mark 'reidlab checkpoint 1'")
    try:
        model = Baseline(**content["model"])
        model.load_state_dict(content.pop("state_dict"))
        missing = {"config", "data"} - content.keys()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = {" ".join(str(error).split())[:200]}
    if missing:
        raise DataError(
            f"{path}: a checkpoint with parts missing or changed ({', '.join(sorted(missing))}); train again"
        )
    return model.to(memory_format=torch.channels_last).eval(), content


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts from a command line into values of the settings' types.

    Raises:
        ValueError: no "=", or a value that is no number where one is needed.

    Example:
        >>> parse_settings(["iterations=20", "margin=none", "backbone=resnet50"])
        {'iterations': 20, 'margin': None, 'backbone': 'resnet50'}
    """
    defaults = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{text!r}: expected NAME=VALUE")
        default = defaults.get(name)
        if value.lower() == "none":
            values[name] = None
        elif isinstance(default, (int, float)):
            try:
                values[name] = type(default)(value)
            except ValueError:
                raise ValueError(f"{name}={value}: expected a {type(default).__name__}, such as {default}") from None
        else:
            values[name] = value
    return values
