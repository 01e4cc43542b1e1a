"""Writing images in MATLAB's version 7.3 (which is HDF5), with the structure of `cuhk-03.mat`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from reidlab.checks import image_problem
from reidlab.data.matheader import HEADER_DATE, first_line
from reidlab.data.names import BOXES, IMAGES_PER_IDENTITY
from reidlab.data.protocolfile import write_new_protocol as write_new_protocol  # the file beside the .mat
from reidlab.files import atomic_path

USER_BLOCK = 512


class _Mat73:
    """An open MATLAB 7.3 file that is being written; kept close to HDF5 itself, since it stores 30,000 objects."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.file = file
        self.path = path
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
        name = self.next_name()
        space = h5py.h5s.create_simple(array.shape)
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        try:
            dataset = h5py.h5d.create(self.refs, name, kind, space, self.contiguous)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
            self.mark(dataset, matlab_class, empty)
        except (OSError, RuntimeError) as error:
            raise _disk_error(self.path, error) from None
        return h5py.h5r.create(self.refs, name, h5py.h5r.OBJECT)

    def add_cells(self, name: bytes | str, references: np.ndarray) -> h5py.Reference:
        """Store a cell array; MATLAB keeps variables under the file's root, what they refer to in /#refs#."""
        dataset = self.file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
        self.mark(dataset.id, "cell")
        return dataset.ref

    def next_name(self) -> bytes:
        """Count as MATLAB names its hidden objects: a, b, ..., z, aa, ab, ..."""
        name = ""
        self.count += 1
        number = self.count
        while number:
            number, letter = divmod(number - 1, 26)
            name = chr(ord("a") + letter) + name
        return name.encode()

    def mark(self, dataset: h5py.h5d.DatasetID, matlab_class: str, empty: bool = False) -> None:
        """Attach the attributes by which MATLAB knows what a dataset is."""
        text = np.array(matlab_class.encode(), dtype=f"S{len(matlab_class)}")
        kind = h5py.h5t.py_create(text.dtype)
        h5py.h5a.create(dataset, b"MATLAB_class", kind, self.scalar).write(text)
        if empty:
            flag = np.array(1, np.uint8)
            h5py.h5a.create(dataset, b"MATLAB_empty", h5py.h5t.STD_U8LE, self.scalar).write(flag)


@contextmanager
def _new_file(temporary: Path, path: Path) -> Iterator[h5py.File]:
    """Open a new file, and close it whatever happens; of several errors the first one counts."""
    # "earliest" is the file version that MATLAB itself writes and every HDF5 library reads.
    file = h5py.File(temporary, "w", userblock_size=USER_BLOCK, libver="earliest")
    try:
        yield file
        try:
            file.close()
        except (OSError, RuntimeError) as error:
            raise _disk_error(path, error) from None
    except BaseException:
        with suppress(OSError, RuntimeError):  # a disk that is full is full on closing, too
            file.close()
        raise


def _disk_error(path: Path, error: Exception) -> OSError:
    """Turn HDF5's page of text into one line; the reason is in it as a number."""
    number = getattr(error, "errno", None) or int((re.search(r"errno = (\d+)", str(error)) or [0, 0])[1])
    reason = os.strerror(number) if number else first_line(error)
    return OSError(f"{path}: cannot be written ({reason}); make room or choose another folder, then run it again")


def write_cuhk03_mat(
    path: str | os.PathLike[str],
    identities_per_pair: Sequence[int],
    images: Iterable[tuple[str, int, int, int, np.ndarray]],
    testsets: Sequence[np.ndarray],
) -> Path:
    """Write a file of the structure of `cuhk-03.mat`: atomically, one image in memory at a time.

    The same input in the same order gives the same bytes.

    Args:
        path: the file to write.
        identities_per_pair: number of identities of each camera pair; CUHK03's are `PAIR_SIZES`.
        images: (box, pair, identity, index, image) in any order: box "labeled" or "detected", pair and
            identity from 1, index 0 to 9 (0 to 4 are view 1), image uint8 (H, W, 3) RGB.
            A cell that is not given becomes an empty one.
        testsets: the test identities of each classic split, (n, 2) whole numbers: pair and identity, from 1.

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
        with _new_file(temporary, path) as file:
            mat = _Mat73(file, path)
            cells = {box: [np.full((IMAGES_PER_IDENTITY, n), mat.empty, object) for n in sizes] for box in BOXES}
            _store_images(mat, cells, images)
            for box in sorted(BOXES):
                references = [mat.add_cells(b"#refs#/" + mat.next_name(), table) for table in cells[box]]
                mat.add_cells(box, np.array([references], object))
            references = [mat.add(np.ascontiguousarray(pairs.T, np.float64), "double") for pairs in tests]
            mat.add_cells("testsets", np.array([references], object).reshape(1, len(tests)))
        with temporary.open("rb+") as file:
            text = f"MATLAB 7.3 MAT-file, Platform: GLNXA64, {HEADER_DATE} HDF5 schema 1.00 ."
            # Bytes 124 to 127 are the version, 2.0, and the byte order: how every reader tells 7.3 from 5.
            file.write((text.encode().ljust(116) + bytes(8) + b"\x00\x02IM").ljust(USER_BLOCK, b"\0"))
    return path


def _store_images(mat: _Mat73, cells: dict[str, list[np.ndarray]], images: Iterable) -> None:
    for box, pair, identity, index, image in images:
        where = f"image ({box!r}, pair {pair}, identity {identity}, index {index})"
        if box not in cells or not 1 <= pair <= len(cells[box]):
            raise ValueError(f"{where}: expected a box of {BOXES} and a pair from 1 to {len(cells[BOXES[0]])}")
        table = cells[box][pair - 1]
        if not (1 <= identity <= table.shape[1] and 0 <= index < IMAGES_PER_IDENTITY):
            raise ValueError(f"{where}: expected an identity from 1 to {table.shape[1]} and an index from 0 to 9")
        if problem := image_problem(image):
            raise ValueError(f"{where}: {problem}")
        if 0 in image.shape:
            raise ValueError(f"{where}: got an image without pixels, {image.shape}; leave the cell out instead")
        if table[index, identity - 1] is not mat.empty:
            raise ValueError(f"{where}: came twice; every cell holds one image")
        table[index, identity - 1] = mat.add(np.ascontiguousarray(image.T), "uint8")  # (3, W, H)


def _check_testset(number: int, pairs: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"testsets[{number}]: got {pairs.dtype} {pairs.shape}, expected whole numbers (n, 2)")
    for pair, identity in pairs.tolist():
        if not (1 <= pair <= len(sizes) and 1 <= identity <= sizes[pair - 1]):
            raise ValueError(f"testsets[{number}]: there is no identity {identity} in pair {pair}; sizes are {sizes}")
    return pairs
