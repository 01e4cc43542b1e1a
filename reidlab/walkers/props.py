"""Passers-by, poles and bicycles: drawn once per camera as sprites, pasted where a shot needs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from reidlab.walkers.body import Pose, Solids, SolidsBuilder, body_solids
from reidlab.walkers.camera import Camera
from reidlab.walkers.raster import project, rasterize
from reidlab.walkers.shade import shade
from reidlab.walkers.wardrobe import Person, sample_person

BEHIND, FRONT = 4, 2  # passers-by per camera


@dataclass(frozen=True)
class Sprite:
    """A figure cut out: premultiplied linear light and coverage.

    Args:
        light: (4, h, w) float32, colour times coverage, coverage; a border of nothing all around.
        x, y: left and top, native pixels from the optical axis.
        parts: (h, w) uint8 label map, 0 where nothing is.
    """

    light: np.ndarray
    x: int
    y: int
    parts: np.ndarray


def draw_figure(solids: Solids, person: Person, pose: Pose, camera: Camera, scale: float, light: float) -> Sprite:
    """Draw one walker or thing, anti-aliased, as a sprite; its `x` and `y` are in output pixels.

    Args:
        solids, pose, camera: what to draw, in its own frame; where it stands; who sees it.
        person: whose colours the materials take.
        scale: output pixels per native pixel.
        light: brightness of the sun, 1.0 = usual.
    """
    fine = project(solids, pose, camera, 2 * scale)
    left, top, right, bottom = fine.bounds()
    x, y = math.floor(left / 2) - 2, math.floor(top / 2) - 2
    width, height = math.ceil(right / 2) + 2 - x, math.ceil(bottom / 2) + 2 - y
    seen = rasterize(fine, (2 * x, 2 * y), (2 * height, 2 * width))
    color = shade(fine, seen, person, camera, light)
    parts = np.zeros(4 * height * width, np.uint8)
    parts[seen.index] = solids.part[seen.solid]
    parts = parts.reshape(2 * height, 2 * width)
    drawn = np.zeros((4, 4 * height * width), np.float32)
    drawn[:3, seen.index] = color
    drawn[3, seen.index] = 1
    drawn = drawn.reshape(4, 2 * height, 2 * width)
    # Colour and coverage are means over 2 by 2 pixels; they have one label where at least half of them are covered.
    half = drawn[:, 0::2] + drawn[:, 1::2]
    picture = (half[..., 0::2] + half[..., 1::2]) * np.float32(0.25)
    label = np.maximum(parts[0::2], parts[1::2])
    label = np.maximum(label[:, 0::2], label[:, 1::2])
    label[picture[3] < 0.5] = 0
    return Sprite(picture, x, y, label)


def _bicycle() -> Solids:
    """Parked along y, wheels on the ground."""
    b = SolidsBuilder()
    for y in (-0.52, 0.52):
        ring = [(0.0, y + 0.33 * math.cos(a), 0.34 + 0.33 * math.sin(a)) for a in np.arange(17) * math.pi / 8]
        for p, q in pairwise(ring):
            b.add("occluder", "shoe", p, q, 0.017)
        b.add("occluder", "metal", (-0.02, y, 0.34), (0.02, y, 0.34), 0.04)
    rear, front, crank = (0, -0.52, 0.34), (0, 0.52, 0.34), (0, -0.08, 0.3)
    seat, head = (0, -0.2, 0.82), (0, 0.36, 0.84)
    for p, q in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
        b.add("occluder", "bag", p, q, 0.02)
    b.add("occluder", "shoe", (0, -0.3, 0.93), (0, -0.1, 0.94), (0.06, 0.04), (0.03, 0.03))
    b.add("occluder", "metal", (0, 0.36, 0.84), (0, 0.33, 1.02), 0.016)
    b.add("occluder", "metal", (-0.25, 0.3, 1.03), (0.25, 0.3, 1.03), 0.016)
    return b.build()


def _pole() -> Solids:
    b = SolidsBuilder()
    b.add("occluder", "metal", (0, 0, 0.0), (0, 0, 3.2), 0.045, 0.04)
    b.add("occluder", "metal", (0, 0, 0.0), (0, 0, 0.12), 0.09, 0.08, 0.2)
    return b.build()


def _bin() -> Solids:
    b = SolidsBuilder()
    b.add("occluder", "bag", (0, 0, 0.05), (0, 0, 0.75), 0.2, 0.22, 0.15)
    b.add("occluder", "shoe", (0, 0, 0.78), (0, 0, 0.84), 0.24, 0.2, 0.5)
    return b.build()


@lru_cache(maxsize=10)
def sprites(camera: Camera) -> dict[str, tuple[Sprite, ...]]:
    """The camera's stock of passers-by ("behind", "front") and things ("things"), at native scale."""
    rng = np.random.default_rng(np.random.SeedSequence([4242, camera.index]))
    stock: dict[str, list[Sprite]] = {"behind": [], "front": [], "things": []}
    for n in range(BEHIND + FRONT):
        person = sample_person(rng, 0, camera.pair, 0)
        behind = n < BEHIND
        away = rng.uniform(0.6, 1.8) if behind else -rng.uniform(0.5, 0.9)
        pose = Pose(rng.random(), rng.uniform(0, 2 * math.pi), 0.0, camera.distance + away)
        figure = draw_figure(body_solids(person, pose.phase), person, pose, camera, 1.0, 1.0)
        stock["behind" if behind else "front"].append(figure)
    dull = replace(sample_person(rng, 0, camera.pair, 0), shoe_color="black")
    things = (_bicycle(), "red", 1.3), (_bicycle(), "navy", -1.8), (_pole(), "grey", 0.0), (_bin(), "green", 0.0)
    for thing, paint, turn in things:
        pose = Pose(0.0, turn, 0.0, camera.distance - 0.75)
        stock["things"].append(draw_figure(thing, replace(dull, bag_color=paint), pose, camera, 1.0, 1.0))
    return {kind: tuple(figures) for kind, figures in stock.items()}
