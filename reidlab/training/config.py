"""Everything a training run depends on besides the data, checked before hours are spent on it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from reidlab.checks import check_choice, check_switch
from reidlab.models import MODELS
from reidlab.models import base as models_base
from reidlab.models.backbones import check_weights
from reidlab.models.base import ReIDModel, refuse_renamed, without_memory
from reidlab.training.presets import PRESETS

RANGES: dict[str, tuple[type, float, float]] = {
    "iterations": (int, 1, 10**9),
    "identities_per_batch": (int, 2, 10**6),
    "images_per_identity": (int, 2, 10**6),
    "learning_rate": (float, 0, 10**6),
    "backbone_lr_mult": (float, 0, 10**6),
    "warmup": (float, 0, 0.99),
    "warmup_start": (float, 0, 1),
    "gamma": (float, 0, 1),
    "momentum": (float, 0, 0.99999),
    "weight_decay": (float, 0, 10**6),
    "erasing": (float, 0, 1),
    "jitter": (float, 0, 1),
    "ema_decay": (float, 0, 0.99999),
    "max_grad_norm": (float, 0, 10**6),
    "microbatch_size": (int, 0, 10**9),
    "seed": (int, 0, 2**32 - 1),
    "log_every": (int, 1, 10**9),
    "evaluate_every": (int, 0, 10**9),
    "held_out": (float, 0, 0.9),
    "save_every": (int, 1, 10**9),
}
"""Type, smallest and largest value of each number in `TrainConfig`."""

CHOICES: dict[str, Collection[str]] = {
    "model": MODELS,
    "optimizer": ("adamw", "adam", "sgd"),
    "augmentation": ("light", "mirror", "crop", "zoom"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "batch_norm": ("local", "synced"),
}
"""What the settings that are words can be."""

RENAMED = {
    **models_base.RENAMED,
    "spread": "distinct_cameras",
    "backbone_rate": "backbone_lr_mult",
    "schedule": "milestones; without any the schedule is half a cosine",
    "steps": "milestones",
    "decay": "gamma",
    "decay_all": "decay_norm_bias",
    "chunk": "microbatch_size",
    "average": "ema_decay",
    "clip": "max_grad_norm",
}
"""Earlier names of settings, and today's."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on, besides the data.

    Args:
        model: "baseline", "rga" (`RGANet`), "relation" (`RelationNet`), "mgn" (`MGN`), "relative_distance"
            (`RelativeDistanceNet`), or the `name` of a model class of one's own.
        model_args: arguments of that model's constructor, such as `backbone`, `weights`, `margin`; the model's class
            documents and checks them. The others are filled in with its defaults, so that the settings are complete.
        iterations: batches to train on; epochs follow from it.
        identities_per_batch, images_per_identity: P and K; a batch has P × K images.
        distinct_cameras: draw a person's K images from different cameras, as far as there are any.
        optimizer: "adamw", "adam" (weight decay as a part of the gradient) or "sgd".
        momentum: of "sgd", in [0, 1).
        learning_rate: peak of the schedule.
        backbone_lr_mult: learning rate of the backbone over that of the layers that are new on it.
        milestones: shares of the run in (0, 1), increasing, at which the rate is multiplied by `gamma`; with none of
            them the rate falls along half a cosine to 0.
        gamma: factor at each milestone, in [0, 1].
        warmup: share of the iterations in which the rate rises linearly, in [0, 1).
        warmup_start: share of the peak that it rises from, in [0, 1].
        weight_decay: of the optimizer.
        decay_norm_bias: decay norms and biases, too.
        augmentation: "light" shifts, mirrors and jitters each image (`train_transform`). The others change whole
            batches on the device, as the papers do (`BatchAugmentation`). An augmentation of one's own is passed to
            `train` as `augment`.
        erasing: probability of random erasing, in [0, 1], with any augmentation.
        jitter: strength of the colour jitter of "light", in [0, 1].
        precision: "auto", or "float32", or "bfloat16" or "float16" for the backbone alone. "auto" measures once
            whether bfloat16 is quicker here (`settle_precision`), and every record says what was chosen. Weights,
            pooled features, distances and losses stay in float32; "float16" scales the loss.
        compile: compile the forward pass with torch.compile; the first batches take minutes.
        batch_norm: with several processes, "local" normalises by the images of one of them, as with microbatches;
            "synced" by those of all, on GPUs only.
        microbatch_size: images that go through the network at a time; 0 for the whole batch. The loss still compares
            all images of the batch (gradient caching), for one more forward pass. Batch norm sees one microbatch.
        ema_decay: decay, in [0, 1), of a moving average of the weights; above 0, the average is what training returns.
        max_grad_norm: a gradient of a larger norm is scaled down to it. 0 leaves gradients alone.
        seed: of weights, batches and augmentation.
        log_every: iterations between two rows of the history.
        evaluate_every: iterations between two evaluations on training identities; 0 for none. There is one before
            the first iteration, and one at the end.
        held_out: share of the training identities, in [0, 0.9], that are not trained on, but evaluated on, and by
            which best.pt is chosen. With 0 the evaluation is on identities seen in training: it finds faults, and
            chooses nothing.
        save_every: iterations between two writings of last.pt.

    Raises:
        ValueError: a value out of its range, a setting that would change nothing, an earlier name of a setting, or
            what the constructor of the model refuses.

    Example:
        >>> config = TrainConfig(model="rga", model_args={"backbone": "small", "gate_init": "half"})
        >>> config.model_args["margin"], TrainConfig.preset("laptop", iterations=10, margin=None).model_args["margin"]
        (0.3, None)

    Taught in: notebooks/00_start_here.ipynb
    """

    model: str = "baseline"
    model_args: dict[str, Any] = field(default_factory=dict)
    iterations: int = 250
    identities_per_batch: int = 16
    images_per_identity: int = 4
    distinct_cameras: bool = False
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 2e-3
    backbone_lr_mult: float = 1.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.1
    warmup_start: float = 0.0
    weight_decay: float = 5e-2
    decay_norm_bias: bool = False
    augmentation: str = "light"
    erasing: float = 0.5
    jitter: float = 0.1
    precision: str = "auto"
    compile: bool = False
    batch_norm: str = "local"
    microbatch_size: int = 0
    ema_decay: float = 0.0
    max_grad_norm: float = 0.0
    seed: int = 0
    log_every: int = 25
    evaluate_every: int = 0
    held_out: float = 0.0
    save_every: int = 250

    def __new__(cls, *_: Any, **settings: Any) -> TrainConfig:  # noqa: D102
        refuse_renamed(settings, RENAMED)
        if unknown := sorted(settings.keys() - {f.name for f in dataclasses.fields(cls)}):
            raise ValueError(
                f"unknown setting {unknown[0]}; arguments of the model go into model_args={{...}}, or use "
                "TrainConfig.preset(name, ...) or config.replace(...), which take both"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
                what = "whole number" if kind is int else "number"
                raise ValueError(f"{name}={value!r}: expected a {what} from {low} to {high}")
        check_switch(**{n: getattr(self, n) for n in ("distinct_cameras", "decay_norm_bias", "compile")})
        if self.augmentation == "street":
            raise ValueError(
                "augmentation='street' is no setting any more; give train() augment=StreetAugmentation(height, width), "
                "of reidlab.walkers"
            )
        for name, known in CHOICES.items():
            check_choice(name, getattr(self, name), known)
        self._check_milestones()
        check_microbatch(self.microbatch_size, self.identities_per_batch * self.images_per_identity)
        object.__setattr__(self, "model_args", complete_arguments(self.model, self.model_args))
        attends = self.model_args.get("spatial") or self.model_args.get("channel")
        if self.batch_norm == "synced" and self.model == "rga" and attends:
            raise ValueError(
                "batch_norm='synced' with model='rga': attention normalises by hand, each process by itself"
            )
        self._refuse_unread()

    def _check_milestones(self) -> None:
        """Refuse what is no tuple of increasing shares; lists, as JSON has them, and one number become tuples."""
        shares = self.milestones
        shares = (shares,) if isinstance(shares, float) else shares
        edges = (self.warmup, *shares, 1.0) if isinstance(shares, (list, tuple)) else ()
        if not edges or any(type(one) is not float for one in shares) or any(not a < b for a, b in pairwise(edges)):
            raise ValueError(
                f"milestones={self.milestones!r} with warmup={self.warmup}: expected shares of the run, increasing, "
                "after the warm-up and below 1, such as (0.5, 0.75)"
            )
        object.__setattr__(self, "milestones", tuple(shares))

    def _refuse_unread(self) -> None:
        reasons = {
            "backbone_lr_mult": not MODELS[self.model].backbone_prefixes and f"model={self.model!r}",
            "momentum": self.optimizer != "sgd" and f"optimizer={self.optimizer!r}",
            "gamma": not self.milestones and "milestones=()",
            "warmup_start": not self.warmup and "warmup=0",
            "jitter": self.augmentation != "light" and f"augmentation={self.augmentation!r}",
            "held_out": not self.evaluate_every and "evaluate_every=0",
        }
        for name, reason in reasons.items():
            if reason and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name}={getattr(self, name)!r} is not read with {reason}; leave it out")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainConfig:
        """Return the settings called `name`, with some of them changed.

        Args:
            name: of `reidlab.training.PRESETS`.
            changes: settings; what is none of `TrainConfig`'s is an argument of the model's constructor. With another
                `model`, the preset's arguments are left behind, but for backbone and weights.

        Raises:
            ValueError: no such preset, or no such setting; the message lists what there is.
        """
        check_choice("preset", name, PRESETS)
        settings = {"model": cls.model} | PRESETS[name]
        model = changes.get("model", settings["model"])
        check_choice("model", model, MODELS)
        if model != settings["model"]:
            kept = _FIELDS | ({"backbone", "weights"} & inspect.signature(MODELS[model]).parameters.keys())
            settings = {key: value for key, value in settings.items() if key in kept} | {"model": model}
        return cls().replace(**settings).replace(**changes)

    def replace(self, **changes: Any) -> TrainConfig:
        """Return these settings with some of them changed.

        Args:
            changes: settings; what is none of `TrainConfig`'s is an argument of the model's constructor. With another
                `model` the arguments of the former one are left behind.

        Raises:
            ValueError: as `TrainConfig`.
        """
        kept = self.model_args if changes.get("model", self.model) == self.model else {}
        given = changes.pop("model_args", {})
        if not isinstance(given, dict):
            raise ValueError(f"model_args={given!r}: expected arguments by name, such as {{'backbone': 'small'}}")
        named = {key: changes.pop(key) for key in changes.keys() - _FIELDS}
        if both := sorted(named.keys() & given.keys()):
            raise ValueError(f"{both[0]} is given twice, by itself and in model_args; leave one of them out")
        return dataclasses.replace(self, **changes, model_args=kept | given | named)

    def __str__(self) -> str:
        settings = flat_settings(dataclasses.asdict(self))
        names = {name: f"  {name}" if name in self.model_args else name for name in settings}
        width = max(map(len, names.values()))
        return "\n".join(f"{names[name]:<{width}}  {value}" for name, value in settings.items())


_FIELDS = {f.name for f in dataclasses.fields(TrainConfig)}


def _plain(value: Any) -> Any:
    """Return Python's numbers for numpy's, which checkpoints cannot hold, and tuples for the lists of JSON."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put the arguments of the model behind its name, and tuples in place of the lists that JSON has.

    Args:
        settings: a `TrainConfig` as a dictionary, or the part "config" of config.json.

    Example:
        >>> flat_settings({"model": "mgn", "model_args": {"margin": 1.2}, "milestones": [0.5]})
        {'model': 'mgn', 'margin': 1.2, 'milestones': (0.5,)}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if name == "model_args" else {name: value}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flat.items()}


def complete_arguments(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model's constructor, defaults included, without the number of classes.

    The constructor itself checks them, on a network without memory.

    Args:
        model: name of the model.
        given: some of the arguments; lists become tuples, and numpy's numbers Python's.

    Raises:
        ValueError: an argument that the model does not have, or that its constructor refuses.

    Example:
        >>> complete_arguments("mgn", {"backbone": "small"})["margin"]
        1.2
    """
    if not isinstance(given, dict):
        raise ValueError(f"model_args={given!r}: expected arguments by name, such as {{'backbone': 'small'}}")
    parameters = dict(inspect.signature(MODELS[model]).parameters)
    parameters.pop("num_classes", None)
    refuse_renamed(given.keys() - parameters.keys(), RENAMED)
    if taken := sorted(_FIELDS & parameters.keys()):
        raise ValueError(f"model={model!r}: its argument {taken[0]} has the name of a setting; give it another name")
    kinds = [parameter.kind for parameter in parameters.values()]
    if (unknown := sorted(map(str, given.keys() - parameters.keys()))) and inspect.Parameter.VAR_KEYWORD not in kinds:
        settings = ", ".join(f.name for f in dataclasses.fields(TrainConfig))
        near = difflib.get_close_matches(unknown[0], [*_FIELDS, *parameters], 1)
        raise ValueError(
            f"unknown setting {', '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}; the settings are "
            f"{settings}; the arguments of {model} are {', '.join(parameters) or 'none'}"
        )
    arguments = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    arguments |= {name: _plain(value) for name, value in given.items()}
    if "weights" in arguments:
        check_weights(arguments.get("backbone", "resnet50"), arguments["weights"])
    key = (MODELS[model], repr({**arguments, "weights": None}))
    if key not in _CHECKED:
        without = {**arguments, **({"weights": None} if "weights" in arguments else {})}
        without_memory(lambda: new_model(model, without, 2))
        _CHECKED.add(key)
    return arguments


_CHECKED: set[tuple[type[ReIDModel], str]] = set()


def without_weights(config: TrainConfig) -> TrainConfig:
    """Return the settings for a network that reads no file of weights.

    Example:
        >>> without_weights(TrainConfig(model_args={"backbone": "resnet50", "weights": "a.pth"})).model_args["weights"]
    """
    return config.replace(weights=None) if "weights" in config.model_args else config


def new_model(model: str, arguments: dict[str, Any], num_classes: int) -> ReIDModel:
    """Return a new network, from torch's global generator.

    Args:
        model: its name.
        arguments: of its constructor.
        num_classes: identities to distinguish, for models that have a classifier.

    Raises:
        ValueError: what the constructor refuses.
    """
    kind = MODELS[model]
    classes = {"num_classes": num_classes} if "num_classes" in inspect.signature(kind).parameters else {}
    try:
        return kind(**classes, **arguments)
    except TypeError as error:
        raise ValueError(f"model={model!r}: {error}") from error


def check_microbatch(size: int, images: int) -> None:
    """Refuse a size of microbatches that changes nothing, or that leaves an image by itself.

    Args:
        size: images at a time, 0 for all.
        images: that a process has of each batch.

    Raises:
        ValueError: the message says what to choose.

    Example:
        >>> check_microbatch(32, 64)
    """
    got = f"microbatch_size={size}"
    if size and size >= images:
        raise ValueError(f"{got}: a process has {images} images of a batch at a time anyway; leave it out")
    if size == 1 or (size and images % size == 1):
        raise ValueError(f"{got} leaves one image of {images} by itself, where batch norm needs two; choose another")
