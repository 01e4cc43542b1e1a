"""What the drawing processes of test_walkers_streets.py do; they import this file and no test library."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from reidlab.walkers import streets

PEOPLE_PER_SITE, SHOTS = 2, 2
"""A site small enough to be drawn in a second or two."""
_draw = streets._draw_site


def small_site(key: tuple[int, int], site: int) -> np.ndarray:
    """Draw a site of that size, in whichever process."""
    streets.PEOPLE_PER_SITE, streets.SHOTS = PEOPLE_PER_SITE, SHOTS
    return _draw(key, site)


def flat_site(key: tuple[int, int], site: int) -> np.ndarray:
    """Stand in for a site: all of it one grey, of seed and site."""
    shape = (streets.PEOPLE_PER_SITE, streets.CAMERAS, streets.SHOTS, *streets.SIZE, 3)
    return np.full(shape, 10 * key[1] + site, np.uint8)


def first_is_slow(folder: str, task: int) -> int:
    """Leave a file, then return the task, the first one late."""
    (Path(folder) / str(task)).touch()
    time.sleep(0.5 if task == 0 else 0)
    return task


def refuse(key: str, task: int) -> int:
    raise KeyError(f"{key} {task}")


def die(key: str, task: int) -> int:
    os._exit(3)
