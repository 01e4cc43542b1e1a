"""Variables of a MATLAB 5 file, read without trust: libraries that read every class end in a crash on damaged bytes."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reidlab.errors import DataError

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _CHAR, _NUMERIC = 1, 4, range(6, 16)  # classes of arrays; numeric ones are double, single, int8 to uint64
_CLASSES = {2: "a struct", 3: "an object", 5: "a sparse array", 16: "a function", 17: "an object"}
_COMPLEX = 0x800
_MAX_BYTES = 1 << 26  # unpacked; the published files hold 1.6 million bytes


class _Part(NamedTuple):
    """A stretch of elements: bytes, byte order, and how deep inside cell arrays they are."""

    content: memoryview
    order: str
    depth: int = 0


def read_mat5(path: str | os.PathLike[str], names: Collection[str]) -> dict[str, Any]:
    """Read numbers, text and cell arrays of text from a MATLAB 5 file.

    Every size is held against what is there before it is used, in Python alone, so damaged or hostile bytes
    end in an error rather than in a crash, and a small file cannot unpack into a large one.

    Args:
        path: the file; `describe_problem` has found it to be of version 5.
        names: the variables wanted; others are skipped.

    Returns:
        By name: a vector (N,) for numbers, a string for a row of text, a list of the two for a cell array.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is damaged, larger than 64 MiB, or a wanted variable is a matrix, complex, or of another class.

    Example:
        >>> import io, tempfile
        >>> from scipy.io import savemat
        >>> path = Path(tempfile.mkdtemp()) / "a.mat"
        >>> savemat(path, {"labels": [1, 2], "note": "unread"})
        >>> read_mat5(path, ["labels"])
        {'labels': array([1, 2])}

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    path = Path(path)
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: is larger than {_MAX_BYTES:,} bytes, expected some 76,000; is it another file?")
    content = path.read_bytes()
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:128])
    try:
        if order is None:
            raise ValueError(f"bytes 125 to 128 are {content[124:128].hex(' ')}, expected 00 01 49 4d")
        found = _variables(_Part(memoryview(content)[128:], order), names)
    except (ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged inside ({error}); copy or download it again") from None
    return found


def _variables(part: _Part, names: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    place, budget = 0, _MAX_BYTES
    while place < len(part.content):
        kind, data, place = _element(part, place, padded=False)
        if kind == _COMPRESSED:
            unpacked = _inflate(data, budget)
            budget -= len(unpacked)
            kind, data, end = _element(part._replace(content=unpacked), 0)
            if end != len(unpacked):
                raise ValueError("bytes are left over behind a compressed variable")
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable is expected")
        name, value = _matrix(part._replace(content=data), names)
        if name in found:
            raise ValueError(f"the variable {name!r} comes twice")
        if name in names:
            found[name] = value
    return found


def _inflate(data: memoryview, budget: int) -> memoryview:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, budget)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"a compressed variable is cut short, or holds more than {_MAX_BYTES:,} bytes")
    return memoryview(content)


def _element(part: _Part, place: int, padded: bool = True) -> tuple[int, memoryview, int]:
    """Return an element's type and data, and where the next one begins."""
    content, order = part.content, part.order
    if place + 8 > len(content):
        raise ValueError("an element's tag is cut short")
    kind, size = struct.unpack_from(order + "II", content, place)
    if kind >> 16:  # type and size in four bytes, the data in the other four
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"a small element of {size} bytes, expected 4 at most")
        return kind, content[place + 4 : place + 4 + size], place + 8
    start, end = place + 8, place + 8 + size
    if end > len(content):
        raise ValueError(f"an element of {size:,} bytes where {len(content) - start:,} are left")
    return kind, content[start:end], end + (-size % 8 if padded else 0)


def _expect(part: _Part, place: int, kind: int, what: str) -> tuple[memoryview, int]:
    got, data, after = _element(part, place)
    if got != kind:
        raise ValueError(f"{what} is of type {got}, expected {kind}")
    return data, after


def _matrix(part: _Part, names: Collection[str] | None) -> tuple[str, Any]:
    """Return an array's name and value; the value is None if the name is not among those wanted."""
    order = part.order
    flags, place = _expect(part, 0, 6, "an array's flags")
    shape, place = _expect(part, place, 5, "an array's shape")
    name, place = _expect(part, place, 1, "an array's name")
    if len(flags) != 8 or len(shape) < 8 or len(shape) % 4:
        raise ValueError(f"an array's flags and shape take {len(flags)} and {len(shape)} bytes")
    variable = bytes(name).decode("ascii")
    if names is not None and variable not in names:
        return variable, None
    flag = struct.unpack_from(order + "I", flags)[0]
    sizes = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    where = variable or "a cell"
    if min(sizes) < 0 or (sum(size != 1 for size in sizes) > 1 and 0 not in sizes):
        raise ValueError(f"{where} is of shape {sizes}, expected a row or a column")
    kind, count = flag & 0xFF, math.prod(sizes)
    if kind == _CELL and part.depth == 0:
        value, place = _cells(part, place, count)
    elif kind == _CHAR or (kind in _NUMERIC and not flag & _COMPLEX):
        stored, data, place = _element(part, place)
        value = _text(stored, data, count, order) if kind == _CHAR else _numbers(stored, data, count, order)
    else:
        got = _CLASSES.get(kind, "complex" if kind in _NUMERIC else f"of class {kind}")
        raise ValueError(f"{where} is {got}, expected numbers, text, or a cell array of text")
    if place != len(part.content):
        raise ValueError(f"{where} ends {abs(len(part.content) - place)} bytes off its given size")
    return variable, value


def _cells(part: _Part, place: int, count: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(count):
        data, place = _expect(part, place, _MATRIX, "a cell")
        values.append(_matrix(_Part(data, part.order, part.depth + 1), None)[1] if data else None)
    return values, place


def _text(stored: int, data: memoryview, count: int, order: str) -> str:
    if stored not in _TEXTS:
        raise ValueError(f"text is stored as type {stored}")
    wide = {"<": "-le", ">": "-be"}[order] if "utf-8" != _TEXTS[stored] != "ascii" else ""
    text = bytes(data).decode(_TEXTS[stored] + wide)
    if len(text) != count:
        raise ValueError(f"a text of {count} characters holds {len(text)}")
    return text


def _numbers(stored: int, data: memoryview, count: int, order: str) -> np.ndarray:
    if stored not in _NUMBERS or len(data) != count * int(_NUMBERS[stored][1]):
        raise ValueError(f"{count} numbers are stored as {len(data)} bytes of type {stored}")
    return np.frombuffer(data, order + _NUMBERS[stored]).astype(_NUMBERS[stored])
