"""Everything a training run depends on besides the data, checked before hours are spent on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from reidlab.distances import DISTANCES
from reidlab.losses import METRIC_LOSSES, MININGS
from reidlab.models import MODELS
from reidlab.models.backbones import BACKBONES
from reidlab.models.parts import CONTRASTS
from reidlab.models.relation import POOLINGS, TERM_GROUPS
from reidlab.models.rga import STARTS
from reidlab.models.rganet import SEARCHES
from reidlab.training.presets import PRESETS

RANGES: dict[str, tuple[type, float, float]] = {
    "iterations": (int, 1, 10**9),
    "identities_per_batch": (int, 2, 10**6),
    "images_per_identity": (int, 2, 10**6),
    "stripes": (int, 0, 64),
    "learning_rate": (float, 0, 10**6),
    "backbone_rate": (float, 0, 10**6),
    "warmup": (float, 0, 0.99),
    "warmup_start": (float, 0, 1),
    "decay": (float, 0, 1),
    "momentum": (float, 0, 0.99999),
    "weight_decay": (float, 0, 10**6),
    "label_smoothing": (float, 0, 0.99),
    "margin": (float, 0, 10**6),
    "erasing": (float, 0, 1),
    "jitter": (float, 0, 1),
    "average": (float, 0, 0.99999),
    "clip": (float, 0, 10**6),
    "chunk": (int, 0, 10**9),
    "seed": (int, 0, 2**32 - 1),
    "log_every": (int, 1, 10**9),
    "evaluate_every": (int, 0, 10**9),
    "held_out": (float, 0, 0.9),
    "save_every": (int, 1, 10**9),
}
"""Type, smallest and largest value of each number in `TrainConfig`."""

CHOICES: dict[str, Collection[str]] = {
    "model": ("baseline", "rga", "relation", "mgn", "relative_distance"),
    "backbone": BACKBONES,
    "metric_loss": (*METRIC_LOSSES, "none"),
    "metric": DISTANCES,
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("cosine", "steps"),
    "augmentation": ("light", "mirror", "crop", "zoom"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "batch_norm": ("local", "synced"),
    "attention": ("both", "spatial", "channel", "none"),
    "start": STARTS,
    "search": SEARCHES,
    "contrast": CONTRASTS,
    "pooling": POOLINGS,
}
"""What the settings that are words can be."""

SWITCHES = ("flip", "spread", "cross_entropy", "neck", "one_vs_rest", "decay_all", "compile")
"""The settings that are True or False."""

SEVERAL: dict[str, type] = {"parts": int, "terms": str, "steps": float}
"""The settings of several values, with the type of each value."""

READS: dict[str, tuple[str, ...]] = {
    "baseline": (
        *("backbone", "weights", "stripes", "flip", "label_smoothing"),
        *("cross_entropy", "metric_loss", "metric", "margin", "neck"),
    ),
    "rga": ("backbone", "weights", "flip", "label_smoothing", "margin", "attention", "start", "search"),
    "relation": ("backbone", "weights", "flip", "margin", "parts", "contrast", "pooling", "one_vs_rest", "terms"),
    "mgn": ("backbone", "weights", "flip", "label_smoothing", "margin"),
    "relative_distance": (),
}
"""Which of the settings of networks each `model` reads."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on, besides the data.

    Args:
        model: "baseline", "rga" (`RGANet`), "relation" (`RelationNet`), "mgn" (`MGN`) or "relative_distance"
            (`RelativeDistanceNet`); all but the first bring their own losses. The relation network and MGN were
            published with margin 1.2, flip and no label smoothing: set those.
        backbone: "small" or "resnet50".
        weights: ImageNet weights for "resnet50": a path, "torchvision", or None.
        stripes: 0 for global average pooling, n for n horizontal stripes beside it (`StripePooling`).
        flip: search with an image and its mirror image.
        iterations: batches to train on; epochs follow from it.
        identities_per_batch: P.
        images_per_identity: K.
        spread: draw a person's K images from different cameras, as far as there are any.
        optimizer: "adamw", "adam" (weight decay as a part of the gradient) or "sgd".
        momentum: of "sgd", in [0, 1).
        learning_rate: peak of the schedule.
        backbone_rate: rate of the backbone over that of the layers that are new on it.
        schedule: what follows a linear warm-up: "cosine", half a cosine down to 0, or "steps".
        steps: of "steps": the places, as shares of the run in (0, 1), at which the rate is multiplied by `decay`.
        decay: of "steps", in [0, 1].
        warmup: share of the iterations spent warming up, in [0, 1).
        warmup_start: share of the peak that the warm-up rises from, in [0, 1].
        weight_decay: of the optimizer.
        decay_all: decay norms and biases, too.
        label_smoothing: ε of the cross-entropy, in [0, 1).
        cross_entropy: train a classifier of the identities, beside the metric loss or alone.
        metric_loss: one of `reidlab.losses.METRIC_LOSSES`, or "none" for the classifier alone.
        metric: distance of the triplet losses: "euclidean", "squared" or "cosine".
        margin: of the triplet losses, in units of that distance; None for the soft margin.
        neck: False leaves the batch norm between the two losses out.
        attention: of "rga": "both", "spatial", "channel" or "none".
        start: of "rga": gates of the new network, "random" as published, or "half", which a network without ImageNet
            weights needs.
        search: of "rga": with the "features" before the batch-norm neck or the "embedding" after it.
        parts: of "relation": numbers of stripes, each of which divides the rows of the map.
        contrast, pooling, one_vs_rest, terms: of "relation", see `RelationNet`.
        augmentation: "light" shifts, mirrors and jitters each image (`train_transform`). The others change whole
            batches on the device, as the papers do (`BatchAugmentation`). An augmentation of one's own is passed to
            `train` as `augment`.
        erasing: probability of random erasing, in [0, 1], with any augmentation.
        jitter: strength of the colour jitter of "light", ≥ 0.
        precision: "auto", or "float32", or "bfloat16" or "float16" for the backbone alone. Half precision is quicker
            where the processor has instructions for it, and ten times slower where not; "auto" measures that when
            training begins (`settle_precision`), and every record says what was chosen. Weights, pooled features,
            distances and losses stay in float32; "float16" scales the loss so that small gradients survive.
        compile: let torch.compile make the forward pass quicker; the first batches take minutes.
        batch_norm: with several processes, "local" normalises by the images of one of them, as a chunk is; "synced"
            by those of all, on GPUs only.
        chunk: images that go through the network at a time; 0 for the whole batch. The loss still compares all images
            of the batch (gradient caching), so that a large P × K fits on a small card, for one more forward pass.
            Batch norm then sees one chunk.
        average: decay, in [0, 1), of a moving average of the weights; above 0, the average is what
            training returns.
        clip: largest norm of the gradient; a larger one is scaled down to it. 0 leaves gradients alone.
        seed: of weights, batches and augmentation.
        log_every: iterations between two rows of the history.
        evaluate_every: iterations between two evaluations on training identities; 0 for none. There is one before
            the first iteration, and one at the end.
        held_out: share of the training identities, in [0, 0.9], that are not trained on, but evaluated on, and by
            which best.pt is chosen. With 0 the evaluation is on people seen in training: it finds faults, and
            chooses nothing.
        save_every: iterations between two writings of last.pt.

    Raises:
        ValueError: a value out of its range, no loss at all, or a setting that the model does not read.

    Example:
        >>> TrainConfig.preset("laptop", iterations=10).iterations
        10

    Taught in: notebooks/00_start_here.ipynb
    """

    model: str = "baseline"
    backbone: str = "small"
    weights: str | None = None
    stripes: int = 0
    flip: bool = False
    iterations: int = 250
    identities_per_batch: int = 16
    images_per_identity: int = 4
    spread: bool = False
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 2e-3
    backbone_rate: float = 1.0
    schedule: str = "cosine"
    steps: tuple[float, ...] = ()
    decay: float = 0.1
    warmup: float = 0.1
    warmup_start: float = 0.0
    weight_decay: float = 5e-2
    decay_all: bool = False
    label_smoothing: float = 0.1
    cross_entropy: bool = True
    metric_loss: str = "batch_hard"
    metric: str = "euclidean"
    margin: float | None = 0.3
    neck: bool = True
    attention: str = "both"
    start: str = "random"
    search: str = "features"
    parts: tuple[int, ...] = (6, 4, 2)
    contrast: str = "released"
    pooling: str = "contrastive"
    one_vs_rest: bool = True
    terms: tuple[str, ...] = TERM_GROUPS
    augmentation: str = "light"
    erasing: float = 0.5
    jitter: float = 0.1
    precision: str = "auto"
    compile: bool = False
    batch_norm: str = "local"
    chunk: int = 0
    average: float = 0.0
    clip: float = 0.0
    seed: int = 0
    log_every: int = 25
    evaluate_every: int = 0
    held_out: float = 0.0
    save_every: int = 250

    def __post_init__(self) -> None:
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None and name == "margin":
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
                what = "whole number" if kind is int else "number"
                raise ValueError(f"{name}={value!r}: expected a {what} from {low} to {high}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected True or False")
        if self.augmentation == "street":
            raise ValueError(
                "augmentation='street' is no setting any more; give train() augment=StreetAugmentation(height, width), "
                "of reidlab.walkers"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}")
        if not self.cross_entropy and self.metric_loss == "none":
            raise ValueError(
                "cross_entropy=False with metric_loss='none' leaves nothing to learn from; set one of them"
            )
        if self.batch_norm == "synced" and self.model == "rga" and self.attention != "none":
            raise ValueError(
                "batch_norm='synced' with model='rga': attention normalises by hand, each process by itself"
            )
        check_chunk(self.chunk, self.identities_per_batch * self.images_per_identity)
        self._check_several()
        self._refuse_unread()

    def _check_several(self) -> None:
        """Refuse wrong settings of several values; lists, as JSON has them, become tuples."""
        for name, kind in SEVERAL.items():
            values = getattr(self, name)
            usual = getattr(type(self), name)
            if not isinstance(values, (list, tuple)) or any(type(one) is not kind for one in values):
                raise ValueError(f"{name}={values!r}: expected a tuple of {kind.__name__}s, such as {usual or (0.5,)}")
            if usual and not values:
                raise ValueError(f"{name}={values!r}: expected at least one, such as {usual}")
            object.__setattr__(self, name, tuple(values))
        if unknown := [term for term in self.terms if term not in TERM_GROUPS]:
            raise ValueError(f"terms={self.terms}: {unknown[0]!r} is none of {', '.join(TERM_GROUPS)}")
        edges = (self.warmup, *self.steps, 1.0)
        if self.schedule == "steps" and (not self.steps or any(a >= b for a, b in pairwise(edges))):
            raise ValueError(
                f"steps={self.steps} with warmup={self.warmup}: expected shares of the run, increasing, after the "
                "warm-up and below 1, such as (0.5, 0.75)"
            )

    def _refuse_unread(self) -> None:
        ignored = {name for names in READS.values() for name in names} - set(READS[self.model])
        if self.model == "baseline" and self.metric_loss not in MININGS:
            ignored |= {"metric", "margin"}
        if not self.cross_entropy:
            ignored |= {"label_smoothing"}
        if self.attention == "none":
            ignored |= {"start"}
        if self.pooling != "contrastive":
            ignored |= {"contrast"}
        ignored |= set() if MODELS[self.model].backbone_prefixes else {"backbone_rate"}
        ignored |= set() if self.optimizer == "sgd" else {"momentum"}
        ignored |= set() if self.schedule == "steps" else {"steps", "decay"}
        ignored |= set() if self.warmup else {"warmup_start"}
        ignored |= set() if self.augmentation == "light" else {"jitter"}
        ignored |= set() if self.evaluate_every else {"held_out"}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        unread = [name for name in defaults if name in ignored and getattr(self, name) != defaults[name]]
        if unread:
            raise ValueError(
                f"model={self.model!r} with metric_loss={self.metric_loss!r} and cross_entropy={self.cross_entropy} "
                f"and the other settings does not read {', '.join(unread)}; leave out what would change nothing"
            )

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


def check_chunk(chunk: int, images: int) -> None:
    """Refuse a chunk that changes nothing, or that leaves an image by itself.

    Args:
        chunk: images at a time, 0 for all.
        images: that a process has of each batch.

    Raises:
        ValueError: the message says what to choose.

    Example:
        >>> check_chunk(32, 64)
    """
    if chunk and chunk >= images:
        raise ValueError(f"chunk={chunk}: a process has {images} images of a batch at a time anyway; leave it out")
    if chunk == 1 or (chunk and images % chunk == 1):
        raise ValueError(
            f"chunk={chunk} leaves one image of {images} by itself, where batch norm needs two; choose another number"
        )


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
        if value.lower() == "none" and name != "metric_loss":
            values[name] = None
        elif isinstance(default, bool):
            if value.lower() not in ("true", "false"):
                raise ValueError(f"{name}={value}: expected true or false")
            values[name] = value.lower() == "true"
        elif name in SEVERAL:
            kind = SEVERAL[name]
            try:
                values[name] = () if value in ("", "()") else tuple(kind(one) for one in value.split(","))
            except ValueError:
                usual = ",".join(map(str, default or (0.5, 0.75)))
                raise ValueError(f"{name}={value}: expected commas between {kind.__name__}s, such as {usual}") from None
        elif isinstance(default, (int, float)):
            try:
                values[name] = type(default)(value)
            except ValueError:
                raise ValueError(f"{name}={value}: expected a {type(default).__name__}, such as {default}") from None
        else:
            values[name] = value
    return values
