"""The embedded world: its people, its cameras, single pictures, and the whole on disk."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from reidlab.data.names import BOXES
from reidlab.walkers.body import Pose
from reidlab.walkers.camera import NUM_CAMERAS, Camera, make_cameras
from reidlab.walkers.plan import Plan, make_plan
from reidlab.walkers.processes import check_index, is_whole
from reidlab.walkers.render import Shot, ShotPlan, plan_shot, render_shot
from reidlab.walkers.sensor import resize
from reidlab.walkers.wardrobe import CHOICES, COLOR_FIELDS, PERSON_FIELDS, Person, rgb_of, sample_person

PRESETS = {"tiny": 16, "small": 250, "full": 1467}
WORLD_VERSION = 1
"""Raised with every change of pixels, people, splits or files, so that worlds on disk are drawn again; a test pins
hashes of pixels."""
_CHANGES = tuple(name for name in PERSON_FIELDS if name not in ("pid", "pair", "identity", "shade"))
_CHANGES += ("phase", "heading", "x", "y", "light")
_LIMITS = {"height": (1.2, 2.2), "girth": (0.6, 1.6), "shoulders": (0.6, 1.4), "pattern_scale": (0.01, 1.0)}
_LIMITS |= {"stride": (0.0, 0.8), "arm_swing": (0.0, 1.0), "stoop": (-0.3, 0.5), "light": (0.0, 4.0)}
_LIMITS |= {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}


class World:
    """Procedural walkers before ten cameras, deterministic by seed.

    Args:
        num_identities: number of people, 10..9999; 1467 has CUHK03's own counts.
        seed: a whole number from 0 on; another seed is another town.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> world = World(num_identities=16, seed=0)
        >>> world.render(person=0, camera=1, size=(64, 32)).shape
        (64, 32, 3)

    Taught in: notebooks/00_start_here.ipynb
    """

    def __init__(self, num_identities: int = 250, seed: int = 0) -> None:
        if not is_whole(seed, 0, math.inf):
            raise ValueError(f"got seed={seed!r}, expected a whole number from 0 on")
        self.num_identities, self.seed = int(num_identities), int(seed)
        self.plan: Plan = make_plan(self.num_identities, self.seed)
        self.cameras: tuple[Camera, ...] = make_cameras()

    @classmethod
    def preset(cls, name: str, seed: int = 0) -> World:
        """A world of a named size: "tiny" (16 identities), "small" (250), "full" (1467).

        Raises:
            ValueError: no such size.

        Example:
            >>> World.preset("tiny")
            World(num_identities=16, seed=0)
        """
        if name not in PRESETS:
            raise ValueError(f"got the size {name!r}, expected one of {', '.join(PRESETS)}")
        return cls(PRESETS[name], seed)

    def __repr__(self) -> str:
        return f"World(num_identities={self.num_identities}, seed={self.seed})"

    @cached_property
    def people(self) -> tuple[Person, ...]:
        """Everybody, in label order: `people[i].pid == i + 1`."""
        return tuple(
            sample_person(self._rng(2, i), i + 1, int(self.plan.pair[i]), int(self.plan.identity[i]))
            for i in range(self.num_identities)
        )

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, *key]))

    def shot_plan(self, person: int, camera: int, index: int = 0) -> ShotPlan:
        """Pose, light, neighbours and box errors of a shot; the same however the walker is dressed."""
        return plan_shot(self.cameras[camera], self._rng(3, person, camera), self._rng(4, person, camera, index), index)

    def shot(self, person: int, camera: int, index: int = 0, scale: float = 1.0, **changes) -> Shot:
        """Render one shot with its mask and both boxes.

        Args:
            person: position in `people`, 0..N-1.
            camera: 0..9 = 2 * (pair - 1) + (view - 1); any camera, also one that never saw this person.
            index: which of the shots, 0..4.
            scale: output pixels per native pixel, 0.1..4.
            changes: attributes to change, all else the same: any attribute of a `Person` but its numbers
                (`top_color="red"`, `bag="none"`, `hat="cap"` ...), `phase` 0..1, `heading` in radians
                (0 = away, pi = towards the camera), `x` and `y` metres from the middle of the lane, `light`.

        Raises:
            ValueError: no such person, camera, shot or attribute, or a value out of its range.

        Example:
            >>> world = World(16)
            >>> shot = world.shot(0, 1, scale=0.4, top_color="red")
            >>> shot.mask.shape == shot.image.shape[:2]
            True
        """
        return self._shot(person, camera, index, scale, BOXES, changes)

    def _shot(self, person: int, camera: int, index: int, scale: float, boxes: tuple[str, ...], changes: dict) -> Shot:
        check_index("person", person, 0, self.num_identities)
        check_index("camera", camera, 0, NUM_CAMERAS)
        check_index("index", index, 0, 5)
        if not 0.1 <= scale <= 4:
            raise ValueError(f"got scale={scale!r}, expected 0.1..4")
        check_changes(changes)
        who = replace(self.people[person], **{k: v for k, v in changes.items() if k in PERSON_FIELDS})
        plan = _change_plan(self.shot_plan(int(person), int(camera), int(index)), changes, self.cameras[camera])
        return render_shot(who, self.cameras[camera], plan, float(scale), boxes)

    def render(
        self,
        person: int,
        camera: int,
        index: int = 0,
        size: tuple[int, int] | None = None,
        box: str = "labeled",
        **changes,
    ) -> np.ndarray:
        """One picture of one person, cut to a box; with `changes`, a picture of what was not.

        Args:
            person, camera, index, changes: as in `shot`.
            size: (height, width) in pixels, 16..512 each; the native size if None.
            box: "labeled" or "detected".

        Returns:
            uint8 (H, W, 3), RGB. At native size and without changes the very pixels that `write` stores.

        Raises:
            ValueError: as `shot`, or an unknown box or size.

        Example:
            >>> world = World(16)
            >>> plain, red = (world.render(0, 1, size=(64, 32), **c) for c in ({}, {"top_color": "red"}))
            >>> bool((plain != red).any())
            True
        """
        if box not in BOXES:
            raise ValueError(f'got box={box!r}, expected "labeled" or "detected"')
        if size is None:
            return self.shot(person, camera, index, **changes).crop(box)[0]
        if len(size) != 2 or not all(16 <= s <= 512 for s in size):
            raise ValueError(f"got size={size!r}, expected (height, width) of 16..512 pixels each")
        scale = min(1.0, size[0] / self.cameras[camera].pixels) if 0 <= camera < NUM_CAMERAS else 1.0
        shot = self._shot(person, camera, index, scale, (box,), changes)
        return resize(shot.crop(box)[0], (int(size[0]), int(size[1])))

    @property
    def key(self) -> str:
        """What distinguishes two worlds on disk: the parameters and the version of the code that draws them."""
        return f"{self!r}, version {WORLD_VERSION}"

    def write(self, root: str | os.PathLike[str], jobs: int | None = None) -> Path:
        """Write the world in CUHK03's file formats; at once if it is there already.

        Args:
            root: the folder; it appears, whole, when all is done.
            jobs: processes, 1..64; as many as there are cores if None, 1 = in this process.
                The files do not depend on it.

        Returns:
            The folder, with `cuhk03_release/cuhk-03.mat`, the two protocol files, `walkers.h5` and `world.json`.

        Raises:
            DataError: `root` holds something that is not a world.
            OSError: the folder cannot be written, or the disk is full.

        Taught in: notebooks/01_cuhk03_preparation.ipynb
        """
        from reidlab.walkers.writer import write_world

        return write_world(self, Path(root), jobs)


def _change_plan(plan: ShotPlan, changes: dict, camera: Camera) -> ShotPlan:
    pose = plan.pose
    if set(changes) & {"phase", "heading", "x", "y"}:
        pose = Pose(
            float(changes.get("phase", pose.phase)) % 1.0,
            float(changes.get("heading", pose.heading)) % (2 * math.pi),
            float(changes.get("x", pose.x)),
            float(changes["y"]) + camera.distance if "y" in changes else pose.y,
        )
    return replace(plan, pose=pose, light=float(changes.get("light", plan.light)))


def check_changes(changes: dict) -> None:
    """Refuse unknown attributes and values.

    Raises:
        ValueError: names what is known.

    Example:
        >>> check_changes({"hat": "cap", "top_color": (200, 0, 0)})
    """
    for name, value in changes.items():
        if name not in _CHANGES:
            raise ValueError(f"got the unknown attribute {name!r}, expected one of {', '.join(_CHANGES)}")
        if name in CHOICES:
            if value not in CHOICES[name]:
                raise ValueError(f"got {name}={value!r}, expected one of {', '.join(map(str, CHOICES[name]))}")
        elif name in (*COLOR_FIELDS, "tights"):
            if value is not None or name != "tights":  # no tights are bare legs
                rgb_of(value)
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            raise ValueError(f"got {name}={value!r}, expected a number")
        elif name in _LIMITS and not _LIMITS[name][0] <= value <= _LIMITS[name][1]:
            raise ValueError(f"got {name}={value!r}, expected {_LIMITS[name][0]}..{_LIMITS[name][1]}")
