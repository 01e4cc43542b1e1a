"""The training loop."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from reidlab.data.augment import StreetAugmentation
from reidlab.data.dataset import ReIDDataset, class_labels, stack_batch
from reidlab.data.records import Splits
from reidlab.data.samplers import PKBatchSampler
from reidlab.data.transforms import train_transform
from reidlab.models import MODELS, Model, RelativeDistanceNet
from reidlab.progress import progress
from reidlab.training.config import READS, TrainConfig
from reidlab.training.watch import Watch


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it got there.

    Args:
        model: in evaluation mode.
        config: what it was trained with.
        history: one row every `log_every` iterations: iteration, learning_rate, the mean of each loss term, and
            with a triplet loss what `Watch` sees in the row's last batch.
        seconds: wall time of the loop.
        epochs: passes over the identities.
    """

    model: Model
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
    augment: Callable[[Tensor], Tensor] | None = None,
    model: Model | None = None,
) -> TrainResult:
    """Train a model on the training identities of a data set.

    Args:
        config: the settings.
        data: only `data.train` is read.
        device: "cpu", "cuda" or "cuda:1".
        workers: processes that read images; 0 reads in this one and keeps them in memory, shrunk to input size.
            With augmentation "street" images are resized to 9/8 of it, to have a border that shifted crops are
            cut from; stored at that size, they are read each time, since memory may not hold all of them.
        augment: with augmentation "street", what turns a uint8 batch into the network's input, in place of a
            `StreetAugmentation` at its usual strengths and `config.erasing`; refused with another augmentation.
        model: what to go on from, in place of a new network; it is changed.
        report: called with each row of the history as it is made, for printing or plotting.

    Returns:
        A `TrainResult`. On the CPU the same seed and number of threads give the same numbers.

    Raises:
        ValueError: fewer identities than P, or an `augment` that the settings leave no place for.
        CollapseError: the features of all images have become one point.
        FloatingPointError: the loss became NaN or infinite; the message names iteration and term.

    Taught in: notebooks/00_start_here.ipynb
    """
    if augment is not None and config.augmentation != "street":
        raise ValueError(
            f"got an augment for whole batches with augmentation={config.augmentation!r}, which changes images one "
            "by one; set augmentation='street', or leave augment out"
        )
    seed_everything(config.seed)
    sampler = _sampler(config, data)
    model = model or _new_model(config, data)
    model = model.to(device, memory_format=torch.channels_last).train()
    average = _Average(model, config.average) if config.average else None
    loader, usual = _inputs(config, data, model, sampler, workers)
    augment = augment or usual
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    scheduler = _schedule(optimizer, config)
    chance = torch.Generator().manual_seed(config.seed)  # triplets drawn by chance
    watch = Watch(config)
    history: list[dict[str, float]] = []
    running: list[dict[str, float]] = []
    start = time.perf_counter()
    batches = progress(_endless(loader, sampler, config.iterations), "training", config.iterations)
    for iteration, (images, targets, _) in enumerate(batches, start=1):
        images = augment(images.to(device, non_blocking=True)).to(memory_format=torch.channels_last)
        targets = targets.to(device)
        terms, features = _step(model, optimizer, images, targets, config, iteration, chance)
        running.append(terms)
        if average:
            average.update(model)
        if iteration % config.log_every == 0 or iteration == config.iterations:
            means = {name: float(np.mean([row[name] for row in running])) for name in running[0]}
            seen = {"iteration": iteration, "learning_rate": scheduler.get_last_lr()[0]}
            history.append({**seen, **means, **watch.row(features, targets)})
            running = []
            if report:
                report(history[-1])
            watch.check(history[-1])
        scheduler.step()
    model = average.model if average else model
    _check_finite(dict(model.named_parameters()), config.iterations)
    return TrainResult(model.eval(), config, history, time.perf_counter() - start, config.iterations / len(sampler))


def _sampler(config: TrainConfig, data: Splits) -> PKBatchSampler:
    pids, wanted = [record.pid for record in data.train], config.identities_per_batch
    there = len(set(pids))
    if there < wanted:
        raise ValueError(
            f"identities_per_batch={wanted}, but the training set has {there} identities; "
            f"set identities_per_batch to {max(2, there)} or less"
        )
    cameras = [record.camid for record in data.train] if config.spread else None
    return PKBatchSampler(pids, wanted, config.images_per_identity, config.seed, cameras)


def _new_model(config: TrainConfig, data: Splits) -> Model:
    settings = {name: getattr(config, name) for name in READS[config.model]}
    if config.model == "relative_distance":
        return RelativeDistanceNet()
    if "attention" in settings:
        kind = settings.pop("attention")
        settings |= {half: kind in (half, "both") for half in ("spatial", "channel")}
    return MODELS[config.model](len(class_labels(data.train)), **settings)


def _inputs(
    config: TrainConfig, data: Splits, model: Model, sampler: PKBatchSampler, workers: int
) -> tuple[DataLoader, Callable[[Tensor], Tensor]]:
    """Return a loader of batches, and what is to be done to each batch of images as a whole."""
    size = (model.height, model.width)
    transform: Callable[[Tensor], Tensor] = train_transform(*size, config.erasing, config.jitter)
    augment: Callable[[Tensor], Tensor] = nn.Identity()
    if config.augmentation == "street":
        generator = torch.Generator().manual_seed(config.seed)
        border = 1 + getattr(data, "border", 0.0)
        augment = StreetAugmentation(*size, erasing=config.erasing, border=border, generator=generator)
        size = (size[0] * 9 // 8, size[1] * 9 // 8)
        transform = v2.Resize(size, antialias=True)  # hands on images of that size as they are
    stored = config.augmentation == "street" and data.train[0].load().shape[:2] == size
    cache = None if workers or stored else size
    dataset = ReIDDataset(data.train, transform, class_labels(data.train), cache)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=stack_batch)
    return loader, augment


def _step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    config: TrainConfig,
    iteration: int,
    chance: torch.Generator,
) -> tuple[dict[str, float], Tensor]:
    """Change the weights by one batch; return the terms of its loss and its features."""
    outputs = model(images, torch.bfloat16) if config.precision == "bfloat16" else model(images)
    _check_finite({"features": outputs["features"].detach().float().square().sum(1) * 4}, iteration)
    terms = model.loss(outputs, targets, chance)
    _check_finite(terms, iteration)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    if config.clip:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return {name: float(value.detach()) for name, value in terms.items()}, outputs["features"].detach()


class _Average:
    """A moving average of a model's weights and buffers; over the first batches it forgets more quickly."""

    def __init__(self, model: Model, decay: float):
        self.model, self.decay, self.batches = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        decay = min(self.decay, (1 + self.batches) / (10 + self.batches))
        self.batches += 1
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)  # batch norm's counters


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay weights of convolutions and linear layers; norms and biases are left alone."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    free = {name for name, p in trained.items() if p.ndim <= 1 or name.endswith("bias")}
    return [
        {"params": [p for name, p in trained.items() if name not in free], "weight_decay": weight_decay},
        {"params": [p for name, p in trained.items() if name in free], "weight_decay": 0.0},
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
                f"iteration {iteration}: NaN or infinity in {name}, or numbers too large to go on with; "
                "lower learning_rate or lengthen the warm-up"
            )
