"""The new protocol's files, MATLAB version 5: which images are for training, for queries, for the gallery.

They are read without trust, in Python alone: libraries that read every class of variable crash on damaged bytes.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reidlab.data.matheader import HEADER_DATE, describe_problem
from reidlab.data.names import parse_image_name
from reidlab.errors import DataError, a_few
from reidlab.files import atomic_path

PROTOCOL_SOURCE = "github.com/zhunzhong07/person-re-ranking, folder evaluation/data/CUHK03"
_NUMBERS = ("labels", "camId", "train_idx", "query_idx", "gallery_idx")


@dataclass(frozen=True)
class NewProtocol:
    """What a new-protocol file says: a list of images, and which of them play which part.

    Args:
        names: N image names such as `1_001_1_01.png`.
        labels: identity number of each image, (N,) int64.
        camids: camera of each image, (N,) int64: the view, 1 or 2.
        train_idx, query_idx, gallery_idx: positions in `names`, int64, counted from 1 as in the file.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    names: list[str]
    labels: np.ndarray
    camids: np.ndarray
    train_idx: np.ndarray
    query_idx: np.ndarray
    gallery_idx: np.ndarray


def write_new_protocol(
    path: str | os.PathLike[str],
    names: Sequence[str],
    labels: Sequence[int],
    camids: Sequence[int],
    train_idx: Sequence[int],
    query_idx: Sequence[int],
    gallery_idx: Sequence[int],
) -> Path:
    """Write a new-protocol file as Zhong et al. published them: MATLAB version 5, one column per variable.

    Args:
        path: the file to write, atomically; the same input gives the same bytes.
        names: N image names.
        labels: N identity numbers, 1 to 65535.
        camids: N cameras, 1 or 2.
        train_idx, query_idx, gallery_idx: positions in `names`, counted from 1.

    Raises:
        ValueError: lengths differ or a number does not fit the file's type.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cuhk03_new_protocol_config_labeled.mat"
        >>> names = ["1_001_1_01.png", "1_002_1_01.png", "1_002_2_06.png"]
        >>> _ = write_new_protocol(path, names, [1, 2, 2], [1, 1, 2], [1], [2], [3])
        >>> read_new_protocol(path).gallery_idx
        array([3])

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    from scipy.io import savemat  # takes a quarter of a second, so only where it is needed

    if not len(names) == len(labels) == len(camids):
        raise ValueError(f"got {len(names)} names, {len(labels)} labels, {len(camids)} camids; expected one each")
    filelist = np.empty((len(names), 1), object)
    filelist[:, 0] = [str(name) for name in names]
    content = {"camId": _column(camids, np.uint8, "camids"), "filelist": filelist}
    content["labels"] = _column(labels, np.uint16, "labels")
    for key, values in (("query_idx", query_idx), ("gallery_idx", gallery_idx), ("train_idx", train_idx)):
        content[key] = _column(values, np.uint16, key)
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    header = f"MATLAB 5.0 MAT-file, Platform: GLNXA64, {HEADER_DATE}".encode().ljust(116)
    with atomic_path(path) as temporary:
        temporary.write_bytes(header + buffer.getvalue()[116:])
    return Path(path)


def _column(values: Sequence[int], dtype: type, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.int64).reshape(-1, 1)
    if array.size and (array.min() < 1 or array.max() > np.iinfo(dtype).max):
        raise ValueError(f"{name}: got {array.min()} to {array.max()}, expected 1 to {np.iinfo(dtype).max}")
    return array.astype(dtype)


def read_new_protocol(path: str | os.PathLike[str]) -> NewProtocol:
    """Read a new-protocol file, `cuhk03_new_protocol_config_labeled.mat` or `..._detected.mat`, and check it.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not a MATLAB 5 file, is damaged, lacks a variable, or contradicts itself: lengths differ; names
            do not parse or come twice; positions are out of range; an image plays two parts; names, labels and cameras
            disagree; people are in training and in test; a view is missing.

    Example:
        See `write_new_protocol`.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    path = Path(path)
    try:
        problem = describe_problem(path, "5")
        if problem:
            raise DataError(problem)
        content = read_mat5(path, [*_NUMBERS, "filelist"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; new-protocol files are at {PROTOCOL_SOURCE}") from None
    missing = [key for key in ("filelist", *_NUMBERS) if key not in content]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; is it a new-protocol file? Get it from {PROTOCOL_SOURCE}")
    filelist = content["filelist"]
    names = filelist if isinstance(filelist, list) else [filelist]
    bad = next((n for n, name in enumerate(names, 1) if not isinstance(name, str)), None)
    if bad is not None:
        raise DataError(f"{path}: filelist entry {bad} is no text; expected image names such as 1_001_1_01.png")
    protocol = NewProtocol(names, *(_whole_numbers(path, key, content[key]) for key in _NUMBERS))
    if not len(names) == len(protocol.labels) == len(protocol.camids):
        problem = f"got {len(names)} names, {len(protocol.labels)} labels and {len(protocol.camids)} cameras, expected "
        problem += "one of each per image"
    else:
        problem = _names_problem(protocol) or _parts_problem(protocol)
    if problem:
        raise DataError(f"{path}: {problem}; get the file again from {PROTOCOL_SOURCE}")
    return protocol


def _whole_numbers(path: Path, key: str, values: object) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: {key} is {'text' if isinstance(values, str) else 'cells'}, expected whole numbers")
    whole = values.astype(np.float64)
    if not np.all((whole == np.round(whole)) & (np.abs(whole) < 2**53)):  # NaN is equal to nothing
        raise DataError(f"{path}: {key} is {values.dtype} with fractions or beyond 2^53, expected whole numbers")
    return values.astype(np.int64)


def _names_problem(protocol: NewProtocol) -> str | None:
    """Say which names do not parse or come twice, or what labels and cameras contradict."""
    twice = [name for name, times in Counter(protocol.names).items() if times > 1]
    if twice:
        return f"filelist names {len(twice)} images more than once: {a_few(twice)}"
    people: dict[tuple[int, int], int] = {}
    bad = []
    for name, label, camid in zip(protocol.names, protocol.labels.tolist(), protocol.camids.tolist(), strict=True):
        try:
            if "/" in name or "\\" in name:
                raise DataError(f"{name}: a path, expected a bare name")
            pair, identity, view, _ = parse_image_name(name)
        except DataError:
            bad.append(repr(name))
            continue
        if camid != view:
            return f"camId says {camid} for {name}, whose name says view {view}"
        if people.setdefault((pair, identity), label) != label:
            return f"identity {identity} of pair {pair} has two labels, {people[pair, identity]} and {label}"
    if bad:
        return f"{len(bad)} names are not of the form pair_identity_view_image.png: {a_few(bad)}"
    shared = [label for label, times in Counter(people.values()).items() if times > 1]
    return f"several people have the same label: {a_few(shared)}" if shared else None


def _parts_problem(protocol: NewProtocol) -> str | None:
    """Say which positions are out of range or play two parts, who is in training and in test, or which view lacks."""
    count, parts = len(protocol.names), {}
    for key in ("train_idx", "query_idx", "gallery_idx"):
        positions = getattr(protocol, key)
        if not positions.size:
            return f"{key} is empty"
        if positions.min() < 1 or positions.max() > count:
            return f"{key} goes from {positions.min()} to {positions.max()}, expected 1 to {count} (counted from 1)"
        parts[key] = set(positions.tolist())
        if len(parts[key]) != positions.size:
            return f"{key} holds {positions.size - len(parts[key])} positions more than once"
    for one, other in (("query_idx", "gallery_idx"), ("train_idx", "query_idx"), ("train_idx", "gallery_idx")):
        both = sorted(parts[one] & parts[other])
        if both:
            return f"{len(both)} images are in {one} and in {other}: {a_few([protocol.names[n - 1] for n in both])}"
    labels, test = protocol.labels, np.concatenate([protocol.query_idx, protocol.gallery_idx]) - 1
    both = sorted(set(labels[protocol.train_idx - 1].tolist()) & set(labels[test].tolist()))
    if both:
        return f"{len(both)} identities are in training and in test: {a_few(both)}"
    views = set(protocol.camids[test].tolist())
    if len(views) < 2:
        return f"a view is missing: all queries and gallery images are of view {views.pop()}, so no query has a match"
    return None


# --- MATLAB 5 ---------------------------------------------------------------------------------------------------------

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
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
    """Read numbers, text and cell arrays of text from a file that `describe_problem` has found to be of MATLAB 5.

    Every size is compared with what is there before it is used, so damaged or hostile bytes end in an error, and a
    small file cannot unpack into a large one.

    Args:
        path: the file.
        names: the variables wanted; others are skipped.

    Returns:
        By name: a vector (N,) for numbers, a string for a row of text, a list of the two for a cell array.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is damaged, larger than 64 MiB, or a wanted variable is a matrix, complex, or of another class.

    Example:
        >>> import tempfile
        >>> from scipy.io import savemat
        >>> path = Path(tempfile.mkdtemp()) / "a.mat"
        >>> savemat(path, {"labels": [1, 2], "note": "unread"})
        >>> read_mat5(path, ["labels"])
        {'labels': array([1, 2])}
    """
    path = Path(path)
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: is larger than {_MAX_BYTES:,} bytes, expected some 76,000; is it another file?")
    content = path.read_bytes()
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:128])
    try:
        if order is None:
            raise ValueError(f"bytes 125 to 128 are {content[124:128].hex(' ')}, expected 00 01 49 4d")
        return _variables(_Part(memoryview(content)[128:], order), names)
    except (ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged inside ({error}); copy or download it again") from None


def _variables(part: _Part, names: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    place, budget = 0, _MAX_BYTES
    while place < len(part.content):
        kind, data, place = _element(part, place, padded=False)
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data, budget)
            if not unpacker.eof or unpacker.unused_data:
                raise ValueError(f"a compressed variable is cut short, or holds more than {_MAX_BYTES:,} bytes")
            budget -= len(unpacked)
            kind, data, end = _element(part._replace(content=memoryview(unpacked)), 0)
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
        value = []
        for _ in range(count):
            data, place = _expect(part, place, _MATRIX, "a cell")
            value.append(_matrix(_Part(data, order, part.depth + 1), None)[1] if data else None)
    elif kind == _CHAR or (kind in _NUMERIC and not flag & _COMPLEX):
        stored, data, place = _element(part, place)
        value = (_text if kind == _CHAR else _numbers)(stored, data, count, order)
    else:
        got = _CLASSES.get(kind, "complex" if kind in _NUMERIC else f"of class {kind}")
        raise ValueError(f"{where} is {got}, expected numbers, text, or a cell array of text")
    if place != len(part.content):
        raise ValueError(f"{where} ends {abs(len(part.content) - place)} bytes off its given size")
    return variable, value


def _text(stored: int, data: memoryview, count: int, order: str) -> str:
    if stored not in _TEXTS:
        raise ValueError(f"text is stored as type {stored}")
    wide = {"<": "-le", ">": "-be"}[order] if "utf-8" != _TEXTS[stored] != "ascii" else ""
    text = bytes(data).decode(_TEXTS[stored] + wide)
    if len(text) != count:
        raise ValueError(f"a text of {count} characters holds {len(text)}")
    return text


def _numbers(stored: int, data: memoryview, count: int, order: str) -> np.ndarray:
    if stored not in _STORED or len(data) != count * int(_STORED[stored][1]):
        raise ValueError(f"{count} numbers are stored as {len(data)} bytes of type {stored}")
    return np.frombuffer(data, order + _STORED[stored]).astype(_STORED[stored])
