"""Images straight from `cuhk-03.mat`, by reference, without unpacking it first."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reidlab.data.matheader import H5_ERRORS, first_line, open_mat73
from reidlab.data.names import BOXES, IMAGES_PER_IDENTITY, name_of_cell, parse_image_name
from reidlab.errors import DataError

EMPTY = "is an empty cell"
_MAX_SIDE = 10_000  # pixels; a damaged or hostile file must not make us ask for terabytes
_MAX_ENTRIES = 1_000_000  # of a table, likewise; CUHK03 has 14,670 cells


def _one_line(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what h5py says of a damaged file into a DataError that names it."""

    @functools.wraps(method)
    def read(self: MatSource, *args: Any) -> Any:
        try:
            return method(self, *args)
        except (DataError, FileNotFoundError):
            raise
        except H5_ERRORS as error:
            raise DataError(f"{self.path}: damaged inside ({first_line(error)}); copy or download it again") from None

    return read


class MatSource:
    """The images of a file like `cuhk-03.mat`, by names such as `labeled/1_001_1_01.png`.

    The file is opened at the first use, once per process: after a fork (DataLoader workers) and after
    pickling it is opened anew. Each pair's references are read once; an image is then one look-up.

    Args:
        path: the `.mat` file.

    Raises:
        FileNotFoundError: at the first use, if there is no such file.
        DataError: at the first use, if the file is damaged or of another kind.

    Example:
        >>> import tempfile
        >>> from reidlab.data.matfile import write_cuhk03_mat
        >>> path = Path(tempfile.mkdtemp()) / "cuhk-03.mat"
        >>> image = np.full((160, 60, 3), 7, np.uint8)
        >>> _ = write_cuhk03_mat(path, [1], [("labeled", 1, 1, 0, image)], [])
        >>> MatSource(path).load("labeled/1_001_1_01.png").shape
        (160, 60, 3)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._forget()

    def __repr__(self) -> str:
        return f"MatSource({os.fspath(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # open files do not travel between processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._forget()

    def _forget(self) -> None:
        self._file: h5py.File | None = None
        self._process = -1
        self._tables: dict[str, list[np.ndarray]] = {}

    def close(self) -> None:
        """Close the file; the next use opens it anew."""
        if self._file is not None:
            self._file.close()
        self._forget()

    @property
    def file(self) -> h5py.File:
        """The open HDF5 file of this process."""
        if self._file is None or self._process != os.getpid():
            self.close()
            self._file, self._process = open_mat73(self.path), os.getpid()
        return self._file

    def load(self, name: str) -> np.ndarray:
        """Read one image, such as `labeled/1_001_1_01.png`, as uint8 (H, W, 3), RGB.

        Raises:
            DataError: the name does not parse, its cell is empty or missing, or holds no 8-bit RGB image.
        """
        box, _, file_name = name.rpartition("/")
        pair, identity, _, number = parse_image_name(file_name)
        try:
            dataset = self.cell(box, pair, identity, number - 1)
            problem = describe_cell(dataset)
            if problem is None:
                stored = np.empty(dataset.shape, np.uint8)  # (3, W, H), as MATLAB stores an image
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, stored)
                image = np.empty(stored.shape[::-1], np.uint8)  # (H, W, 3)
                for channel in range(3):  # three plain transpositions are 3 times as fast as one of all axes
                    image[:, :, channel] = stored[channel].T
                return image
        except _NowhereError as error:
            problem = str(error)
        except (DataError, FileNotFoundError):
            raise
        except H5_ERRORS as error:
            problem = f"cannot be read ({first_line(error)})"
        raise DataError(f"{self.path}: image {name} {problem}; `reidlab check` looks at every image of the file")

    @_one_line
    def cell(self, box: str, pair: int, identity: int, index: int) -> h5py.h5d.DatasetID:
        """Return the low-level dataset behind one cell; pair and identity count from 1, index from 0.

        Raises:
            DataError: there is no such cell, or its reference leads nowhere.
        """
        file = self.file  # first, since a new process has no tables yet
        tables = self.tables(box)
        if not 1 <= pair <= len(tables) or not 1 <= identity <= tables[pair - 1].shape[1]:
            raise DataError(
                f"{self.path}: /{box} has no identity {identity} in pair {pair}; "
                f"its pairs hold {', '.join(str(t.shape[1]) for t in tables)} identities"
            )
        return _follow(file, tables[pair - 1][index, identity - 1])

    @_one_line
    def tables(self, box: str) -> list[np.ndarray]:
        """Return the references of a box type, one (10, identities) array per camera pair.

        Raises:
            DataError: the file has no such variable, or it is not a cell array of cell arrays.
        """
        file = self.file
        if box not in self._tables:
            if box not in BOXES:
                raise DataError(f"{self.path}: got the box type {box!r}, expected one of {', '.join(BOXES)}")
            tables = []
            for number, reference in enumerate(self._variable(file, box), 1):
                where = f"{self.path}: /{box}, pair {number}"
                table = h5py.Dataset(self._dataset(reference, where))
                if table.dtype != h5py.ref_dtype:
                    raise DataError(f"{where}: got {table.dtype} {table.shape}, expected a cell array")
                if len(table.shape) != 2 or table.shape[0] != IMAGES_PER_IDENTITY:
                    raise DataError(
                        f"{where}: got a cell array of shape {table.shape}, "
                        f"expected ({IMAGES_PER_IDENTITY}, identities); is this cuhk-03.mat?"
                    )
                tables.append(table[()])
            self._tables[box] = tables
        return self._tables[box]

    def sizes(self, box: str) -> list[int]:
        """Return the number of identities of each camera pair."""
        return [table.shape[1] for table in self.tables(box)]

    @_one_line
    def testsets(self) -> list[np.ndarray]:
        """Return the classic protocol's test sets, each (n, 2) int64: pair and identity, from 1.

        Raises:
            DataError: they are missing, not whole numbers, or name people who are not there.
        """
        sets = []
        for number, reference in enumerate(self._variable(self.file, "testsets")):
            where = f"{self.path}: /testsets, set {number}"
            dataset = self._dataset(reference, where)
            if len(dataset.shape) != 2 or dataset.shape[0] != 2 or dataset.dtype.kind not in "fiu":
                raise DataError(
                    f"{where}: got {dataset.dtype} {dataset.shape}, expected numbers (2, n): is it cuhk-03?"
                )
            pairs = np.empty(dataset.shape, np.float64)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, pairs)
            if not np.all((pairs == np.round(pairs)) & (np.abs(pairs) < 2**31)):
                raise DataError(f"{where}: holds numbers that are not whole; expected pair and identity")
            sets.append(pairs.T.astype(np.int64))
        return sets

    @_one_line
    def present(self, box: str) -> list[np.ndarray]:
        """Return which cells hold an image, one bool (identities, 10) array per camera pair.

        Follows every reference but reads no pixels: about half a second for CUHK03.

        Raises:
            DataError: a cell holds something that is neither an image nor empty.
        """
        file, answer = self.file, []
        for pair, table in enumerate(self.tables(box), 1):
            held = np.zeros((table.shape[1], table.shape[0]), bool)
            for (index, identity), reference in np.ndenumerate(table):
                problem = _describe(file, reference)
                if problem not in (None, EMPTY):
                    name = f"{box}/{name_of_cell(pair, identity + 1, index)}"
                    raise DataError(f"{self.path}: image {name} {problem}; copy the file again")
                held[identity, index] = problem is None
            answer.append(held)
        return answer

    @_one_line
    def empty(self, box: str) -> list[np.ndarray]:
        """Return which cells are empty as far as their addresses show, one bool (identities, 10) array per pair.

        MATLAB points untouched cells at one shared empty object, so an address that occurs twice is one. Cells that are
        empty in another way show only when they are followed, as by `present`, which takes minutes on a cold disk.
        """
        file, answer = self.file, []
        variable = self._variable(file, box)
        for reference, table in zip(variable, self.tables(box), strict=True):
            dataset = _follow(file, reference)
            addresses = np.zeros(table.shape, np.uint64)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, addresses, mtype=dataset.get_type())
            _, first, place, count = np.unique(addresses, return_index=True, return_inverse=True, return_counts=True)
            shared = np.array(
                [n > 1 and _describe(file, table.flat[i]) == EMPTY for i, n in zip(first, count, strict=True)]
            )
            answer.append((shared[place.reshape(table.shape)] | (addresses == 0)).T)
        return answer

    def _variable(self, file: h5py.File, name: str) -> np.ndarray:
        link = file.get(name, getlink=True)
        if link is None:
            found = ", ".join(key for key in file if key != "#refs#") or "nothing"
            raise DataError(f"{self.path}: lacks the variable {name} (holds {found}); is this cuhk-03.mat?")
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{self.path}: the variable {name} is a link that leads out of it; not CUHK03's file")
        content = file[name]
        if not isinstance(content, h5py.Dataset) or content.dtype != h5py.ref_dtype or content.ndim != 2:
            raise DataError(f"{self.path}: the variable {name} is no cell array; is this cuhk-03.mat?")
        if _unsafe(content.id) or content.size > _MAX_ENTRIES:
            raise DataError(f"{self.path}: the variable {name} is too large or in another file; not CUHK03's file")
        return content[()].ravel()

    def _dataset(self, reference: h5py.Reference, where: str) -> h5py.h5d.DatasetID:
        try:
            dataset = _follow(self.file, reference)
            problem = _unsafe(dataset) or (math.prod(dataset.shape) > _MAX_ENTRIES and f"is of shape {dataset.shape}")
        except H5_ERRORS as error:
            problem = first_line(error)
        if problem:
            raise DataError(f"{where}: {problem}; the file is damaged, copy it again")
        return dataset


class _NowhereError(DataError):
    """A reference that leads nowhere; whoever knows the image's name says whose it is."""


def _describe(file: h5py.File, reference: h5py.Reference) -> str | None:
    """Describe the cell behind a reference as `describe_cell` does."""
    try:
        return describe_cell(_follow(file, reference))
    except _NowhereError as error:
        return str(error)
    except H5_ERRORS as error:
        return f"cannot be read ({first_line(error)})"


def _follow(file: h5py.File, reference: h5py.Reference) -> h5py.h5d.DatasetID:
    try:
        found = h5py.h5r.dereference(reference, file.id)
    except (ValueError, OSError, RuntimeError, KeyError):
        found = None
    if not isinstance(found, h5py.h5d.DatasetID):
        raise _NowhereError("holds a reference to nowhere")
    return found


def describe_cell(dataset: h5py.h5d.DatasetID) -> str | None:
    """Say why a cell holds no 8-bit RGB image (`EMPTY` for an empty one), or None if it does; reads no pixels.

    Example:
        >>> with h5py.File("x", "w", driver="core", backing_store=False) as file:
        ...     describe_cell(file.create_dataset("grey", (60, 160), "u1").id)
        'is grey or flat: got uint8 (60, 160), expected uint8 (3, W, H)'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    shape = dataset.shape
    is_bytes = dataset.get_type().equal(h5py.h5t.STD_U8LE)
    if is_bytes and len(shape) == 3 and shape[0] == 3 and min(shape) > 0 and max(shape) <= _MAX_SIDE:
        return _unsafe(dataset)
    if h5py.h5a.exists(dataset, b"MATLAB_empty"):
        empty = bool(h5py.Dataset(dataset).attrs["MATLAB_empty"])
    else:  # files rewritten by other tools lose the attribute but keep MATLAB's two numbers, 0 and 0
        zeros = shape in ((2,), (1, 2), (2, 1)) and not np.any(h5py.Dataset(dataset)[()])
        empty = 0 in shape or zeros
    if empty:
        return EMPTY
    got = f"got {dataset.dtype} {shape}, expected uint8 (3, W, H)"
    if not is_bytes and len(shape) == 3:
        return f"is {8 * dataset.dtype.itemsize} bits deep: {got}"
    if len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
        return f"is grey or flat: {got}"
    return f"is no image: {got}"


def _unsafe(dataset: h5py.h5d.DatasetID) -> str | None:
    """Say what is wrong with a dataset whose content lies outside the file."""
    plan = dataset.get_create_plist()
    if plan.get_layout() in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED) and not plan.get_external_count():
        return None
    return "keeps its content in another file, which is not followed"
