"""The street crops of `reidlab.walkers.streets` as a data set to train on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from reidlab.data.records import Record, Splits
from reidlab.errors import DataError
from reidlab.files import read_json
from reidlab.walkers.streets import BORDER

HELD_OUT = 0.04
"""Share of the sites, the last ones, whose people are kept for measuring."""


@dataclass(frozen=True)
class CropSource:
    """Crops in one array on disk, read when they are needed.

    Args:
        root: the folder that `Streets.write` made.
        box: cut away the border that is stored around each box.
    """

    root: Path
    box: bool = False
    mapped: ClassVar[bool] = True  # reading again costs little, so training keeps no copy of them in memory

    @cached_property
    def crops(self) -> np.ndarray:
        """uint8 (people, cameras, shots, height, width, 3), mapped, not read."""
        return np.load(self.root / "crops.npy", mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "box": self.box}  # a worker process maps the file itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def load(self, name: str) -> np.ndarray:
        """Read crop "person/camera/shot" as uint8 (H, W, 3), RGB."""
        person, camera, shot = map(int, name.split("/"))
        crop = self.crops[person, camera, shot]
        if self.box:
            top, left = (round(side * BORDER / (1 + BORDER) / 2) for side in crop.shape[:2])
            crop = crop[top : len(crop) - top, left : crop.shape[1] - left]
        return np.array(crop)


@dataclass(frozen=True, init=False, repr=False)
class StreetCrops(Splits):
    """Strangers in random streets: most to train on, the last sites held out for measuring.

    Training crops come with the border that shifted crops are cut from, the others as the box alone.

    Queries are the first shot of each camera of a held-out person, the gallery all their other shots.

    Args:
        root: the folder that `reidlab.walkers.streets.Streets.write` made.

    Raises:
        FileNotFoundError: no such folder.
        DataError: the folder holds something else, or one site only.
    """

    people: int = field(default=0)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; make it with reidlab.walkers.streets.Streets.write")
        source, per_site = _open(root)
        people, cameras, shots = source.crops.shape[:3]
        held = max(1, round(HELD_OUT * people / per_site)) * per_site
        if held >= people:
            raise DataError(
                f"{root}: holds one site of {people} people; one to train on and one to measure on are needed"
            )

        def records(numbers: range, which: range, source: CropSource) -> list[Record]:
            return [
                # camera numbers are the site's own, so that no two sites share a camera
                Record(f"{p}/{c}/{s}", p + 1, p // per_site * cameras + c, source)
                for p in numbers
                for c in range(cameras)
                for s in which
            ]

        train, last = range(people - held), range(people - held, people)
        boxes = CropSource(root, box=True)
        held_out = (records(last, range(1), boxes), records(last, range(1, shots), boxes))
        parts = (records(train, range(shots), source), *held_out)
        super().__init__("Walkers streets", "drawn", f"last {held} people held out", *parts)
        object.__setattr__(self, "people", people)


def _open(root: Path) -> tuple[CropSource, int]:
    """Map the crops; return them and how many people share a site's cameras."""
    try:
        about = read_json(root / "streets.json")
        people, per_site = (int(about[name]) for name in ("people", "people_per_site"))
        source = CropSource(root)
        shape, dtype = source.crops.shape, source.crops.dtype
        if len(shape) != 6 or shape[0] != people or shape[5] != 3 or dtype != np.uint8 or per_site < 1:
            raise ValueError(f"crops.npy is {dtype} {shape}, streets.json says {people} people")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        lacks = f"streets.json lacks {error}" if isinstance(error, KeyError) else error
        lacks = str(error).rpartition("; ")[0] if isinstance(error, DataError) else lacks  # one remedy is enough
        raise DataError(f"{root}: not a finished street set ({lacks}); delete it and write it again") from None
    return source, per_site
