"""Write the images of `cuhk-03.mat` as PNG files, for code bases that need folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from reidlab.checks import check_choice, check_whole
from reidlab.data.layout import MAT_NAME, MAT_SOURCE, find_layout, looked_in, mat_places
from reidlab.data.matsource import MatSource
from reidlab.data.names import BOXES, name_of_cell
from reidlab.errors import DataError
from reidlab.files import alone
from reidlab.progress import progress

_log = logging.getLogger(__name__)
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # how every finished PNG file ends
_PARTIAL = ".partial"


def export_png(
    data_root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    box: str | Sequence[str] = BOXES,
    jobs: int = 2,
) -> Path:
    """Write `images_labeled/` and `images_detected/` as the public code bases unpack them.

    Every file appears whole or not at all, and finished files are kept: after Ctrl-C, a kill or a full disk the next
    run continues and ends in the same files.

    Args:
        data_root: the folder with `cuhk-03.mat`, laid out in any way that `CUHK03` reads.
        out: the folder to write into; made if it is missing. It may be `data_root` itself.
        box: one box type or several; both by default.
        jobs: files written at the same time, at least 1.

    Returns:
        `out`.

    Raises:
        ValueError: an unknown box type or a number of jobs below 1.
        FileNotFoundError: there is no `cuhk-03.mat`.
        DataError: the `.mat` is damaged, or an image folder is a link that leads out of `out`.
        OSError: `out` cannot be written, another process exports into it, or the disk is full.

    Example:
        >>> import tempfile
        >>> from reidlab.data.matfile import write_cuhk03_mat
        >>> root = Path(tempfile.mkdtemp())
        >>> cell = ("labeled", 1, 1, 0, np.zeros((160, 60, 3), np.uint8))
        >>> _ = write_cuhk03_mat(root / "cuhk-03.mat", [1], [cell], [])
        >>> [path.name for path in (export_png(root, root, box="labeled") / "images_labeled").iterdir()]
        ['1_001_1_01.png']

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    boxes = (box,) if isinstance(box, str) else tuple(box)
    if not boxes:
        raise ValueError(f"got box={box!r}, expected one or several of {', '.join(BOXES)}")
    for one in boxes:
        check_choice("box", one, BOXES)
    check_whole(1, jobs=jobs)
    layout = find_layout(data_root, boxes[0])
    if layout.mat is None:
        where = looked_in(layout.root, mat_places(layout.root))
        raise FileNotFoundError(f"{layout.root}: missing {MAT_NAME} ({where}; to be had {MAT_SOURCE})")
    out = Path(out).expanduser()
    source = MatSource(layout.mat)
    try:
        for one in boxes:
            _export_box(source, one, _make_folder(out, f"images_{one}"), jobs)
    finally:
        source.close()
    return out


def _make_folder(out: Path, name: str) -> Path:
    folder = out / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"{folder}: cannot be made or written ({error.strerror or error}); choose another folder"
        raise type(error)(text) from None
    if not folder.resolve().is_relative_to(out.resolve()):
        raise DataError(f"{folder}: is a link that leads out of {out}; remove it, or choose another folder")
    return folder


def _export_box(source: MatSource, box: str, folder: Path, jobs: int) -> None:
    names = [
        name_of_cell(pair, identity + 1, index)
        for pair, held in enumerate(source.present(box), 1)
        for identity, index in np.argwhere(held).tolist()
    ]
    todo = [name for name in names if not _finished(folder / name)]
    _log.info("%s: %d images, %d already there", folder, len(names), len(names) - len(todo))
    if not todo:
        return

    def write(name: str) -> None:
        _write_png(folder / name, source.load(f"{box}/{name}"))

    with alone(folder / ".lock", "writing images into this folder"):
        for left in folder.glob(f".*{_PARTIAL}"):  # left by a run that was killed
            left.unlink()
        pool = ThreadPoolExecutor(jobs)  # threads: compression runs outside Python's lock
        try:
            for _ in progress(pool.map(write, todo), f"writing {folder.name}", total=len(todo), unit="image"):
                pass
        except OSError as error:
            raise type(error)(
                f"{folder}: cannot be written ({error.strerror or error}); make room, or choose another folder; "
                "finished files stay and the next run continues"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(path: Path) -> bool:
    """Return whether a PNG file is complete, by its last bytes: cheap, and enough after a crash or a power cut."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def _write_png(path: Path, image: np.ndarray) -> None:
    # Not `atomic_path`, which sweeps the folder for each of 28,000 files; and what a kill leaves must not end in .png.
    temporary = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        # Level 1: on photographs a tenth larger than the usual level 6, and several times as fast.
        Image.fromarray(image).save(temporary, format="png", compress_level=1)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
