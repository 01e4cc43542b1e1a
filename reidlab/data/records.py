"""One record type for every data set: which image, which person, which camera."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from reidlab.errors import DataError


class ImageSource(Protocol):
    """Where images come from: anything that turns a relative name into pixels and can be pickled."""

    def load(self, name: str) -> np.ndarray:
        """Return the image called `name` as uint8 (H, W, 3), RGB."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Images in a folder, found by their path relative to it.

    Args:
        root: the folder. Only this one place knows it, so a moved folder loads after giving the new root.

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
        """Read one image as uint8 (H, W, 3), RGB.

        Raises:
            FileNotFoundError: there is no such file under `root`.
            DataError: the file is not an image, is cut short, is not 8 bits deep, or is not RGB.
        """
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{name}: leads out of the data folder {self.root}; image names must stay inside it")
        try:
            with Image.open(path) as image:
                if image.mode != "RGB":
                    deep = image.mode[0] in "IF"
                    remedy = (
                        "scale its values to 0 … 255 first (16 bits: divide by 256), then save it as RGB in a new file"
                        if deep
                        else 'convert a copy, for example with PIL: Image.open(p).convert("RGB").save(new)'
                    )
                    raise DataError(f"{path}: got an image of mode {image.mode}, expected 8-bit RGB; {remedy}")
                return np.asarray(image)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such image; is {self.root} the folder that holds it?") from None
        except DataError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
            raise DataError(f"{path}: cannot be read as an image ({error}); copy the file again") from None


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
        """Return the pixels as uint8 (H, W, 3), RGB."""
        return self.source.load(self.image)


def relative_name(path: str | os.PathLike[str]) -> str:
    r"""Write a relative path with forward slashes, whichever system or file it comes from.

    Example:
        >>> relative_name("images_labeled\\1_001_1_01.png")
        'images_labeled/1_001_1_01.png'
    """
    return os.fspath(path).replace("\\", "/")


def fingerprint(records: Sequence[Record], looked_at: int = 64) -> str:
    """Return a number by which a list of records is recognised.

    It sums up names, identities and cameras of all images, and the pixels of some. Names alone would not
    do: every data set in CUHK03's format has the same ones. Where the data lies does not count.

    Args:
        records: in their order, at least one.
        looked_at: images whose pixels count.

    Returns:
        16 hexadecimal digits.

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
    """What every data set offers: records to train on, queries, and the gallery to search.

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
        """What every score made on this data is printed with: data set, box type, protocol."""
        return f"{self.name}, {self.box} boxes, {self.protocol} protocol"

    def __str__(self) -> str:
        lines = [self.title, "part      identities  images  cameras"]
        for part in ("train", "query", "gallery"):
            records = getattr(self, part)
            pids, camids = {r.pid for r in records}, {r.camid for r in records}
            lines.append(f"{part:<8}  {len(pids):>10}  {len(records):>6}  {len(camids):>7}")
        return "\n".join(lines)
