"""What functions accept: choices, number ranges, images; labels and features from Python, numpy and torch alike."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to load, and choices are checked without it
    from torch import Tensor


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ValueError: another value; the message lists the choices.

    Example:
        >>> check_choice("box", "drawn", ("labeled", "detected"))
        Traceback (most recent call last):
        ValueError: box='drawn': expected one of labeled, detected
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(str, choices))}")


def check_whole(minimum: int, /, **numbers: Any) -> None:
    """Refuse anything but whole numbers, of Python or numpy, of at least `minimum`.

    Raises:
        ValueError: the first other one, by its name.

    Example:
        >>> check_whole(1, channels=8, num_parts=0)
        Traceback (most recent call last):
        ValueError: num_parts=0: expected a whole number of at least 1
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least {minimum}")


def check_between(low: float, high: float, /, **numbers: Any) -> None:
    """Refuse anything but numbers from `low` to `high`, both included.

    Raises:
        ValueError: the first other one, by its name; not-a-number is one.

    Example:
        >>> check_between(0, 1, flip=0.5, erasing=1.5)
        Traceback (most recent call last):
        ValueError: erasing=1.5: expected a number from 0 to 1
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
            raise ValueError(f"{name}={value!r}: expected a number from {low:g} to {high:g}")


def check_switch(**values: Any) -> None:
    """Refuse anything but True and False.

    Raises:
        ValueError: the first other value, by its name.

    Example:
        >>> check_switch(flip=True)
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r}: expected True or False")


def name_and_value(text: str) -> tuple[str, str]:
    """Split NAME=VALUE, as command lines have it.

    Raises:
        ValueError: no "=", or nothing before it.

    Example:
        >>> name_and_value("weights=a=b.pth")
        ('weights', 'a=b.pth')
    """
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ValueError(f"{text!r}: expected NAME=VALUE")
    return name, value


def image_problem(image: Any) -> str | None:
    """Say why something is no uint8 array (H, W, 3), or None if it is one.

    Example:
        >>> image_problem(np.zeros((4, 2), np.uint8))
        'got uint8 (4, 2), expected a uint8 array (H, W, 3) in RGB order'
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return None
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    return f"got {got}, expected a uint8 array (H, W, 3) in RGB order"


def whole_numbers(name: str, values: Any) -> np.ndarray:
    """Return labels as int64, whatever whole numbers they are.

    Args:
        name: the argument, for messages.
        values: a tensor, an array of any integer type and byte order, floats that are whole, or Python numbers.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: texts, booleans, fractions, NaN, infinity, complex numbers, or numbers beyond int64.

    Example:
        >>> whole_numbers("pids", [3.0, 7.0])
        array([3, 7])
        >>> whole_numbers("pids", ["0003", "0007"])
        Traceback (most recent call last):
        ValueError: pids: got texts such as '0003', expected whole numbers; number the identities or cameras first
    """
    import torch

    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name}: got a masked array, expected whole numbers; leave the masked ones out first")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16 and bool((values.abs() >= 2**8).any()):
            raise ValueError(
                f"{name}: got bfloat16 numbers from 256 on, which are not exact; keep labels as whole numbers"
            )
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":  # integers of other libraries, or Python's own beyond int64
            array = np.array([operator.index(value) for value in array.ravel()], dtype=object).reshape(array.shape)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {_shown(values)}, expected whole numbers in one row") from None
    kind = array.dtype.kind
    if kind in "US":
        first = next(iter(array.ravel().tolist()), "")
        raise ValueError(
            f"{name}: got texts such as {first!r}, expected whole numbers; number the identities or cameras first"
        )
    if kind not in "iufO":
        raise ValueError(f"{name}: got {array.dtype} values, expected whole numbers")
    with np.errstate(invalid="ignore"):
        bad = (array != np.round(array)) | ~np.isfinite(array) if kind == "f" else np.zeros(array.shape, bool)
    most = 2 / np.finfo(array.dtype).eps if kind == "f" else np.iinfo(np.int64).max  # where numbers are still exact
    bad |= np.asarray(abs(array) >= most if kind == "f" else (array > most) | (array < -most), dtype=bool)
    if bad.any():
        raise ValueError(
            f"{name}: got {array[bad].ravel()[0]}, expected whole numbers that {array.dtype} holds exactly"
        )
    return array.astype(np.int64)


def pid_tensor(pids: Any, features: Tensor | None = None) -> Tensor:
    """Return the identities (B,) of a batch, on the device of its features (B, D) if there are any.

    Raises:
        ValueError: what `whole_numbers` refuses, or another number of identities than of features.

    Example:
        >>> import torch
        >>> pid_tensor(np.array([4, 4, 9], dtype=">i2"), torch.zeros(3, 2))
        tensor([4, 4, 9])
    """
    import torch

    whole = isinstance(pids, torch.Tensor) and not pids.is_floating_point() and not pids.is_complex()
    if not whole or pids.dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64):
        pids = torch.from_numpy(whole_numbers("pids", pids))
    if features is None:
        return pids
    if pids.shape != features.shape[:1]:
        raise ValueError(f"got {tuple(pids.shape)} pids for features {tuple(features.shape)}, expected one pid a row")
    return pids.to(features.device)


def float_tensor(name: str, values: Any) -> Tensor:
    """Return numbers as a tensor of floating-point numbers; tensors keep their device and their graph.

    Args:
        name: the argument, for messages.
        values: a tensor, or an array of floats or integers, of any shape, byte order and strides.

    Raises:
        ValueError: texts, objects, booleans or complex numbers.

    Example:
        >>> float_tensor("distmat", np.ones((1, 2), dtype=">f8"))
        tensor([[1., 1.]], dtype=torch.float64)
    """
    import torch

    if not isinstance(values, torch.Tensor):
        try:
            array = np.asarray(values)
        except ValueError:
            raise ValueError(f"{name}: got {_shown(values)}, expected rows of equal length") from None
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name}: got {array.dtype} values, expected floating-point numbers")
        keep = array.dtype.kind == "f" and array.dtype.itemsize <= 8
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=") if keep else np.float64))
    if values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name}: got {values.dtype} values, expected floating-point numbers")
    if values.is_floating_point():
        return values
    return values.float() if values.device.type == "mps" else values.double()  # Apple's GPUs have no float64


def feature_tensor(name: str, features: Any) -> Tensor:
    """Return features (N, D) as `float_tensor` does.

    Raises:
        ValueError: what `float_tensor` refuses, or another number of dimensions.

    Example:
        >>> feature_tensor("features", np.ones(3))
        Traceback (most recent call last):
        ValueError: features: got shape (3,), expected (N, D) with D > 0, one row an image
    """
    features = float_tensor(name, features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: got shape {tuple(features.shape)}, expected (N, D) with D > 0, one row an image")
    return features


def _shown(values: Any) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 60 else f"{type(values).__name__} {text[:50]}…"
