"""The two MATLAB formats of CUHK03: images in version 7.3 (which is HDF5), protocols in version 5."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from reidlab.errors import DataError
from reidlab.files import atomic_path

PAIR_SIZES = (843, 440, 77, 58, 49)
"""Identities behind each of CUHK03's five camera pairs: 1467 in all."""
BOXES = ("labeled", "detected")
IMAGES_PER_IDENTITY = 10
IMAGES_PER_VIEW = 5
USER_BLOCK = 512

_NAME = re.compile(r"([1-9])_(\d{3,})_([12])_(\d{2})\.(?:png|jpg)", re.ASCII)
_HEADER_DATE = "Created on: Sat Jan  1 00:00:00 2000"  # fixed: the same input has to give the same bytes


def image_name(pair: int, identity: int, view: int, image: int) -> str:
    """Name an image as every public code base does.

    Args:
        pair: camera pair, from 1.
        identity: identity within that pair, from 1.
        view: 1 or 2, the camera of the pair.
        image: 1 to 10, counted over both views: 1 to 5 are view 1, 6 to 10 are view 2.

    Returns:
        The file name, `{pair}_{identity}_{view}_{image}.png`.

    Raises:
        ValueError: a number is out of its range, or the view does not fit the image.

    Example:
        >>> image_name(1, 1, 1, 2)
        '1_001_1_02.png'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    if not (1 <= pair <= 9 and identity >= 1 and 1 <= image <= IMAGES_PER_IDENTITY):
        raise ValueError(
            f"got pair {pair}, identity {identity}, image {image}; expected a pair from 1 to 9, "
            f"an identity from 1, an image from 1 to {IMAGES_PER_IDENTITY}: all are counted from 1"
        )
    if view != (1 if image <= IMAGES_PER_VIEW else 2):
        raise ValueError(f"got view {view} with image {image}; images 1 to 5 are view 1, images 6 to 10 are view 2")
    return f"{pair}_{identity:03d}_{view}_{image:02d}.png"


def parse_image_name(name: str) -> tuple[int, int, int, int]:
    """Take an image name apart; folders in front of it are passed over.

    Args:
        name: for example `1_001_1_02.png`, or `labeled/1_001_1_02.png`.

    Returns:
        (pair, identity, view, image), all counted from 1.

    Raises:
        DataError: the name is of another form, or its view does not fit its image number.

    Example:
        >>> parse_image_name("1_001_1_02.png")
        (1, 1, 1, 2)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is not None:
        pair, identity, view, image = map(int, match.groups())
        fits = 1 <= image <= IMAGES_PER_IDENTITY and view == (1 if image <= IMAGES_PER_VIEW else 2)
        if identity >= 1 and fits:
            return pair, identity, view, image
    raise DataError(
        f"{name!r} is not a CUHK03 image name: expected pair_identity_view_image.png such as 1_001_1_02.png, "
        "where images 01 to 05 are view 1 and images 06 to 10 are view 2"
    )


class _Mat73:
    """An open MATLAB 7.3 file that is being written; kept close to HDF5 itself, since it stores 30,000 objects."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.refs = file.create_group("#refs#").id
        self.count = 0
        self.scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        self.contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self.contiguous.set_layout(h5py.h5d.CONTIGUOUS)
        self.contiguous.set_obj_track_times(False)
        # What MATLAB points every untouched cell at: its size, 0 by 0, in place of content.
        self.empty = self.add(np.zeros(2, np.uint64), "canonical empty", empty=True)

    def add(self, array: np.ndarray, matlab_class: str, empty: bool = False) -> h5py.Reference:
        """Store an array in /#refs# and return a reference to it."""
        name = _letters(self.count)
        self.count += 1
        space = h5py.h5s.create_simple(array.shape)
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        dataset = h5py.h5d.create(self.refs, name, kind, space, self.contiguous)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
        self.mark(dataset, matlab_class, empty)
        return h5py.h5r.create(self.refs, name, h5py.h5r.OBJECT)

    def put(self, name: str, references: np.ndarray) -> None:
        """Store a cell array of references under the file's root, where MATLAB keeps variables."""
        dataset = self.file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
        self.mark(dataset.id, "cell")

    def mark(self, dataset: h5py.h5d.DatasetID, matlab_class: str, empty: bool = False) -> None:
        """Attach the attributes by which MATLAB knows what a dataset is."""
        text = np.array(matlab_class.encode(), dtype=f"S{len(matlab_class)}")
        kind = h5py.h5t.py_create(text.dtype)
        h5py.h5a.create(dataset, b"MATLAB_class", kind, self.scalar).write(text)
        if empty:
            flag = np.array(1, np.uint8)
            h5py.h5a.create(dataset, b"MATLAB_empty", h5py.h5t.STD_U8LE, self.scalar).write(flag)


def write_cuhk03_mat(
    path: str | os.PathLike[str],
    identities_per_pair: Sequence[int],
    images: Iterable[tuple[str, int, int, int, np.ndarray]],
    testsets: Sequence[np.ndarray],
) -> Path:
    """Write a file of the structure of `cuhk-03.mat`: atomically, one image in memory at a time.

    Args:
        path: the file to write.
        identities_per_pair: number of identities of each camera pair; CUHK03's are `PAIR_SIZES`.
        images: (box, pair, identity, index, image) in any order: box "labeled" or "detected", pair and
            identity from 1, index 0 to 9 (0 to 4 are view 1), image uint8 (H, W, 3) RGB.
            A cell that is not given becomes an empty one.
        testsets: the test identities of each classic split, (n, 2) whole numbers: pair and identity, from 1.

    Returns:
        The path. The same input in the same order gives the same bytes.

    Raises:
        ValueError: a number is out of its range, an image comes twice or is not uint8 (H, W, 3).
        OSError: the folder cannot be written or the disk is full; nothing is left behind.

    Example:
        >>> import tempfile
        >>> image = np.zeros((160, 60, 3), np.uint8)
        >>> path = Path(tempfile.mkdtemp()) / "cuhk-03.mat"
        >>> _ = write_cuhk03_mat(path, [1], [("labeled", 1, 1, 0, image)], [np.array([[1, 1]])])
        >>> with h5py.File(path) as file:
        ...     cells = file[file["labeled"][0, 0]]
        ...     cells.shape, file[cells[0, 0]].shape, file[cells[1, 0]][()].tolist()
        ((10, 1), (3, 60, 160), [0, 0])

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    path = Path(path)
    sizes = [int(size) for size in identities_per_pair]
    tests = [_check_testset(number, pairs, sizes) for number, pairs in enumerate(testsets)]
    with atomic_path(path) as temporary:
        # "earliest" is the file version that MATLAB itself writes and every HDF5 library reads.
        with h5py.File(temporary, "w", userblock_size=USER_BLOCK, libver="earliest") as file:
            mat = _Mat73(file)
            cells = {box: [np.full((IMAGES_PER_IDENTITY, n), mat.empty, object) for n in sizes] for box in BOXES}
            _store_images(mat, cells, images)
            for box in sorted(BOXES):
                references = [_add_cells(mat, table) for table in cells[box]]
                mat.put(box, np.array([references], object))
            references = [mat.add(np.ascontiguousarray(pairs.T, np.float64), "double") for pairs in tests]
            mat.put("testsets", np.array([references], object).reshape(1, len(tests)))
        with temporary.open("rb+") as file:
            file.write(_user_block())
    return path


def _store_images(mat: _Mat73, cells: dict[str, list[np.ndarray]], images: Iterable) -> None:
    for box, pair, identity, index, image in images:
        where = f"image ({box!r}, pair {pair}, identity {identity}, index {index})"
        if box not in cells or not 1 <= pair <= len(cells[box]):
            raise ValueError(f"{where}: expected a box of {BOXES} and a pair from 1 to {len(cells[BOXES[0]])}")
        table = cells[box][pair - 1]
        if not (1 <= identity <= table.shape[1] and 0 <= index < IMAGES_PER_IDENTITY):
            raise ValueError(f"{where}: expected an identity from 1 to {table.shape[1]} and an index from 0 to 9")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"{where}: got {got}, expected an array uint8 (H, W, 3)")
        if 0 in image.shape:
            raise ValueError(f"{where}: got an image without pixels, {image.shape}; leave the cell out instead")
        if table[index, identity - 1] is not mat.empty:
            raise ValueError(f"{where}: came twice; every cell holds one image")
        table[index, identity - 1] = mat.add(np.ascontiguousarray(image.T), "uint8")  # (3, W, H)


def _add_cells(mat: _Mat73, table: np.ndarray) -> h5py.Reference:
    name = _letters(mat.count)
    mat.count += 1
    dataset = mat.file["#refs#"].create_dataset(name, data=table, dtype=h5py.ref_dtype)
    mat.mark(dataset.id, "cell")
    return dataset.ref


def _check_testset(number: int, pairs: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"testsets[{number}]: got {pairs.dtype} {pairs.shape}, expected whole numbers (n, 2)")
    for pair, identity in pairs.tolist():
        if not (1 <= pair <= len(sizes) and 1 <= identity <= sizes[pair - 1]):
            raise ValueError(f"testsets[{number}]: there is no identity {identity} in pair {pair}; sizes are {sizes}")
    return pairs


def _letters(number: int) -> bytes:
    """Count as MATLAB names its hidden objects: a, b, ..., z, aa, ab, ..."""
    name = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = chr(ord("a") + letter) + name
    return name.encode()


def _user_block() -> bytes:
    text = f"MATLAB 7.3 MAT-file, Platform: GLNXA64, {_HEADER_DATE} HDF5 schema 1.00 ."
    # Bytes 124 to 127 are the version, 2.0, and the byte order: how every reader tells 7.3 from 5.
    return (text.encode().ljust(116) + bytes(8) + b"\x00\x02IM").ljust(USER_BLOCK, b"\0")


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
    header = f"MATLAB 5.0 MAT-file, Platform: GLNXA64, {_HEADER_DATE}".encode().ljust(116)
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
        DataError: it is not a MATLAB 5 file, lacks a variable, or contradicts itself.

    Example:
        See `write_new_protocol`.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    from scipy.io import loadmat

    path = Path(path)
    try:
        content = loadmat(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # scipy raises some ten kinds on damaged files
        raise DataError(f"{path}: cannot be read as a MATLAB 5 file ({error})") from None
    names = [str(cell[0]) for cell in content["filelist"][:, 0]]
    numbers = {key: content[key].astype(np.int64).ravel() for key in _NUMBERS}
    return NewProtocol(names, *numbers.values())


_NUMBERS = ("labels", "camId", "train_idx", "query_idx", "gallery_idx")
