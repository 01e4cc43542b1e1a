"""Before a long run: what would end it hours later is looked for first."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from reidlab.data.folders import JUNK
from reidlab.data.records import Record, Splits
from reidlab.errors import DataError
from reidlab.progress import duration_text, progress, size_text
from reidlab.ranks import Ranks
from reidlab.training.config import TrainConfig
from reidlab.training.plan import Plan, plan

LOOKED_AT = 64
"""Images of each part of the data that are opened, besides the first and the last of each camera."""


def preflight(
    config: TrainConfig,
    data: Splits,
    run: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    workers: int = 0,
    ranks: Ranks = Ranks(),
    cache: str | os.PathLike[str] | None = None,
    planned: Plan | None = None,
    every_image: bool = False,
) -> list[str]:
    """Look for what would end a run later: unreadable images, nothing to search for, memory, NaN, a full disk.

    Args:
        config, data, device, workers, ranks, cache: as for `train`.
        run: the folder that the run will be written to; it need not exist. None if nothing will be written.
        planned: a `Plan` of the same arguments with a trial, in place of one that is made here with two steps.
        every_image: open all images, in place of some of each camera.

    Returns:
        What was found to be in order, a few lines.

    Raises:
        DataError: images that cannot be read; the message counts them and names the first.
        ValueError: no query has a right image in the gallery, or what `train` would refuse at its beginning.
        OSError: too little free space or memory; the message says how much is needed and how much there is.
        FloatingPointError: NaN or infinity in a trial step.

    Taught in: notebooks/06_training.ipynb
    """
    parts = (data.train, data.query, data.gallery)
    opened = _open_some(parts, every_image)
    lines = [f"images: {opened:,} of {sum(map(len, parts)):,} opened, all can be used", _check_search(data)]
    if planned is None or planned.trial is None:
        planned = plan(config, data, device, workers, ranks, cache, steps=1)
    trial = planned.trial
    lines.append(
        f"step: {trial.steps + 1} on weights that were thrown away, loss {trial.loss:.3f} ({trial.terms} terms, all "
        f"finite), {duration_text(trial.seconds)} each"
    )
    return [*lines, *_check_disk(planned, run, cache)]


def _open_some(parts: Sequence[Sequence[Record]], every_image: bool) -> int:
    chosen: list[Record] = []
    for records in parts:
        places = set(range(len(records))) if every_image else set(_some(records))
        chosen += [records[place] for place in sorted(places)]
    wrong = []
    for record in progress(chosen, "opening images", unit="image"):
        try:
            record.load()
        except (DataError, OSError) as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(f"{len(wrong)} of {len(chosen)} images that were opened cannot be used; the first: {wrong[0]}")
    return len(chosen)


def _some(records: Sequence[Record]) -> Iterator[int]:
    """Yield places of records: evenly spread, and the first and the last of each camera."""
    yield from np.linspace(0, len(records) - 1, min(len(records), LOOKED_AT)).round().astype(int).tolist()
    for order in (range(len(records)), reversed(range(len(records)))):
        yield from {records[place].camid: place for place in order}.values()


def _check_search(data: Splits) -> str:
    """Count queries with a right image under another camera, as evaluation does."""
    cameras: dict[int, set[int]] = {}
    for record in data.gallery:
        cameras.setdefault(record.pid, set()).add(record.camid)
    right = sum(r.pid != JUNK and bool(cameras.get(r.pid, set()) - {r.camid}) for r in data.query)
    if not right:
        raise ValueError(
            f"none of {len(data.query)} queries has an image of the same person from another camera among the "
            f"{len(data.gallery)} gallery images, so the run could not be scored; check query and gallery"
        )
    return f"search: {right:,} of {len(data.query):,} queries have a right image from another camera"


def _check_disk(planned: Plan, run: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None) -> list[str]:
    """Compare what will be written with what is free, on each disk that is written to."""
    needs: dict[Path, int] = {}
    if run is not None:
        folder = Path(run)
        there = sum(file.stat().st_size for file in (folder / "last.pt", folder / "best.pt") if file.exists())
        temporary = max(planned.last, planned.best)  # a file is written whole before it takes the old one's place
        needs[folder] = max(temporary, planned.last + planned.best + temporary - there)
    if cache is not None and planned.stored and not Path(cache).exists():
        needs[Path(cache).parent] = needs.get(Path(cache).parent, 0) + planned.stored
    disks: dict[int, list[Path]] = {}
    for folder in needs:
        disks.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    lines = []
    for folders in disks.values():
        free, need = shutil.disk_usage(_existing(folders[0])).free, sum(needs[folder] for folder in folders)
        where = " and ".join(map(str, folders))
        if free < need:
            text = f"{where}: the run needs {size_text(need)} of disk space, free are {size_text(free)}"
            raise OSError(errno.ENOSPC, f"{text}; free space or choose another folder")
        lines.append(f"disk: {size_text(need)} needed in {where}, {size_text(free)} free")
    return lines


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
