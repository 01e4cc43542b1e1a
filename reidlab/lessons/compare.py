"""Comparing an answer with the expected one, and saying in one line how they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Tell whether `value` is one real number: int, float, or a numpy scalar or tensor of one element; not a bool.

    Example:
        >>> is_number(3), is_number(np.float32(0.5)), is_number(True), is_number("3"), is_number(np.zeros((1, 1)))
        (True, True, False, False, True)
    """
    if isinstance(value, (str, bytes, list, tuple, Set, Mapping)):
        return False
    array = as_numbers(value)
    return array is not None and array.size == 1 and array.dtype.kind != "b"


def as_numbers(value: Any) -> np.ndarray | None:
    """Return `value` as an array of numbers or bools, or None where it is not one.

    Lists, tuples, numpy arrays, torch tensors (any device, with or without gradient), ragged lists -> None.

    Example:
        >>> as_numbers([1, 2.5]), as_numbers("text"), as_numbers([[1], [2, 3]])
        (array([1. , 2.5]), None, None)
    """
    if isinstance(value, (str, bytes, Set, Mapping)) or value is None or value is ...:
        return None
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
        array = np.asarray(value)
    except Exception:  # any object may come in here; what cannot be an array is simply not one
        return None
    return array if array.dtype.kind in "biuf" else None


def show(value: Any) -> str:
    """Write a value shortly: three significant digits, arrays by their shape, everything else by its repr.

    Example:
        >>> show(0.61999), show(1400), show(2e-7), show(np.zeros((2, 3))), show("b"), show([1, 2])
        ('0.62', '1,400', '2e-07', 'an array of shape (2, 3)', "'b'", '[1, 2]')
    """
    if is_number(value):
        number = as_numbers(value).reshape(()).item()
        if isinstance(number, int):
            return f"{number:,}"
        if math.isfinite(number) and 1000 <= abs(number) < 1e7:
            return f"{number:,.0f}"
        return f"{number:.3g}"
    if hasattr(value, "shape") and getattr(value, "shape", ()) != ():
        kind = "a tensor" if hasattr(value, "detach") else "an array"
        return f"{kind} of shape {tuple(value.shape)}"
    if callable(value):
        return f"the function {getattr(value, '__name__', '?')}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def difference(answer: Any, expected: Any, tolerance: float | None) -> str | None:
    """Say how `answer` differs from `expected`, or return None where it does not.

    Numbers and arrays are equal when no element differs by more than `tolerance` times the largest
    expected magnitude (`tolerance` itself where all expected values are 0); None is 1e-4, and whole numbers are to be
    met exactly. NaN equals NaN, infinities equal themselves. Text is compared without regard to case and outer spaces;
    anything else with `==`.

    Example:
        >>> difference(0.5, 0.75, tolerance=1e-4)
        'got 0.5, which is 0.25 away from the right value'
        >>> difference([[1.0, 2.0]], [1.0, 2.0], tolerance=1e-4)
        'got shape (1, 2), expected shape (2,)'
        >>> difference(" Labeled", "labeled", tolerance=0) is None
        True
    """
    if isinstance(expected, str):
        same = isinstance(answer, str) and answer.strip().casefold() == expected.strip().casefold()
        kind = "" if isinstance(answer, str) else ", expected a text in quotes"
        return None if same else f"got {show(answer)}{kind}"
    if isinstance(expected, Set) and isinstance(answer, (Set, list, tuple)):
        try:
            return _set_difference(set(answer), set(expected))
        except TypeError:  # an answer with lists in it
            return f"got {show(answer)}"
    if isinstance(expected, Mapping) and isinstance(answer, Mapping):
        keys = _set_difference(set(answer), set(expected))
        if keys:
            return f"keys: {keys}"
        return _first_difference(((f"at {show(key)}", answer[key], expected[key]) for key in expected), tolerance)
    numbers = as_numbers(expected)
    if numbers is not None:
        return _number_difference(answer, numbers, tolerance)
    if isinstance(expected, (list, tuple)) and isinstance(answer, (list, tuple)):
        if len(answer) != len(expected):
            return f"got {len(answer)} items, expected {len(expected)}"
        items = enumerate(zip(answer, expected, strict=True))
        return _first_difference(((f"item {index}", *pair) for index, pair in items), tolerance)
    return None if answer is expected or answer == expected else f"got {show(answer)}"


def _number_difference(answer: Any, expected: np.ndarray, tolerance: float | None) -> str | None:
    got = as_numbers(answer)
    if got is None or got.size == 0 != expected.size:
        return f"got {show(answer)}, expected {_describe(expected)}"
    if got.size == 1 == expected.size and (got.ndim == 0 or expected.ndim == 0):
        got, expected = got.reshape(()), expected.reshape(())
    if got.shape != expected.shape:
        return f"got shape {got.shape}, expected shape {expected.shape}"
    if (got.dtype.kind == "b") != (expected.dtype.kind == "b"):
        return f"got {show(answer)}, expected {_describe(expected)}"
    if got.dtype.kind == "b":
        wrong = got != expected
        count = f"{int(wrong.sum())} of {wrong.size} values differ" if wrong.ndim else "got " + show(answer)
        return count if wrong.any() else None
    with np.errstate(invalid="ignore"):
        away = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    away = np.where((got == expected) | (np.isnan(got) & np.isnan(expected)), 0.0, away)
    if tolerance is None and expected.dtype.kind != "f":
        allowed = 1e-3  # no other whole number is that near, and 2.9999999 from a float computation is 3
    else:
        finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
        largest = finite.max() if finite.size and finite.max() > 0 else 1.0
        allowed = (1e-4 if tolerance is None else tolerance) * largest
    wrong = ~(away <= allowed)  # written so that NaN counts as wrong
    if not wrong.any():
        return None
    if np.isnan(got[wrong]).any():
        return f"{int(np.isnan(got[wrong]).sum())} of {got.size} values are not a number (nan)"
    if got.ndim == 0:
        return f"got {show(got)}, which is {show(away)} away from the right value"
    at = np.unravel_index(int(np.argmax(away)), away.shape)
    where = ", ".join(str(int(i)) for i in at)
    return (
        f"{int(wrong.sum())} of {got.size} values differ, the largest difference is {show(float(away[at]))} "
        f"at [{where}]: got {show(got[at])}"
    )


def _describe(expected: np.ndarray) -> str:
    kind = {"b": "True or False", "f": "a number"}.get(expected.dtype.kind, "a whole number")
    return kind if expected.ndim == 0 else f"an array of shape {expected.shape} ({kind} each)"


def _set_difference(answer: set, expected: set) -> str | None:
    missing, extra = len(expected - answer), sorted(map(show, answer - expected))
    parts = [f"{missing} missing"] if missing else []
    parts += [f"{', '.join(extra[:5])} should not be there"] if extra else []
    return " and ".join(parts) or None


def _first_difference(pairs: Iterable[tuple[str, Any, Any]], tolerance: float | None) -> str | None:
    for where, mine, right in pairs:
        found = difference(mine, right, tolerance)
        if found:
            return f"{where}: {found}"
    return None
