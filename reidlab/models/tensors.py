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
    found = content
    for _ in range(3):  # a wrapper in a wrapper
        if not isinstance(found, Mapping) or _tensors(found):
            break
        inside = {key: found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)}
        if len(inside) > 1:
            raise DataError(f"{where}: holds weights under {', '.join(inside)}; pass the one that is meant")
        if not inside:
            break
        (found,) = inside.values()
    tensors = _tensors(found) if isinstance(found, Mapping) else {}
    if not tensors:
        first = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else ""
        keys = f"a dict with the keys {first or '(none)'}" if isinstance(found, Mapping) else ""
        raise DataError(
            f"{where}: got {keys or type(content).__name__}, expected tensors by name, by themselves or under "
            f"{', '.join(WRAPPERS)}"
        )
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
    if wrong:
        got, expected = (tuple(tensors[wrong[0]].shape) for tensors in (state, own))
        parts += f"; {wrong[0]!r}: got {got}, expected {expected}"
    if kinds:
        got, expected = (tensors[kinds[0]].dtype for tensors in (state, own))
        parts += f"; {len(kinds)} of another type, first {kinds[0]!r}: got {got}, expected {expected}"
    return parts


def refuse_lost(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        DataError: the message names the first ones.
    """
    bad = sorted(name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all())
    if bad:
        raise DataError(f"{where}: NaN or infinity in {bad[:3]}; copy the file again")


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _plain_name(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
    return name.replace("._orig_mod.", ".")
