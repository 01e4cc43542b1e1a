"""The side file `walkers.h5`: masks, attributes, cameras, poses and boxes of every picture."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from reidlab.data.matheader import H5_ERRORS, first_line
from reidlab.data.names import BOXES, image_name
from reidlab.errors import DataError
from reidlab.files import parse_json
from reidlab.walkers.body import PARTS

if TYPE_CHECKING:
    from reidlab.walkers.camera import Camera
    from reidlab.walkers.render import Shot, ShotPlan
    from reidlab.walkers.world import World

FILE_NAME = "walkers.h5"
_WHERE = [("name", "S16"), ("pid", "<i4"), ("pair", "u1"), ("identity", "<i4"), ("view", "u1"), ("camera", "u1")]
_WHERE += [("index", "u1")]
_HOW = [(name, "<f4") for name in ("phase", "heading", "x", "y", "light", "occluded")]
_BOXES = [("labeled_box", "<i4", (4,)), ("detected_box", "<i4", (4,)), ("has_labeled", "?"), ("has_detected", "?")]
_SHOT = np.dtype([*_WHERE, *_HOW, *_BOXES])


class TruthWriter:
    """Fills a `walkers.h5`, shot by shot."""

    def __init__(self, file: h5py.File, world: World) -> None:
        self.file, self.world, self.rows = file, world, []
        file.attrs["legend"] = json.dumps(PARTS)
        for group in ("mask/labeled", "mask/detected"):
            file.create_group(group)
        file["people"] = json.dumps([asdict(person) | {"description": person.describe()} for person in world.people])
        file["cameras"] = json.dumps([_facts(camera) for camera in world.cameras])

    def add(self, person: int, camera: int, index: int, plan: ShotPlan, shot: Shot, crops: dict[str, Any]) -> None:
        """Take one shot.

        Args:
            person: 0..N-1; camera: 0..9; index: 0..4.
            plan, shot: as planned and rendered; the pixels are not needed.
            crops: by box: image, shape of the mask, and the mask's bytes, compressed by zlib.
        """
        who, view, pose = self.world.people[person], camera % 2 + 1, plan.pose
        name = image_name(who.pair, who.identity, view, 5 * (view - 1) + index + 1)
        for box, (_, shape, packed) in crops.items():
            mask = self.file.create_dataset(f"mask/{box}/{name}", shape, "u1", chunks=shape, compression="gzip")
            mask.id.write_direct_chunk((0, 0), packed)  # the worker has compressed the one chunk already
        boxes = [tuple(np.add(box, 2 * shot.origin)) for box in (shot.labeled, shot.detected)]
        row = (name.encode(), who.pid, who.pair, who.identity, view, camera, index)
        row += (pose.phase, pose.heading, pose.x, pose.y, plan.light, shot.occluded, *boxes)
        self.rows.append((*row, *(box in crops for box in BOXES)))

    def close(self) -> None:
        """Write the table of shots, in the order of their names."""
        table = np.array(self.rows, _SHOT)
        self.file["shots"] = table[np.lexsort((table["index"], table["view"], table["pid"]))]


def _facts(camera: Camera) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(camera).items() if name != "street"}
    return facts | {name: getattr(camera, name) for name in ("pair", "view", "pitch", "focal")}


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
    """What is known about the pictures of a world, from `walkers.h5`; can be pickled and sent to workers.

    Args:
        root: a folder that `World.write` wrote.

    Attributes:
        legend: what the numbers in a mask mean.
        names: of all shots; not each exists in both boxes.
        people: attributes of everybody, in label order; cameras: the ten cameras.

    Raises:
        FileNotFoundError: no `walkers.h5` there, for example because this is the real CUHK03.
        DataError: it is damaged.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.path = Path(root) / FILE_NAME
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; only worlds have it: World.preset('small').write(...)")
        try:
            with h5py.File(self.path, "r") as file:
                self._shots = file["shots"][()]
                self.people, self.cameras = (parse_json(file[name][()], name) for name in ("people", "cameras"))
                legend = parse_json(file.attrs["legend"], "legend")
            self.legend = {int(number): name for number, name in legend.items()}
            self.names = [name.decode() for name in self._shots["name"]]
            lists = isinstance(self.people, list) and isinstance(self.cameras, list)
            if self._shots.dtype != _SHOT or not lists:
                raise ValueError("shots, people or cameras are of another form")
        except (*H5_ERRORS, AttributeError) as error:
            raise self._damaged(error) from None
        self._rows = {name: number for number, name in enumerate(self.names)}

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: cannot be read as a world's side file ({first_line(error)}); write it again")

    def _found(self, name: str, box: str) -> tuple[str, np.void]:
        """Return the bare name and the row of a picture that exists."""
        name = name.replace("\\", "/").rsplit("/", 1)[-1]
        if box not in BOXES:
            raise ValueError(f'got box={box!r}, expected "labeled" or "detected"')
        row = self._shots[self._rows[name]] if name in self._rows else None
        if row is None or not row[f"has_{box}"]:
            raise ValueError(f"got the name {name!r}: {self.path} has no {box} picture of that name")
        return name, row

    def mask(self, name: str, box: str) -> np.ndarray:
        """Label map uint8 (H, W) of one picture, the size of the picture.

        Args:
            name: file name, with or without a folder in front.
            box: "labeled" or "detected".

        Raises:
            ValueError: no such box, or no such picture in it.
            DataError: the file is damaged there.
        """
        name, _ = self._found(name, box)
        try:
            with h5py.File(self.path, "r") as file:
                return file["mask"][box][name][()]
        except H5_ERRORS as error:
            raise self._damaged(error) from None

    def attributes(self, pid: int) -> dict:
        """What the person with this identity number looks like.

        Raises:
            ValueError: no such identity.
        """
        if not 1 <= pid <= len(self.people):
            raise ValueError(f"got pid={pid!r}, expected 1..{len(self.people)}")
        return dict(self.people[pid - 1])

    def shot(self, name: str, box: str) -> ShotTruth:
        """Pose, camera and box of one picture; arguments and errors as for `mask`."""
        name, row = self._found(name, box)
        values = {field: row[field].item() for field in _SHOT.names[1:13]}
        return ShotTruth(name=name, **values, box=tuple(int(v) for v in row[f"{box}_box"]))


def read_truth(root: str | os.PathLike[str]) -> Truth:
    """Open the truth that travels with a world; see `Truth`."""
    return Truth(root)
