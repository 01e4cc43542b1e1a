"""Weights in a file that can be shipped: half precision, no classifier, and how they were made."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from reidlab.errors import DataError
from reidlab.files import atomic_path, parse_json
from reidlab.models.baseline import Baseline
from reidlab.models.tensors import BATCH_COUNTER, refuse_lost, state_differences

WEIGHTS_FORMAT = "reidlab weights 1"
WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "walkers_small.safetensors"
"""The weights that `Baseline.pretrained` reads."""


def save_weights(model: Baseline, path: str | os.PathLike[str], recipe: dict[str, Any]) -> Path:
    """Write what a model needs to embed images, as float16 safetensors, atomically.

    Left out are the classifier, which is of use only with the people of the training, and batch norm's
    batch counters. The same weights and the same recipe give the same bytes.

    Args:
        model: what to write.
        path: the file.
        recipe: how the weights were made: settings, data, scores; anything that JSON can hold.

    Returns:
        The path.

    Raises:
        ValueError: another network than `Baseline`, a weight that is NaN or too large for float16, or a recipe that
            JSON cannot hold.

    Example:
        >>> import tempfile
        >>> file = save_weights(Baseline(5), Path(tempfile.mkdtemp()) / "a.safetensors", {"iterations": 0})
        >>> load_weights(file, num_classes=2).classifier.weight.shape
        torch.Size([2, 256])
    """
    if type(model) is not Baseline:
        raise ValueError(f"{path}: not written: got a {type(model).__name__}; only Baseline has files of this kind")
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in _shipped(model).items()}
    bad = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if bad:
        raise ValueError(f"{path}: not written: NaN or numbers too large for float16 in {bad[:3]}; train again")
    try:
        texts = [json.dumps(content, allow_nan=False) for content in (model.arguments, recipe)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe: expected what JSON can hold, got something else ({error})") from None
    content = save(tensors, {"format": WEIGHTS_FORMAT, "model": texts[0], "recipe": texts[1]})
    with atomic_path(path) as temporary:
        temporary.write_bytes(_with_digest(content))
    return Path(path)


def load_weights(path: str | os.PathLike[str] = WEIGHTS, num_classes: int = 1) -> Baseline:
    """Read a file of `save_weights` into a new model in evaluation mode, all of it or nothing.

    Args:
        path: the file; the one that comes with the package if not given.
        num_classes: outputs of the classifier, which is new, from torch's global generator.

    Returns:
        A `Baseline` with float32 weights. Its `arguments` are those of the file, except for `num_classes`; its
        `recipe` says how the weights were made.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another number of classes.
        DataError: damaged, not a file of `save_weights`, or with tensors that do not fit the model it names.

    Example:
        >>> import tempfile
        >>> model = Baseline(num_classes=5, flip=True).eval()
        >>> again = load_weights(save_weights(model, Path(tempfile.mkdtemp()) / "a.safetensors", recipe={}))
        >>> image = torch.rand(1, 3, 128, 64)
        >>> torch.allclose(again.embed(image), model.embed(image), atol=0.01), again.flip
        (True, True)
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r}: expected a whole number from 1 on")
    path = Path(path)
    if not path.is_file():
        lacking = "this copy of reidlab was made without weights; install it again, or make them with make weights"
        what = lacking if path == WEIGHTS else "pass the path of a file that save_weights wrote"
        raise FileNotFoundError(f"{path}: no such weights file; {what}")
    marks, state = _read(path)
    if marks.get("format") != WEIGHTS_FORMAT:
        got = marks.get("format", "no mark")
        raise DataError(f"{path}: got {got!r}, expected a file marked {WEIGHTS_FORMAT!r}, as save_weights writes it")
    try:
        arguments = parse_json(marks["model"], "model")
        if unknown := sorted(arguments.keys() - (inspect.signature(Baseline).parameters.keys() - {"weights"})):
            raise ValueError(f"unknown argument {unknown[0]}")
        model = Baseline(**arguments | {"num_classes": num_classes})
        model.recipe = dict(parse_json(marks["recipe"], "recipe"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: names no model that this version of reidlab has ({' '.join(str(error).split())[:200]}); "
            "update reidlab, or write the file again"
        ) from None
    differences = state_differences(state, _shipped(model))
    if differences:
        raise DataError(f"{path}: not the weights of the model it names: {differences}; copy the file again")
    refuse_lost(state, str(path))
    model.load_state_dict({**model.state_dict(), **{name: tensor.float() for name, tensor in state.items()}})
    return model.to(memory_format=torch.channels_last).eval()


def _with_digest(content: bytes) -> bytes:
    """Sort the marks in the head of a safetensors file, and add the digest of all the rest to them."""
    head, tensors = _parts(content)
    head["__metadata__"] = dict(sorted(head["__metadata__"].items())) | {"sha256": _digest(head, tensors)}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + tensors


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return parse_json(content[8:end], "the head"), content[end:]


def _digest(head: dict[str, Any], tensors: bytes) -> str:
    """SHA-256 of the head without its digest, whatever its order, and of the tensors."""
    marks = {name: text for name, text in head["__metadata__"].items() if name != "sha256"}
    return hashlib.sha256(json.dumps(head | {"__metadata__": marks}, sort_keys=True).encode() + tensors).hexdigest()


def _shipped(model: Baseline) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("classifier.") and not name.endswith(BATCH_COUNTER)
    }


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            marks, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if marks.get("format") == WEIGHTS_FORMAT and marks.get("sha256") != _digest(*_parts(path.read_bytes())):
            raise DataError(f"{path}: damaged: its digest is wrong or missing; copy the file again, or write it again")
    except (SafetensorError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged, or not a safetensors file ({error}); copy it again") from None
    return marks, state
