"""What a `.mat` file really is, by its first bytes, before any library reads it."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Literal

import h5py

from reidlab.errors import DataError

Version = Literal["7.3", "5"]

HEADER_DATE = "Created on: Sat Jan  1 00:00:00 2000"
"""The date in the files we write: a fixed one, since the same input has to give the same bytes."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_EXPECTED = {
    "7.3": "the images, MATLAB 7.3 (HDF5), cuhk-03.mat of cuhk03_release",
    "5": "a new-protocol file, MATLAB 5, cuhk03_new_protocol_config_labeled.mat or ..._detected.mat",
}
_ARCHIVES = {b"PK\x03\x04": "ZIP", b"\x1f\x8b": "gzip", b"Rar!": "RAR", b"7z\xbc\xaf": "7z", b"BZh": "bzip2"}
_COPY_AGAIN = "copy or download it again"
H5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
"""What h5py raises on damaged bytes, as far as thousands of damaged files have shown."""


def describe_problem(path: str | os.PathLike[str], version: Version) -> str | None:
    """Say what is wrong with a `.mat` file as a whole, or None.

    Only the first kilobytes are read. The loader and `reidlab.data.check` both call this: one fault has one wording.

    Args:
        path: the file.
        version: what it should be: "7.3" for `cuhk-03.mat`, "5" for a new-protocol file.

    Returns:
        One line beginning with the path: what was got, what was expected, what to do.

    Raises:
        OSError: there is no such file, or it cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cuhk-03.mat"
        >>> _ = path.write_bytes(b"")
        >>> describe_problem(path, "7.3").rpartition("/")[2]
        'cuhk-03.mat: is empty (0 bytes); copy or download it again'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    path = Path(path)
    if path.is_dir():
        return f"{path}: is a folder; expected a file: {_EXPECTED[version]}"
    with path.open("rb") as file:
        start = file.read(4096)
    if _version(path, start) != version:
        return f"{path}: {_wrong_kind(path, start, version)}"
    got, whole = path.stat().st_size, (_size_mat5 if version == "5" else _size_hdf5)(path)
    if whole is None:
        return f"{path}: truncated: got {got:,} bytes and no HDF5 part behind the header; {_COPY_AGAIN}"
    # MATLAB 5 files give the size of each element only, so what came behind the last one stays unknown.
    of = "of at least" if version == "5" else "of"
    return f"{path}: truncated: got {got:,} {of} {whole:,} bytes; {_COPY_AGAIN}" if got < whole else None


def open_mat73(path: str | os.PathLike[str]) -> h5py.File:
    """Open a MATLAB 7.3 file such as `cuhk-03.mat` for reading; the caller closes it.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is empty, cut short, a web page, of another MATLAB version, or damaged inside.

    Example:
        >>> open_mat73(__file__)
        Traceback (most recent call last):
        reidlab.errors.DataError: ...matheader.py: is a text file that begins ...

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    try:
        problem = describe_problem(path, "7.3")
        if problem:
            raise DataError(problem)
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if "lock" not in str(error):
                raise
            return h5py.File(path, "r", locking=False)  # many network disks refuse locks; nothing is written anyway
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected {_EXPECTED['7.3']}") from None
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give yourself the right to read it") from None
    except DataError:
        raise
    except H5_ERRORS as error:
        raise DataError(f"{path}: damaged inside ({first_line(error)}); {_COPY_AGAIN}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut to 160 characters: those of the libraries are long.

    Example:
        >>> first_line(OSError("broken\\nat line 3"))
        'broken'
    """
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _version(path: Path, start: bytes) -> Version | None:
    if start.startswith(b"MATLAB 5.0 MAT-file") or start[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        return "5"
    if start.startswith(b"MATLAB 7.3 MAT-file") or _superblock(path) is not None:
        return "7.3"
    return None


def _superblock(path: Path) -> int | None:
    """Return where the HDF5 part begins: at 0, 512, 1024, 2048, ... as the format allows; None if nowhere."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < min(size, 1 << 24):
            file.seek(place)
            if file.read(8) == HDF5_SIGNATURE:
                return place
            place = 2 * place or 512
    return None


def _wrong_kind(path: Path, start: bytes, version: Version) -> str:
    expected = f"expected {_EXPECTED[version]}"
    found = _version(path, start)
    if found == "5":
        return f"is a MATLAB 5 file, perhaps a new-protocol file under a wrong name; {expected}"
    if found == "7.3":
        return f"is a MATLAB 7.3 (HDF5) file, perhaps cuhk-03.mat under a wrong name; {expected}"
    if not start:
        return f"is empty (0 bytes); {_COPY_AGAIN}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"<(!doctype\s+html|html|head|\?xml)", text, re.IGNORECASE) or b"<html" in text.lower():
        says = "a file of unknown type"  # what people search for: scipy reads two letters of the page as a version
        if 0 not in start[:4] and len(start) >= 128:
            first = int(start[126] == ord("I"))
            says = f"'Unknown mat file type, version {start[124 + first]}, {start[125 - first]}'"
        remedy = "download the file itself, on GitHub by the button 'Download raw file'"
        return f"is a web page saved as .mat (scipy says of it: {says}); {remedy}"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, a note of where the file is; run `git lfs pull`, or download the file itself"
    for magic, name in _ARCHIVES.items():
        if start.startswith(magic):
            return f"is a {name} archive; unpack it and use the .mat inside"
    if len(start) > 20 and start[0] % 100 < 53 and not any(start[1:4]) and any(start[4:20]):
        return f"is perhaps a MATLAB 4 file; save its variables with -v{'7.3' if version == '7.3' else '7'}; {expected}"
    if not any(start):
        return f"begins with {len(start)} zero bytes, as a download that was broken off; {_COPY_AGAIN}"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        return f"is a text file that begins {start[:40].decode('latin-1')!r}; {expected}"
    return f"is neither HDF5 nor a MATLAB 5 file (begins with the bytes {start[:8].hex(' ')}); {expected}"


def _size_hdf5(path: Path) -> int | None:
    """Return the size that an HDF5 file says it has: the end-of-file address in its superblock."""
    place = _superblock(path)
    if place is None:
        return None
    with path.open("rb") as file:
        file.seek(place)
        block = file.read(96).ljust(96, b"\xff")
    width = block[13] if block[8] < 2 else block[9]  # bytes per address
    first = {0: 24, 1: 28}.get(block[8], 12)  # where the four addresses begin, by superblock version
    if width not in (2, 4, 8):
        return None
    base, _, end = (int.from_bytes(block[first + i * width : first + (i + 1) * width], "little") for i in range(3))
    return end + place - base  # the addresses count from base, which is where the superblock is


def _size_mat5(path: Path) -> int:
    """Return the size that a MATLAB 5 file says it has, by following its elements from tag to tag."""
    place, size = 128, path.stat().st_size
    with path.open("rb") as file:
        file.seek(126)
        order = ">" if file.read(2) == b"MI" else "<"
        while place < size:
            file.seek(place)
            tag = file.read(8)
            if len(tag) < 8:
                return place + 8
            place += 8 + struct.unpack(order + "II", tag)[1]
    return place
