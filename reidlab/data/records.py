"""One record type for every data set: which image, which person, which camera."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reidlab.checks import image_problem
from reidlab.data.listing import list_images
from reidlab.errors import DataError, a_few

MAX_PIXELS = 89_478_485
"""Pixels of the largest image that is read, as in Pillow: more is a mistake, or made to fill the memory."""
PARTS = ("train", "query", "gallery")
_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels, expected an image of one person; save it smaller"
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")  # no others: Pillow opens some of them with other programs


class ImageSource(Protocol):
    """Where images come from: anything that turns a relative name into pixels and can be pickled."""

    def load(self, name: str) -> np.ndarray:
        """Return the image called `name` as uint8 (H, W, 3), RGB."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Images in a folder, found by their path relative to it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (4, 8), "white").save(folder / "0001_c1s1_000001_00.png")
        >>> FolderSource(folder).load("0001_c1s1_000001_00.png").shape
        (8, 4, 3)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    root: Path

    def load(self, name: str) -> np.ndarray:
        """Read one image as uint8 (H, W, 3), RGB, upright: turned as its orientation tag (EXIF) says.

        What the bytes are decides how they are read, not the name's ending. Links are followed.

        Raises:
            FileNotFoundError: there is no such file under `root`.
            DataError: the name leads out of `root`; or the file is not an image, is cut short, is not 8 bits deep, is
                not RGB, has transparency, more than one frame or more than `MAX_PIXELS`.
        """
        if leads_out(name):
            raise DataError(f"{name}: leads out of the data folder {self.root}; image names must stay inside it")
        path = self.root / name
        try:
            with Image.open(path, formats=_FORMATS) as image:
                problem = _problem(image)
                if problem:
                    raise DataError(f"{path}: got {problem}")
                ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(image)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such image; is {self.root} the folder that holds it?") from None
        except DataError:
            raise
        except Image.DecompressionBombError:
            raise DataError(f"{path}: got {_TOO_LARGE}") from None
        except MemoryError:
            raise DataError(f"{path}: more pixels than memory can hold; save it smaller") from None
        except Exception as error:  # on damaged files Pillow raises nearly anything
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                what = f"none of {', '.join(_FORMATS)}" if path.stat().st_size else "0 bytes"
            text = f"{path}: cannot be read as an image ({what}); copy the file again, or save it anew"
            raise DataError(text) from None


def _problem(image: Image.Image) -> str | None:
    """Say why an opened image cannot be used, before its pixels are read."""
    convert = 'convert a copy, for example with PIL: ImageOps.exif_transpose(Image.open(p)).convert("RGB").save(new)'
    scale = "scale its values to 0 … 255 first (16 bits: divide by 256), then save it as RGB in a new file"
    if image.width * image.height > MAX_PIXELS:
        return _TOO_LARGE
    if image.mode != "RGB":
        remedy = scale if image.mode[0] in "IF" else convert
        return f"an image of mode {image.mode}, expected 8-bit RGB; {remedy}"
    if any(";16" in str(tile[3]) for tile in image.tile):
        return f"an image of 16 bits per channel, expected 8-bit RGB; {scale}"
    if "transparency" in image.info:
        return f"an image with a transparent colour, expected plain RGB; {convert}"
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its preview
    if frames > 1:
        return f"{frames} frames in one file, expected one image; save each frame to a file of its own"
    return None


@dataclass(frozen=True)
class Record:
    """One image of one person seen by one camera.

    Args:
        image: the image's name relative to its source, with forward slashes on every system.
        pid: the identity number, as in the data set's own files; -1 for junk, 0 for distractors (Market-1501).
        camid: the camera's number, as in the data set's own files; for CUHK03 the view, 1 or 2.
        source: what turns `image` into pixels; left out of comparisons and of the printed form.

    Example:
        >>> Record("images_labeled/1_001_1_01.png", pid=1, camid=1, source=FolderSource(Path(".")))
        Record(image='images_labeled/1_001_1_01.png', pid=1, camid=1)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    image: str
    pid: int
    camid: int
    source: ImageSource = field(repr=False, compare=False)

    def load(self) -> np.ndarray:
        """Return the pixels as uint8 (H, W, 3), RGB.

        Raises:
            DataError: the source gave something else, or cannot read the image.
        """
        image = self.source.load(self.image)
        if problem := image_problem(image):
            raise DataError(f"{self.image}: {problem}")
        return image


def relative_name(path: str | os.PathLike[str]) -> str:
    r"""Write a relative path with forward slashes, whichever system or file it comes from.

    Example:
        >>> relative_name("images_labeled\\1_001_1_01.png")
        'images_labeled/1_001_1_01.png'
    """
    return os.fspath(path).replace("\\", "/")


def leads_out(name: str) -> bool:
    """Return whether a name leads out of the folder that it is relative to; links inside the folder do not count.

    Example:
        >>> [leads_out(name) for name in ("7/1_a.png", "../1_a.png", "/1_a.png", "C:/1_a.png")]
        [False, True, True, True]
    """
    name = relative_name(name)
    return name.startswith("/") or re.match(r"[A-Za-z]:", name) is not None or ".." in name.split("/")


def fingerprint(records: Sequence[Record], looked_at: int = 64) -> str:
    """Return 16 hexadecimal digits by which a list of records is recognised, wherever the data lies.

    They depend on names, identities and cameras of all images, and on the pixels of `looked_at` of them: every data set
    in CUHK03's format has the same names.

    Raises:
        DataError: one of the few images cannot be read.

    Example:
        >>> class Grey:
        ...     def __init__(self, value):
        ...         self.value = value
        ...     def load(self, name):
        ...         return np.full((160, 60, 3), self.value, np.uint8)
        >>> dark, light = ([Record("a", 5, 1, Grey(value))] for value in (10, 200))
        >>> fingerprint(dark) == fingerprint(light)
        False
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.image, record.pid, record.camid]).encode())
    for index in np.unique(np.linspace(0, len(records) - 1, looked_at).round().astype(int)).tolist():
        image = np.ascontiguousarray(records[index].load())
        digest.update(f"{image.shape}".encode() + image.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Splits:
    """Every data set: records to train on, queries, and the gallery to search.

    Args:
        name: the data set, as printed beside every score.
        box: "labeled" (drawn by hand), "detected" (found by a detector), or "as given" for other data.
        protocol: which images play which part, for example "new" or "classic (split 0)".
        train: records of the training identities.
        query: records to search with.
        gallery: records to search in.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    name: str
    box: str
    protocol: str
    train: Sequence[Record] = field(repr=False)
    query: Sequence[Record] = field(repr=False)
    gallery: Sequence[Record] = field(repr=False)

    @property
    def title(self) -> str:
        """Data set, box type and protocol, which every score made on this data is printed with."""
        return f"{self.name}, {self.box} boxes, {self.protocol} protocol"

    def __str__(self) -> str:
        lines = [self.title, "part      identities  images  cameras"]
        for part in PARTS:
            records = getattr(self, part)
            pids, camids = {r.pid for r in records}, {r.camid for r in records}
            lines.append(f"{part:<8}  {len(pids):>10}  {len(records):>6}  {len(camids):>7}")
        return "\n".join(lines)


def read_part(source: FolderSource, part: str, pattern: re.Pattern[str], expected: str) -> list[Record]:
    """Read the images of one folder, with identity and camera as the first two groups of a pattern of their names.

    Raises:
        DataError: names do not fit, or the folder holds folders or links to nowhere.
    """
    matches = {name: pattern.fullmatch(name) for name in list_images(source.root / part)}
    bad = [name for name, match in matches.items() if not match]
    if bad:
        raise DataError(
            f"{source.root / part}: {len(bad)} names do not parse: {a_few(bad)}; expected {expected}; rename or remove "
            "them"
        )
    return [Record(f"{part}/{name}", int(match[1]), int(match[2]), source) for name, match in matches.items()]


def refuse_shared(root: Path, train: Sequence[Record], query: Sequence[Record], gallery: Sequence[Record]) -> None:
    """Raise a DataError if people are in training and in test; the message counts them."""
    both = sorted({record.pid for record in train} & {record.pid for record in (*query, *gallery)})
    if both:
        raise DataError(
            f"{root}: {len(both)} identities are in training and in test: {a_few(both)}; scores would be of people "
            "that the network was trained on: take them out of one, or renumber if they are different people"
        )
