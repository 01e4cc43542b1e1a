"""Checkpoints: a model and what it was trained on, tensors and plain values only."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import torch

from reidlab import __version__
from reidlab.data.records import Splits
from reidlab.errors import DataError
from reidlab.files import atomic_path
from reidlab.models import MODELS, Model
from reidlab.training.loop import TrainResult


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


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
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
        model = MODELS[content["config"].get("model", "baseline")](**content["model"])
        model.load_state_dict(content.pop("state_dict"))
        missing = {"config", "data"} - content.keys()
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        missing = {" ".join(str(error).split())[:200]}
    if missing:
        raise DataError(
            f"{path}: a checkpoint with parts missing or changed ({', '.join(sorted(missing))}); train again"
        )
    return model.to(memory_format=torch.channels_last).eval(), content
