"""Files of tensors, from this package and from elsewhere: whole, checked, and by plain names."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reidlab.errors import DataError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
"""Names under which training programs keep the weights beside other things."""
BATCH_COUNTER = "num_batches_tracked"
"""How the names of batch norm's counters end; they change nothing in a network that is evaluated."""
PREFIXES = ("module.", "_orig_mod.")
"""What torch's DataParallel and torch.compile put before names."""


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read a file of `torch.save`, executing nothing that it may carry; its checksums must be right.

    torch itself reads a damaged archive without a word. Files from before torch 1.6 have no checksums.

    Raises:
        FileNotFoundError: no such file.
        DataError: damaged, compressed, or no file of tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise DataError(f"{path}: a compressed archive, which torch.save does not write; unpack it first")
                broken = archive.testzip()
            if broken:
                raise DataError(f"{path}: damaged: the checksum of {broken} is wrong; copy the file again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # torch and zipfile raise a dozen types here, from EOFError to UnpicklingError
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        text = text if " " in text else f"{type(error).__name__} {text}"
        reason = "Python objects, or no such file" if "weights_only" in text else text
        raise DataError(
            f"{path}: cannot be read as a file of tensors ({reason}); copy it again. If it is a pickle of a whole "
            "model, save model.state_dict() on the machine that made it"
        ) from None


def plain_state(content: Any, where: str) -> dict[str, Tensor]:
    """Find the weights in what a file or a program holds, by the names that their network gave them.

    They may lie in a dict of other things ("state_dict", "model" …), with numbers and texts beside them, and their
    names may begin with what DataParallel and torch.compile add, in any order.

    Args:
        content: what was read.
        where: what to call it in messages.

    Raises:
        DataError: no tensors by name, two sets of weights, or two tensors of one name.

    Example:
        >>> plain_state({"epoch": 9, "model": {"module._orig_mod.a": torch.zeros(2)}}, "w.pth")
        {'a': tensor([0., 0.])}
    """
    tensors = _weights(content, where) if isinstance(content, Mapping) else {}
    if not tensors:
        got = type(content).__name__
        if isinstance(content, Mapping):
            got = f"a dict with the keys {', '.join(map(str, list(content)[:5])) or '(none)'}"
        raise DataError(f"{where}: got {got}, expected tensors by name, by themselves or under {', '.join(WRAPPERS)}")
    state = {_plain_name(name): tensor for name, tensor in tensors.items()}
    if len(state) < len(tensors):
        raise DataError(f"{where}: some tensors are there twice, with and without {' or '.join(PREFIXES)}; keep one")
    return state


def state_differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say which tensors of a file do not fit a network; an empty text if all do.

    Args:
        state: tensors of the file by name.
        own: tensors of the network; batch norm's batch counters may be lacking in `state`.

    Example:
        >>> state_differences({"a": torch.zeros(2), "b": torch.zeros(1)}, {"a": torch.zeros(3), "c": torch.zeros(1)})
        "1 tensors missing, 1 unknown, 1 of another shape, first ['c', 'b', 'a']; 'a': got (2,), expected (3,)"
    """
    needed = {name for name in own if not name.endswith(BATCH_COUNTER)}
    missing, unknown = sorted(needed - state.keys()), sorted(state.keys() - own.keys())
    both = sorted(own.keys() & state.keys())
    wrong = [name for name in both if state[name].shape != own[name].shape]
    kinds = [name for name in both if state[name].is_floating_point() != own[name].is_floating_point()]
    if not (missing or unknown or wrong or kinds):
        return ""
    parts = f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(wrong)} of another shape"
    parts += f", first {(missing + unknown + wrong)[:3]}" if missing or unknown or wrong else ""
    if len(missing) >= 3 and unknown:
        parts += f", in the file {unknown[:3]}"
    if wrong:
        got, expected = (tuple(tensors[wrong[0]].shape) for tensors in (state, own))
        parts += f"; {wrong[0]!r}: got {got}, expected {expected}"
    if kinds:
        got, expected = (tensors[kinds[0]].dtype for tensors in (state, own))
        parts += f"; {len(kinds)} of another type, first {kinds[0]!r}: got {got}, expected {expected}"
    return parts


def refuse_lost(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are NaN or infinite, or would be as the float32 of a network, and tensors without numbers.

    Raises:
        DataError: the message names the first ones.
    """
    if odd := sorted(name for name, tensor in state.items() if not _is_dense(tensor)):
        raise DataError(f"{where}: got sparse, quantized, repeated or no numbers in {odd[:3]}, expected plain tensors")
    floats = {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}
    if bad := sorted(name for name, tensor in floats.items() if not tensor.isfinite().all()):
        raise DataError(f"{where}: NaN or infinity in {bad[:3]}; copy the file again")


def _is_dense(tensor: Tensor) -> bool:
    """Whether each number of a tensor has a place of its own: a small file can speak of an endless tensor."""
    plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
    return plain and tensor.untyped_storage().nbytes() >= tensor.nbytes


def _weights(content: Mapping[Any, Any], where: str, depth: int = 3) -> dict[str, Tensor]:
    """The tensors of a dict, or of the one wrapper in it that holds any."""
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    wrappers = {key: content[key] for key in WRAPPERS if depth and isinstance(content.get(key), Mapping)}
    inside = {key: found for key in wrappers if (found := _weights(wrappers[key], where, depth - 1))}
    beside = [name for name, tensor in own.items() if tensor.ndim]  # scalars are counters and scores
    if len(inside) > 1 or (inside and beside):
        raise DataError(f"{where}: holds weights under {', '.join([*inside, *beside][:5])}; pass the one that is meant")
    return next(iter(inside.values()), own)


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if f"{part}." not in PREFIXES)
