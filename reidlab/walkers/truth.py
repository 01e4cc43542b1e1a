"""The side file `walkers.h5`: masks, attributes, cameras, poses and boxes of every picture."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from reidlab.data.matheader import H5_ERRORS, first_line
from reidlab.data.names import BOXES, image_name
from reidlab.errors import DataError
from reidlab.files import parse_json
from reidlab.walkers.solids import PARTS

if TYPE_CHECKING:
    from reidlab.walkers.world import World

FILE_NAME = "walkers.h5"
_SHOT = np.dtype(
    [
        ("name", "S16"),
        ("pid", "<i4"),
        ("pair", "u1"),
        ("identity", "<i4"),
        ("view", "u1"),
        ("camera", "u1"),
        ("index", "u1"),
        ("phase", "<f4"),
        ("heading", "<f4"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("light", "<f4"),
        ("occluded", "<f4"),
        ("labeled_box", "<i4", (4,)),
        ("detected_box", "<i4", (4,)),
        ("has_labeled", "?"),
        ("has_detected", "?"),
    ]
)


class TruthWriter:
    """Fills a `walkers.h5`, shot by shot."""

    def __init__(self, file: h5py.File, world: World) -> None:
        self.file, self.world, self.rows = file, world, []
        file.attrs["legend"] = json.dumps(PARTS)
        for group in ("mask/labeled", "mask/detected"):
            file.create_group(group)
        file["people"] = json.dumps([person.as_dict() | {"description": person.describe()} for person in world.people])
        file["cameras"] = json.dumps([camera.as_dict() for camera in world.cameras])

    def add(self, shot: dict) -> None:
        """Take one result of `writer.render_task`."""
        person = self.world.people[shot["person"]]
        view = shot["camera"] % 2 + 1
        name = image_name(person.pair, person.identity, view, 5 * (view - 1) + shot["index"] + 1)
        plan, facts, pose = shot["plan"], shot["shot"], shot["plan"].pose
        for box, (_, shape, packed) in shot["crops"].items():
            # The worker has compressed the one chunk already.
            mask = self.file.create_dataset(f"mask/{box}/{name}", shape, "u1", chunks=shape, compression="gzip")
            mask.id.write_direct_chunk((0, 0), packed)
        dx, dy = facts["origin"]
        boxes = [tuple(v + d for v, d in zip(facts[b], (dx, dy, dx, dy), strict=True)) for b in ("labeled", "detected")]
        row = (name, person.pid, person.pair, person.identity, view, shot["camera"], shot["index"])
        row += (pose.phase, pose.heading, pose.x, pose.y, plan.light, facts["occluded"], *boxes)
        self.rows.append((*row, "labeled" in shot["crops"], "detected" in shot["crops"]))

    def close(self) -> None:
        """Write the table of shots, in the order of their names."""
        table = np.array([(row[0].encode(), *row[1:]) for row in self.rows], _SHOT)
        self.file["shots"] = table[np.lexsort((table["index"], table["view"], table["pid"]))]


@dataclass(frozen=True)
class ShotTruth:
    """What is known about one picture.

    Args:
        name: file name, as in the protocol files.
        pid, pair, identity, view, camera, index: who and where; camera 0..9, index 0..4.
        phase, heading, x, y, light: pose (see `Pose`) and brightness of the sun.
        occluded: share of the walker hidden by something in front, 0..1.
        box: left, top, right, bottom in native pixels from the optical axis.
    """

    name: str
    pid: int
    pair: int
    identity: int
    view: int
    camera: int
    index: int
    phase: float
    heading: float
    x: float
    y: float
    light: float
    occluded: float
    box: tuple[int, int, int, int]


class Truth:
    """Reads `walkers.h5`; opens it once per process, so it can be pickled and sent to workers.

    Args:
        root: a folder that `World.write` wrote.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.path = Path(root) / FILE_NAME
        self._file: h5py.File | None = None
        self._owner = -1
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; only worlds have it: World.preset('small').write(...)")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None, "_owner": -1, "_tables": None}

    _tables: tuple | None = None

    def _open(self) -> h5py.File:
        if self._file is None or self._owner != os.getpid():
            try:
                self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
                file = self._file
                shots = file["shots"][()]
                rows = {name.decode(): i for i, name in enumerate(shots["name"])}
                people, cameras = (parse_json(file[name][()], name) for name in ("people", "cameras"))
                legend = {int(k): v for k, v in parse_json(file.attrs["legend"], "legend").items()}
                if shots.dtype != _SHOT or not isinstance(people, list) or not isinstance(cameras, list):
                    raise ValueError("shots, people or cameras are of another form")
                self._tables = (shots, rows, people, cameras, legend)
            except (*H5_ERRORS, AttributeError) as error:
                self._file = None
                raise self._damaged(error) from None
        return self._file

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be read as a world's side file ({first_line(error)}); write it again")

    @property
    def legend(self) -> dict[int, str]:
        """What the numbers in a mask mean."""
        self._open()
        return self._tables[4]

    @property
    def names(self) -> list[str]:
        """Names of all shots; not each exists in both boxes."""
        self._open()
        return list(self._tables[1])

    @property
    def people(self) -> list[dict]:
        """Attributes of everybody, in label order."""
        self._open()
        return self._tables[2]

    @property
    def cameras(self) -> list[dict]:
        """The ten cameras."""
        self._open()
        return self._tables[3]

    def mask(self, name: str, box: str) -> np.ndarray:
        """Label map uint8 (H, W) of one picture, the size of the picture.

        Args:
            name: file name, with or without a folder in front.
            box: "labeled" or "detected".

        Raises:
            ValueError: no such box, or no such picture in it.
        """
        file, name = self._open(), _base(name)
        if box not in BOXES:
            raise ValueError(f'got box={box!r}, expected "labeled" or "detected"')
        try:
            masks = file["mask"][box]
            found = masks[name][()] if name in masks else None
        except H5_ERRORS as error:
            raise self._damaged(error) from None
        if found is None:
            raise ValueError(f"got the name {name!r}: {self.path} has no {box} picture of that name")
        return found

    def attributes(self, pid: int) -> dict:
        """What the person with this identity number looks like.

        Raises:
            ValueError: no such identity.
        """
        if not 1 <= pid <= len(self.people):
            raise ValueError(f"got pid={pid!r}, expected 1..{len(self.people)}")
        return dict(self.people[pid - 1])

    def shot(self, name: str, box: str) -> ShotTruth:
        """Pose, camera and box of one picture.

        Raises:
            ValueError: no such box, or no such picture in it.
        """
        self._open()
        shots, rows, *_ = self._tables
        name = _base(name)
        if box not in BOXES:
            raise ValueError(f'got box={box!r}, expected "labeled" or "detected"')
        if name not in rows or not shots[rows[name]][f"has_{box}"]:
            raise ValueError(f"got the name {name!r}: {self.path} has no {box} picture of that name")
        row = shots[rows[name]]
        values = {f: row[f].item() for f in _SHOT.names[1:13]}
        return ShotTruth(name=name, **values, box=tuple(int(v) for v in row[f"{box}_box"]))


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def read_truth(root: str | os.PathLike[str]) -> Truth:
    """Open the truth that travels with a world.

    Args:
        root: a folder that `World.write` wrote.

    Returns:
        An object with `mask(name, box)`, `attributes(pid)`, `shot(name, box)`, `legend`, `people`, `cameras`.

    Raises:
        FileNotFoundError: no `walkers.h5` there, for example because this is the real CUHK03.
    """
    return Truth(root)
