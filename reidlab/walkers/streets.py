"""Strangers in any street: walkers in a wider wardrobe before cameras that are drawn at random, by the hundred."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from reidlab.files import atomic_path, sweep, write_json
from reidlab.progress import progress
from reidlab.signals import termination_as_interrupt
from reidlab.walkers.body import Pose
from reidlab.walkers.camera import Camera, Street, colors_of_light, unit_direction
from reidlab.walkers.processes import check_index, check_room, errors_explained, holds, in_order, is_whole
from reidlab.walkers.render import plan_shot, render_shot
from reidlab.walkers.scene import GROUNDS, WALLS
from reidlab.walkers.sensor import resize
from reidlab.walkers.wardrobe import ARMS, Person, sample_stranger

PEOPLE_PER_SITE, CAMERAS, SHOTS = 40, 4, 4
SIZE = (144, 72)  # height and width of stored crops: 128 x 64 with a border for random crops
STREETS_VERSION = 1
"""Raised with every change of the pixels, so that crops on disk are drawn again; a test pins mean colours."""
BORDER = 0.1  # how much larger a stored crop is than the box
_DATASET = "walkers streets"
_ARM_SHARES = (0.6, 0.12, 0.08, 0.08, 0.12)


class Streets:
    """People to train on, before cameras that no other site has.

    A site is four random cameras that see the same 40 strangers, four times each, from any side. `World` is a
    town with ten fixed cameras and is for measuring; `Streets` is for learning what holds in every town.

    Args:
        num_people: a multiple of 40.
        seed: a whole number from 0 on.

    Raises:
        ValueError: another number of people.

    Example:
        >>> streets = Streets(num_people=40, seed=0)
        >>> streets.crop(person=3, camera=1, shot=0).shape
        (144, 72, 3)
    """

    def __init__(self, num_people: int = 6000, seed: int = 0) -> None:
        if not is_whole(num_people, PEOPLE_PER_SITE, math.inf) or num_people % PEOPLE_PER_SITE:
            raise ValueError(f"got num_people={num_people!r}, expected a multiple of {PEOPLE_PER_SITE}")
        if not is_whole(seed, 0, math.inf):
            raise ValueError(f"got seed={seed!r}, expected a whole number from 0 on")
        self.num_people, self.seed = int(num_people), int(seed)

    def __repr__(self) -> str:
        return f"Streets(num_people={self.num_people}, seed={self.seed})"

    @property
    def num_sites(self) -> int:
        """How many sites there are."""
        return self.num_people // PEOPLE_PER_SITE

    def person(self, number: int) -> Person:
        """Stranger `number`, 0..num_people-1."""
        return _person(self.seed, number)

    def camera(self, site: int, number: int) -> Camera:
        """Camera `number`, 0..3, of a site."""
        return _camera(self.seed, site, number)

    def crop(self, person: int, camera: int, shot: int) -> np.ndarray:
        """One stored crop.

        Args:
            person: 0..num_people-1; camera: 0..3; shot: 0..3.

        Returns:
            uint8 (144, 72, 3), RGB, a tenth larger than the box.

        Raises:
            ValueError: no such person, camera or shot.
        """
        check_index("person", person, 0, self.num_people)
        check_index("camera", camera, 0, CAMERAS)
        check_index("shot", shot, 0, SHOTS)
        seen_by = self.camera(person // PEOPLE_PER_SITE, camera)
        return street_crop(self.person(person), seen_by, _rng(self.seed, 3, person, camera, shot))

    @property
    def key(self) -> str:
        """What distinguishes two sets on disk: the parameters and the version of the code that draws them."""
        return f"{self!r}, version {STREETS_VERSION}"

    def write(self, root: str | os.PathLike[str], jobs: int | None = None) -> Path:
        """Write all crops into one array on disk; at once if they are there already.

        Args:
            root: a folder for `crops.npy`, uint8 (people, 4 cameras, 4 shots, 144, 72, 3), and `streets.json`.
            jobs: processes, 1..64; as many as there are cores if None. The file does not depend on it.

        Returns:
            The folder.

        Raises:
            DataError: `root` is a file, or holds something else.
            ValueError: another number of jobs.
            OSError: the folder cannot be written, or the disk is full.
        """
        if jobs is None:
            jobs = min(os.cpu_count() or 1, 64)
        check_index("jobs", jobs, 1, 65, ", or None")
        root, shape = Path(root), (self.num_people, CAMERAS, SHOTS, *SIZE, 3)
        if _is_there(root, self.key, shape):
            return root
        with errors_explained(root, "street set"):
            root.mkdir(parents=True, exist_ok=True)
            sweep(root)
            check_room(root, math.prod(shape))
            with termination_as_interrupt(), atomic_path(root / "crops.npy") as temporary:
                self._fill(temporary, shape, int(jobs))
                (root / "streets.json").unlink(missing_ok=True)  # that of the set which is replaced now
            facts = {"dataset": _DATASET, "people": self.num_people, "people_per_site": PEOPLE_PER_SITE}
            write_json(root / "streets.json", facts | {"seed": self.seed, "key": self.key})
        return root

    def _fill(self, path: Path, shape: tuple[int, ...], jobs: int) -> None:
        crops = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        blocks = in_order(range(self.num_sites), jobs, _draw_site, (self.num_people, self.seed), ahead=2)
        # Closed in any case: Windows does not remove a file that is still mapped.
        with contextlib.closing(crops._mmap), contextlib.closing(blocks):
            for site, block in enumerate(progress(blocks, "drawing streets", self.num_sites, "site")):
                crops[site * PEOPLE_PER_SITE : (site + 1) * PEOPLE_PER_SITE] = block
            crops.flush()


def _is_there(root: Path, key: str, shape: tuple[int, ...]) -> bool:
    """True if `root` is this very set; refuses what is no street set."""
    rests = [path for stem in ("crops", "streets") for path in root.glob(f".{stem}-*.partial.*")]
    if not holds(root, "streets.json", _DATASET, "street set", key, [root / "crops.npy", *rests]):
        return False
    try:
        return np.load(root / "crops.npy", mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, 7919, *key]))


@lru_cache(maxsize=8)
def _camera(seed: int, site: int, number: int) -> Camera:
    return sample_camera(_rng(seed, 2, site, number), site * CAMERAS + number)


@lru_cache(maxsize=2)
def _person(seed: int, number: int) -> Person:
    return sample_stranger(_rng(seed, 1, number), number + 1)


def _random_street(rng: np.random.Generator) -> Street:
    def tint(spread: float) -> tuple[float, float, float]:
        r, g, b = (float(t) for t in np.exp(rng.normal(0, spread) + rng.normal(0, 0.12, 3)))
        return r, g, b

    def ground() -> str:
        return GROUNDS[int(rng.integers(len(GROUNDS)))]

    starts = rng.uniform(-4, 4, int(rng.integers(3)))
    return Street(
        wall=list(WALLS)[int(rng.integers(len(WALLS)))],
        behind=float(rng.uniform(1.8, 9)),
        slant=float(rng.normal(0, 0.2)),
        ground=ground(),
        strips=tuple((float(s), float(s + rng.uniform(0.6, 4)), ground()) for s in starts),
        seed=int(rng.integers(1 << 30)),
        shift=float(rng.uniform(-20, 20)),
        stretch=float(np.exp(rng.normal(0, 0.35))),
        wall_tint=tint(0.35),
        ground_tint=tint(0.25),
    )


def sample_camera(rng: np.random.Generator, index: int) -> Camera:
    """Draw a camera: where it hangs, what street and light it sees, how its sensor spoils the picture.

    Example:
        >>> sample_camera(np.random.default_rng(0), 5).index
        5
    """
    height, strength = float(rng.uniform(1.6, 6.5)), float(rng.choice([0.08, 0.3, 0.7, 1.0, 1.3]))
    sun_color, sky_color = colors_of_light(strength, warmth=float(rng.normal(0.03, 0.06)))
    cast = np.exp(rng.normal(0, 0.09, 3))
    return Camera(
        index=index,
        scene="any street",
        height=height,
        distance=float(max(rng.uniform(5.5, 13), 1.5 * height)),
        pixels=float(rng.uniform(90, 240)),
        heading=0.0,
        spread=3.0,
        against=0.0,
        sun=unit_direction(float(rng.uniform(-180, 180)), float(rng.uniform(28, 75))),
        sun_color=sun_color,
        sky_color=sky_color,
        balance=tuple(float(c) for c in cast / cast.mean()),
        exposure=float(np.exp(rng.normal(0.2, 0.28))),
        gamma=float(np.exp(rng.normal(-0.1, 0.16))),
        saturation=float(rng.uniform(0.65, 1.5)),
        haze=float(max(0.0, rng.normal(0.005, 0.02))),
        defocus=float(rng.uniform(0.2, 1.3)),
        motion=float(rng.uniform(0, 0.8)),
        noise=float(rng.uniform(0.004, 0.025)),
        jpeg=int(rng.integers(45, 95)),
        crowd=0.3,
        occlusion=0.12,
        street=_random_street(rng),
    )


def street_crop(person: Person, camera: Camera, rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """One picture of a walker from any side, cut as a detector would, with a border around: uint8 (*size, 3), RGB.

    Arms and gait are drawn anew for each picture.
    """
    plan = plan_shot(camera, rng, rng, 2)
    room = (round(0.24 * camera.pixels), round(0.13 * camera.pixels)) * 2  # free around the body, native pixels
    pose = Pose(plan.pose.phase, float(rng.uniform(0, 2 * math.pi)), plan.pose.x, plan.pose.y)
    person = replace(
        person,
        arms=ARMS[int(rng.choice(len(ARMS), p=_ARM_SHARES))],
        stride=float(rng.uniform(0.1, 0.52)),
        arm_swing=float(rng.uniform(0.1, 0.6)),
    )
    scale = min(1.5, 0.87 * size[0] / camera.pixels)
    shot = render_shot(person, camera, replace(plan, pose=pose, margin=room), scale, ("labeled",))
    inset = [max(1, round(m * scale)) for m in room]
    left, top, right, bottom = (e + i * s for e, i, s in zip(shot.labeled, inset, (1, 1, -1, -1), strict=True))
    x0, y0, x1, y1 = _cut(rng, left, top, right, bottom)
    rows, columns = shot.image.shape[:2]
    return resize(shot.image[max(0, y0) : min(rows, y1), max(0, x0) : min(columns, x1)], size)


def _cut(rng: np.random.Generator, left: int, top: int, right: int, bottom: int) -> tuple[int, int, int, int]:
    """A detector's box around a body, with its errors, and a border."""
    height, width = float(bottom - top), float(right - left)
    if rng.random() < 0.6:  # boxes of one shape, as most detectors and data sets cut them
        width = height * float(rng.uniform(0.36, 0.5))
    x = 0.5 * (left + right) + rng.normal(0, 0.02) * height
    y = 0.5 * (top + bottom) + rng.normal(0, 0.015) * height
    height *= float(np.exp(rng.normal(0.03, 0.04))) * (1 + BORDER)
    width *= float(np.exp(rng.normal(0.05, 0.06))) * (1 + BORDER)
    return round(x - width / 2), round(y - height / 2), round(x + width / 2), round(y + height / 2)


def _draw_site(key: tuple[int, int], site: int) -> np.ndarray:
    """All crops of one site, camera by camera so that each street is drawn once."""
    streets = Streets(*key)
    people = range(site * PEOPLE_PER_SITE, (site + 1) * PEOPLE_PER_SITE)
    block = np.empty((PEOPLE_PER_SITE, CAMERAS, SHOTS, *SIZE, 3), np.uint8)
    for camera in range(CAMERAS):
        for row, person in enumerate(people):
            for shot in range(SHOTS):
                block[row, camera, shot] = streets.crop(person, camera, shot)
    return block
