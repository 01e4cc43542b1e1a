"""The new protocol's files: which images are for training, for queries, for the gallery; MATLAB version 5."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reidlab.data.mat5 import read_mat5
from reidlab.data.matheader import HEADER_DATE, describe_problem
from reidlab.data.names import a_few, parse_image_name
from reidlab.errors import DataError
from reidlab.files import atomic_path

PROTOCOL_SOURCE = "github.com/zhunzhong07/person-re-ranking, folder evaluation/data/CUHK03"
_NUMBERS = ("labels", "camId", "train_idx", "query_idx", "gallery_idx")


@dataclass(frozen=True)
class NewProtocol:
    """What a new-protocol file says: a list of images, and which of them play which part.

    Args:
        names: image names such as `1_001_1_01.png`, one per image of the box type.
        labels: identity number of each image, (N,) int64.
        camids: camera of each image, (N,) int64: the view, 1 or 2.
        train_idx: positions in `names`, (T,) int64, counted from 1 as in the file.
        query_idx: likewise, (Q,).
        gallery_idx: likewise, (G,).

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
        path: the file to write; written atomically, the same input gives the same bytes.
        names: N image names.
        labels: N identity numbers, 1 to 65535.
        camids: N cameras, 1 or 2.
        train_idx: positions in `names`, counted from 1.
        query_idx: likewise.
        gallery_idx: likewise.

    Returns:
        The path.

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
    """Read a new-protocol file and make sure that it is consistent.

    Args:
        path: `cuhk03_new_protocol_config_labeled.mat` or `..._detected.mat`.

    Returns:
        Its content, numbers as int64 (N,).

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not a MATLAB 5 file, is damaged, lacks a variable, or contradicts itself.

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
    numbers = [_whole_numbers(path, key, content[key]) for key in _NUMBERS]
    protocol = NewProtocol(_strings(path, content["filelist"]), *numbers)
    check_new_protocol(path, protocol)
    return protocol


def _strings(path: Path, cells: object) -> list[str]:
    names = cells if isinstance(cells, list) else [cells]
    bad = next((n for n, name in enumerate(names, 1) if not isinstance(name, str)), None)
    if bad is not None:
        raise DataError(f"{path}: filelist entry {bad} is no text; expected image names such as 1_001_1_01.png")
    return names


def _whole_numbers(path: Path, key: str, values: object) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: {key} is {'text' if isinstance(values, str) else 'cells'}, expected whole numbers")
    whole = values.astype(np.float64)
    if not np.all((whole == np.round(whole)) & (np.abs(whole) < 2**53)):  # NaN is equal to nothing
        raise DataError(f"{path}: {key} is {values.dtype} with fractions or beyond 2^53, expected whole numbers")
    return values.astype(np.int64)


def check_new_protocol(path: Path, protocol: NewProtocol) -> None:
    """Make sure that a protocol does not contradict itself.

    Args:
        path: where it was read from, for the message.
        protocol: its content.

    Raises:
        DataError: lengths differ; names do not parse or come twice; positions are out of range; an image
            plays two parts; names, labels and cameras disagree; a view is missing.
    """
    count = len(protocol.names)
    if not count == len(protocol.labels) == len(protocol.camids):
        raise DataError(
            f"{path}: got {count} names, {len(protocol.labels)} labels and {len(protocol.camids)} cameras, "
            f"expected one of each per image; get the file again from {PROTOCOL_SOURCE}"
        )
    for problem in (_names_problem(protocol), _positions_problem(protocol) or _people_problem(protocol)):
        if problem:
            raise DataError(f"{path}: {problem}; get the file again from {PROTOCOL_SOURCE}")


def _names_problem(protocol: NewProtocol) -> str | None:
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


def _positions_problem(protocol: NewProtocol) -> str | None:
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
    return None


def _people_problem(protocol: NewProtocol) -> str | None:
    labels, test = protocol.labels, np.concatenate([protocol.query_idx, protocol.gallery_idx]) - 1
    both = sorted(set(labels[protocol.train_idx - 1].tolist()) & set(labels[test].tolist()))
    if both:
        return f"{len(both)} identities are in training and in test: {a_few(both)}"
    views = sorted(set(protocol.camids[test].tolist()))
    if len(views) < 2:
        return f"a view is missing: all queries and gallery images are of view {views[0]}, so no query has a match"
    return None
