"""Checkpoints: a model and what it was trained on, tensors and plain values only."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

from reidlab import __version__
from reidlab.data.records import Splits
from reidlab.errors import DataError
from reidlab.files import atomic_path
from reidlab.models import MODELS, Model, ReIDModel
from reidlab.models.base import without_memory
from reidlab.models.tensors import read_torch_file, refuse_lost, state_differences
from reidlab.training.config import TrainConfig

FORMAT, NUMBER = "reidlab checkpoint", 1


@dataclass(frozen=True)
class TrainResult:
    """A trained model and how it got there.

    Args:
        model: in evaluation mode.
        config: what it was trained with.
        history: one row every `log_every` iterations: iteration, learning_rate, the mean of each loss term, and
            with a triplet loss what `CollapseMonitor` measures in the row's last batch.
        seconds: wall time of the loop, interrupted pieces added up.
        epochs: passes over the identities.
        evaluations: rows of `ValidationMonitor`, on identities of the training set.
    """

    model: Model
    config: TrainConfig
    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    epochs: float
    evaluations: list[dict[str, Any]] = field(default_factory=list, repr=False)


def save_checkpoint(path: str | os.PathLike[str], result: TrainResult, data: Splits) -> Path:
    """Write the model with what it was trained on, atomically; tensors and plain values only.

    Taught in: notebooks/00_start_here.ipynb
    """
    return write_checkpoint(path, checkpoint_of(result.model, result.config, data))


def checkpoint_of(model: ReIDModel, config: TrainConfig, data: Splits) -> dict[str, Any]:
    """Collect a model and what has to be known to use it.

    Returns:
        `format`; `version` of the package and `versions` of others; `kind`, the name of the model's class, empty if it
        has none, and `model`, the arguments it was made with; `input`, what it expects of images; `config`; `data`,
        which the scores depend on; `state_dict`, contiguous, on the CPU.
    """
    kind = vars(type(model)).get("name", "")
    size = {"height": model.height, "width": model.width, "channels": "RGB"}
    return {
        "format": f"{FORMAT} {NUMBER}",
        "version": __version__,
        "versions": {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
        "kind": kind,
        "model": model.arguments if kind else {},
        "input": {**size, "resize": "bilinear, antialiased", "mean": list(model.mean), "std": list(model.std)}
        | {"flip": model.flip},
        "config": dataclasses.asdict(config),
        "data": {"dataset": data.name, "box": data.box, "protocol": data.protocol},
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
    }


def write_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> Path:
    """Write tensors and plain values, atomically.

    Raises:
        OSError: the disk is full, or the folder cannot be written; a file that was there stays as it was.
    """
    buffer = io.BytesIO()  # torch reports a full disk as an internal error; writing bytes says what it is
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return Path(path)


def load_checkpoint(path: str | os.PathLike[str], model: ReIDModel | None = None) -> tuple[ReIDModel, dict[str, Any]]:
    """Read a checkpoint of `save_checkpoint`, or last.pt or best.pt of a run.

    Args:
        path: the file.
        model: takes the weights; None makes the model that the file names. A model of `wrap`, or of a class without a
            `name`, has to be given.

    Returns:
        The model in evaluation mode, and everything else that the file says.

    Raises:
        FileNotFoundError: no such file.
        DataError: damaged, not a checkpoint of this package, or the weights of another model.
    """
    content = read_checkpoint(path)
    try:
        kind = content.setdefault("kind", content["config"].get("model", "baseline"))  # older files have it there
        if model is None and kind not in MODELS:
            named = f"a model called {kind!r}" if kind else "a model of a class without a name"
            raise DataError(
                f"{path}: holds {named}, expected one of {', '.join(MODELS)}; import the module of your own class, or "
                "give the model to load_checkpoint"
            )
        arguments = {name: value for name, value in content["model"].items() if name != "weights"}
        state = content.pop("state_dict")
        # shapes alone: no memory for a network that the file names and does not hold
        shapes = (without_memory(lambda: MODELS[kind](**arguments)) if model is None else model).state_dict()
        if differences := state_differences(state, shapes):
            expected = "model it names" if model is None else "model given"
            raise DataError(f"{path}: not the weights of the {expected}: {differences}; train again")
        given = model is not None
        model = model if given else MODELS[kind](**arguments)
        model.load_state_dict(state)
        wanted = {n: v for n, v in content["input"].items() if n in ("height", "width", "mean", "std", "flip")}
        for name, value in wanted.items():
            value = tuple(value) if isinstance(value, list) else value
            own = getattr(model, name)
            if given and value != (tuple(own) if isinstance(own, (list, tuple)) else own):
                raise DataError(
                    f"{path}: was trained with {name}={value}, the model given has {name}={own}; make it alike"
                )
            setattr(model, name, value)
        missing = {"config", "data"} - content.keys()
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = {" ".join(str(error).split())[:200]}
    if missing:
        raise DataError(
            f"{path}: a checkpoint with parts missing or changed ({', '.join(sorted(missing))}); train again"
        )
    content.pop("progress", None)
    return model.to(memory_format=torch.channels_last).eval(), content


def as_saved(value: Any) -> Any:
    """Return a value as a checkpoint brings it back.

    Raises:
        Exception: whatever pickle raises at a value that is not plain.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, executing nothing that the file may carry.

    Raises:
        FileNotFoundError: no such file.
        DataError: damaged, not a checkpoint of this package, or one of a later version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    content = read_torch_file(path)
    mark = content.get("format") if isinstance(content, dict) else None
    name, _, number = str(mark).rpartition(" ")
    if name == FORMAT and number.isdecimal() and int(number) > NUMBER:
        raise DataError(f"{path}: written by a newer reidlab ({mark}, this one reads {NUMBER}); update reidlab")
    if mark != f"{FORMAT} {NUMBER}":
        raise DataError(f"{path}: not a checkpoint of reidlab train; it lacks the mark '{FORMAT} {NUMBER}'")
    state = content.get("state_dict")
    if not zipfile.is_zipfile(path) or not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise DataError(f"{path}: a checkpoint with parts missing or changed (state_dict, checksums); train again")
    refuse_lost(state, str(path))
    return content
