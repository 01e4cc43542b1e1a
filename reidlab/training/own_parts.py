"""Models, losses and augmentations of one's own: what `train` refuses about them, and how a run remembers them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reidlab.models import ReIDModel
from reidlab.models.base import without_memory
from reidlab.training.config import TrainConfig, complete_arguments

OF_LOSS = ("cross_entropy", "metric_loss", "metric", "margin", "label_smoothing")
"""Settings that only the models' own losses read."""
RESERVED = ("iteration", "learning_rate", "active_anchors", "mean_distance", "kind", "seconds", "images_per_second")
"""Names in rows of the history that no term of a loss can have."""


def check_own_parts(
    config: TrainConfig, model: ReIDModel | None, loss: Callable[..., Any] | None, classes: int
) -> None:
    """Refuse what would be trained in another way than its author means.

    Args:
        config: the settings.
        model, loss: as given to `train`.
        classes: identities to train on.

    Raises:
        ValueError: not a `ReIDModel`; made for another number of identities; settings that the model or the loss
            contradicts or does not read; a loss with weights of its own; dropout together with microbatches.
    """
    if loss is not None and not callable(loss):
        raise ValueError(f"loss: got {type(loss).__name__}, expected a function of outputs and pids")
    if isinstance(loss, nn.Module) and any(weight.requires_grad for weight in loss.parameters()):
        raise ValueError("loss: got a module with weights that no optimizer would change; make it a part of the model")
    usual = complete_arguments(config.model, {})
    given = {name: value for name, value in config.model_args.items() if value != usual.get(name)}
    for name in OF_LOSS if loss else ():
        if name in given:
            raise ValueError(f"{name}={given[name]!r} is not read beside a loss of your own; leave it out")
    if model is not None:
        if not isinstance(model, ReIDModel):
            raise ValueError(
                f"model: got {type(model).__name__}, expected a ReIDModel; reidlab.wrap(module, height, width) makes "
                "one of any network"
            )
        made = model.arguments
        if made.get("num_classes", classes) != classes:
            raise ValueError(
                f"the model distinguishes {made['num_classes']} identities, the data has {classes} to train on: make a "
                "new network, and copy the weights of its backbone"
            )
        if config.model not in (TrainConfig.model, model.name):
            raise ValueError(f"model={config.model!r} is not read beside a model of your own; leave it out")
        if config.backbone_lr_mult != 1 and not model.backbone_prefixes:
            raise ValueError(
                f"backbone_lr_mult={config.backbone_lr_mult} is not read: the model given names no backbone_prefixes"
            )
        for name, value in given.items():
            if name not in made:
                raise ValueError(f"{name}={value!r} is not read beside a model of your own; leave it out")
            if (tuple(made[name]) if isinstance(made[name], list) else made[name]) != value:
                raise ValueError(
                    f"{name}={value!r}, but the model given was made with {name}={made[name]!r}; make another model, "
                    "or leave the setting out"
                )
        dropout = any(isinstance(part, _DropoutNd) and part.p for part in model.modules())
        if config.microbatch_size and dropout:
            raise ValueError(
                f"microbatch_size={config.microbatch_size} with dropout in the model: the two passes of a part would "
                "drop different values; set microbatch_size=0"
            )


def describe(own: Any) -> str | None:
    """Return how a run remembers a part: a function by its name, an object by its class and plain attributes.

    Example:
        >>> from reidlab.data import BatchAugmentation
        >>> describe(None), describe(describe), describe(nn.ReLU())
        (None, 'describe', 'ReLU(inplace=False)')
    """
    if own is None:
        return None
    if name := getattr(own, "__qualname__", None):
        return str(name)
    if isinstance(own, functools.partial):
        bound = [*map(repr, own.args), *(f"{name}={value!r}" for name, value in own.keywords.items())]
        return f"partial({', '.join([str(describe(own.func)), *bound])})"
    plain = (bool, int, float, str, tuple, list, type(None))
    values = own.arguments if isinstance(own, ReIDModel) else vars(own)
    shown = [
        f"{name}={value!r}" for name, value in values.items() if isinstance(value, plain) and not name.startswith("_")
    ]
    hidden = ("training=True", "training=False") if isinstance(own, nn.Module) else ()
    return f"{type(own).__qualname__}({', '.join(text for text in shown if text not in hidden)})"


def check_outputs(outputs: Any, images: int) -> None:
    """Refuse outputs of a model that cannot be put together from parts of a batch.

    Raises:
        ValueError: not tensors by name with one row per image, or no `features` (B, D).
    """
    rows = isinstance(outputs, dict) and all(
        isinstance(value, Tensor) and value.ndim and len(value) == images and value.is_floating_point()
        for value in outputs.values()
    )
    if not rows or "features" not in outputs or outputs["features"].ndim != 2:
        raise ValueError(
            "forward: expected tensors of floating-point numbers by name, with one row for each image, among them "
            "'features' (B, D); keep everything else out of the outputs"
        )


def check_terms(terms: Any) -> dict[str, Tensor]:
    """Return the terms of a loss by name.

    Raises:
        ValueError: not a scalar tensor or several by name, a reserved name, or nothing that has a gradient.
    """
    terms = {"loss": terms} if isinstance(terms, Tensor) else terms
    if not isinstance(terms, dict) or not terms or any(not isinstance(t, Tensor) or t.ndim for t in terms.values()):
        raise ValueError("loss: expected a tensor of one number, or a dictionary of such tensors; take the mean")
    if taken := [name for name in terms if name in RESERVED]:
        raise ValueError(f"loss: {taken[0]!r} is the name of a column of the history; give the term another name")
    if not any(term.requires_grad for term in terms.values()):
        raise ValueError("loss: none of its terms depends on the outputs of the model, so there is nothing to learn")
    return terms


def check_rebuild(model: ReIDModel, save: Callable[[Any], Any]) -> None:
    """Refuse a model that its checkpoint could not make again, before it is trained.

    Args:
        model: with a `name`; others are given to `load_checkpoint` and need no arguments.
        save: writes arguments as a checkpoint does, and reads them again.

    Raises:
        ValueError: the message says what to change.
    """
    if not vars(type(model)).get("name"):
        return
    try:
        again = without_memory(lambda: type(model)(**save(model.arguments))).state_dict()
        same = {name: value.shape for name, value in again.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        reason = "" if same else "a model made again with its arguments has other weights"
    except Exception as error:  # whatever a constructor or pickle raises
        reason = type(error).__name__ if isinstance(error, UnpicklingError) else " ".join(str(error).split())[:120]
    if reason:
        raise ValueError(
            f"{type(model).__name__} could not be made again from its checkpoint ({reason}); let its constructor take "
            "plain values by name, or leave `name` out and give the model to load_checkpoint"
        )
