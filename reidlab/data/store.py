"""Images of one size, read once and kept as bytes: in memory that processes share, or in a file that outlives them."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from reidlab.checks import check_whole
from reidlab.data.records import Record, fingerprint
from reidlab.data.transforms import to_image_tensor
from reidlab.errors import DataError
from reidlab.files import check_writable, parse_json, sweep, unfinished
from reidlab.progress import size_text

FORMAT = "reidlab pixels 2"  # 1 held images as they lie in their files, whatever their orientation tags
_PAGE = 4096  # bytes; header, marks and pixels each begin on a page of their own
_HELD = 1 << 32  # set in the mark of an image that is there; the lower 32 bits are its checksum


class PixelStore:
    """The images of a list of records at one size, each read at its first use and kept as uint8.

    In memory, the store is shared by processes made by fork, such as a DataLoader's workers, and takes memory as images
    come in. Pickled, as for workers made by spawn, it becomes an empty store of the worker's own.

    With `file`, the images outlive the process, and independent processes of one machine, such as those of torchrun,
    may fill and use one store at once. The file has its full size from the beginning, so a disk that fills up later
    does no harm. An image counts as kept when its checksum is there, which is written after its pixels: a killed
    process leaves whole images and gaps, and an image that a crash of the machine damaged is read again.

    Args:
        records: whose images, at least one.
        height, width: size to keep them at, in pixels.
        file: where to keep them; None for memory. The file is made if it is missing.

    Raises:
        ValueError: no records, or a side below 1.
        DataError: the file is none of this class, is cut short, or holds other records (by `fingerprint`) or another
            size.
        OSError: too little free space, for the file or in memory, or a folder that cannot be written.

    Example:
        >>> class Black:
        ...     def load(self, name):
        ...         return np.zeros((160, 60, 3), np.uint8)
        >>> store = PixelStore([Record("a", 5, 1, Black()), Record("b", 7, 1, Black())], 128, 64)
        >>> store.images([1, 1]).shape, store.filled, len(store)
        (torch.Size([2, 3, 128, 64]), 1, 2)
    """

    def __init__(
        self, records: Sequence[Record], height: int, width: int, file: str | os.PathLike[str] | None = None
    ) -> None:
        if not len(records):
            raise ValueError("records is empty: there is nothing to keep")
        check_whole(1, height=height, width=width)
        self.records, self.height, self.width = records, height, width
        self.file = None if file is None else Path(file)
        number = len(records)
        pixels = _PAGE + -(-8 * number // _PAGE) * _PAGE  # where they begin
        memory = self._memory(pixels + number * 3 * height * width)
        self._marks = np.frombuffer(memory, np.uint64, number, offset=_PAGE)
        self._pixels = torch.frombuffer(memory, dtype=torch.uint8, offset=pixels).view(number, 3, height, width)
        self._known = np.zeros(number, bool)  # whose mark this process has looked at

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("records", "height", "width", "file")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def filled(self) -> int:
        """How many images are kept so far, whichever process read them."""
        return int(np.count_nonzero(self._marks))

    @property
    def nbytes(self) -> int:
        """Bytes of all images together, read or not."""
        return self._pixels.nbytes

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return images by their records' indices; those that are not kept yet are read first.

        Args:
            indices: B numbers from 0 to `len(self) - 1`, in any order, repeats allowed.

        Returns:
            uint8 (B, 3, height, width), a copy: `v2.Resize` with antialiasing of what `Record.load` returns.

        Raises:
            ValueError: an index out of that range.
            DataError: an image cannot be read; the message names it. It stays unread, the others are kept.
        """
        index = np.asarray(indices, np.int64).reshape(-1)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise ValueError(f"got an index from {index.min()} to {index.max()}, expected 0 to {len(self) - 1}")
        for i in np.unique(index[~self._known[index]]).tolist():
            place, mark = self._pixels[i], int(self._marks[i])
            if not mark or mark != _mark(place):
                self._marks[i] = 0
                image = to_image_tensor(self.records[i].load())
                place.copy_(v2.functional.resize(image, [self.height, self.width], antialias=True))
                self._marks[i] = _mark(place)
            self._known[i] = True  # whole: this process checks it no more
        return self._pixels.index_select(0, torch.from_numpy(index))

    def _memory(self, size: int) -> mmap.mmap:
        if self.file is None:
            try:
                return mmap.mmap(-1, size)  # shared with processes made by fork
            except OSError as error:
                message = f"{size_text(size)} of memory for {len(self)} images: {error.strerror}; keep them in a file"
                raise OSError(error.errno, message) from None
        header = {"format": FORMAT, "images": len(self), "height": self.height, "width": self.width}
        header["fingerprint"] = fingerprint(self.records, looked_at=4)
        check_writable(self.file)
        if not self.file.exists():
            _make_file(self.file, header, size)
        with self.file.open("r+b") as file:
            _check_header(self.file, file.read(_PAGE), header)
            there = os.fstat(file.fileno()).st_size
            if there != size:
                raise DataError(f"{self.file}: got {there} bytes, expected {size}; delete the file, it is made anew")
            return mmap.mmap(file.fileno(), size)


def _mark(pixels: Tensor) -> int:
    return _HELD | zlib.crc32(pixels.numpy())


def _make_file(path: Path, header: dict[str, Any], size: int) -> None:
    """Make an empty store of its full size under another name, then rename it, unless another process was quicker."""
    free = shutil.disk_usage(path.parent).free
    remedy = "free space, choose another folder, or keep the images in memory"
    if free < size:
        raise OSError(errno.ENOSPC, f"{path}: needs {size_text(size)}, free are {size_text(free)}; {remedy}")
    sweep(path.parent, path.name)
    try:
        with unfinished(path) as temporary:
            with temporary.open("r+b") as file:
                _reserve(file.fileno(), size)
                file.write(json.dumps(header).encode().ljust(_PAGE))
            try:
                os.link(temporary, path)  # unlike a rename, it leaves a file alone that others fill already
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{path}: needs {size_text(size)}, the disk is full; {remedy}") from None
        raise


def _reserve(handle: int, size: int) -> None:
    """Take the space now: a disk that is full later would end the process by a signal, without a message."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    zeros = bytes(1 << 20)
    for start in range(0, size, len(zeros)):
        os.write(handle, zeros[: size - start])
    os.lseek(handle, 0, os.SEEK_SET)


def _check_header(path: Path, page: bytes, expected: dict[str, Any]) -> None:
    try:
        found = parse_json(page, str(path))
        known = found["format"] == FORMAT and found.keys() == expected.keys()
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise DataError(f"{path}: not a store of images of this package and version; choose another name for the store")
    if found != expected:
        size, wanted = (f"{h['images']} images of {h['height']}×{h['width']}" for h in (found, expected))
        other = "" if size != wanted else " of other records"
        raise DataError(
            f"{path}: holds {size}{other}, expected {wanted}; choose another name for the store, or delete this one"
        )
