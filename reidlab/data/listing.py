"""What a folder of images holds, less what operating systems and notebooks leave in it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from reidlab.errors import DataError, a_few

IMAGE_SUFFIX = r"\.(?:jpe?g|png|bmp|webp|tiff?)"
"""How names of images end, as a regular expression to be used without regard to case."""
PART_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
"""Folders of the training images, queries and gallery of Market-1501 and CUHK03-NP."""
_IS_IMAGE = re.compile(rf".*{IMAGE_SUFFIX}", re.ASCII | re.IGNORECASE)
# ._NAME is macOS's AppleDouble of NAME; Market-1501's own archive holds a Thumbs.db.
_SYSTEM_FILE = re.compile(r"(?:eh)?thumbs(?:_vista)?\.db|desktop\.ini|icon\r|\._.*|.*:zone\.identifier", re.IGNORECASE)
_SYSTEM_FOLDER = re.compile(
    r"\.ipynb_checkpoints|__macosx|@eadir|lost\+found|\$recycle\.bin|system volume information|__pycache__"
    r"|\.(?:git|dvc|cache|thumbnails|trash(?:es|-\d+)?|spotlight-v100|fseventsd|idea|vscode)",
    re.IGNORECASE,
)


def is_image_name(name: str) -> bool:
    """Tell whether a file name ends as those of images do.

    Example:
        >>> is_image_name("1_a.JPG"), is_image_name("labels.csv")
        (True, False)
    """
    return _IS_IMAGE.fullmatch(name) is not None


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """List the files and the folders in a folder, both sorted; links count as what they point to, nothing is opened.

    Left out are known system files (`Thumbs.db`, `._0001.jpg`), system folders (`.ipynb_checkpoints`, `__MACOSX`) and
    hidden files that are not named as images are.

    Raises:
        DataError: a link points nowhere, or an entry is neither a file nor a folder.
    """
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                kind = 0 if entry.is_file() else 1 if entry.is_dir() else 2
            except OSError:  # links in a circle
                kind = 2
            system = _SYSTEM_FOLDER if kind == 1 else _SYSTEM_FILE
            hidden = kind != 1 and entry.name.startswith(".") and not is_image_name(entry.name)
            if not hidden and not system.fullmatch(entry.name):
                found[kind].append(entry.name)
    files, folders, other = map(sorted, found)
    if other:
        raise DataError(
            f"{folder}: {len(other)} names are links that point nowhere, or no files: {a_few(other)}; bring back what "
            "the links point to, or remove them"
        )
    return files, folders


def list_images(folder: Path) -> list[str]:
    """List the files in a folder that must not hold further folders, as `list_folder` does.

    Raises:
        DataError: as for `list_folder`, or there are folders inside.
    """
    files, folders = list_folder(folder)
    if folders:
        raise DataError(
            f"{folder}: holds {len(folders)} folders: {a_few(folders)}; images in them would not be read: move the "
            f"images up into {folder.name}/ and remove the folders"
        )
    return files


def folder_name(folder: str | os.PathLike[str]) -> str:
    """Return the name of a folder as its user knows it; that of a link, not of what it points to.

    Example:
        >>> folder_name("data/cuhk03/../mine/.")
        'mine'
    """
    return Path(os.path.normpath(Path(folder).absolute())).name


def existing(root: str | os.PathLike[str]) -> Path:
    """Return the path of a folder that is there; FileNotFoundError if it is not, or is a file."""
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {what}; give the folder that holds the data")
    return root
