"""One shot: a walker in a street, seen by a camera, with masks and both boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reidlab.data.names import BOXES
from reidlab.walkers.body import PART_NUMBERS, Pose, Solids, body_solids
from reidlab.walkers.camera import Camera
from reidlab.walkers.props import Sprite, draw_figure, sprites
from reidlab.walkers.raster import placed
from reidlab.walkers.scene import CENTER, scene_picture
from reidlab.walkers.sensor import develop, resample
from reidlab.walkers.wardrobe import Person

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ShotPlan:
    """Everything about a shot that is sampled at random; none of it depends on what the walker wears.

    Args:
        pose: phase, heading and place of the walker.
        light: brightness of the sun, 1.0 = the camera's usual.
        motion: strength of motion blur, 1.0 = usual.
        behind: passers-by behind, (number of the sprite, native pixels sideways) each.
        front: things in front, (kind, number, native pixels sideways) each.
        tone: gains (r, g, b) of the hour and the weather on top of the camera's own.
        margin: pixels that the labeled box leaves free, (left, top, right, bottom).
        detector: errors of the detected box in units of its height, (x, y, log height, log aspect).
        noise: seed of the sensor noise.
    """

    pose: Pose
    light: float
    motion: float
    behind: tuple[tuple[int, float], ...]
    front: tuple[tuple[str, int, float], ...]
    tone: tuple[float, float, float]
    margin: tuple[int, int, int, int]
    detector: tuple[float, float, float, float]
    noise: int


@dataclass(frozen=True)
class Shot:
    """A rendered shot, a little larger than its boxes.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W), numbers of `PARTS`.
        labeled, detected: boxes in pixels of `image`: (left, top, right, bottom), right and bottom exclusive.
        occluded: share of the walker hidden by something in front, 0..1.
        origin: (x, y) of the image's corner in the scene, native pixels.
    """

    image: np.ndarray
    mask: np.ndarray
    labeled: Box
    detected: Box
    occluded: float
    origin: tuple[int, int]

    def crop(self, box: str = "labeled") -> tuple[np.ndarray, np.ndarray]:
        """Image and mask inside one box, as contiguous arrays."""
        left, top, right, bottom = self.labeled if box == "labeled" else self.detected
        window = (slice(top, bottom), slice(left, right))
        return np.ascontiguousarray(self.image[window]), np.ascontiguousarray(self.mask[window])


def plan_shot(camera: Camera, track: np.random.Generator, rng: np.random.Generator, index: int) -> ShotPlan:
    """Decide pose, light, neighbours and box errors of one shot.

    Args:
        camera: which camera; index: number of the shot, 0..4.
        track: generator of what the shots of one walker at one camera share; give a fresh one of the same seed.
        rng: generator of this shot alone.
    """
    heading = camera.heading + track.normal(0, camera.spread) + (math.pi if track.random() < camera.against else 0.0)
    x, y = track.uniform(-1.3, 1.3), camera.distance + track.uniform(-0.9, 0.9)
    phase, pace, light = track.random(), track.uniform(0.12, 0.3), float(np.exp(track.normal(0, 0.12)))
    tone = np.exp(track.normal(0, 0.17) + track.normal(0, 0.06, 3))
    step = 0.3 * (index - 2)
    pose = Pose(
        phase=float((phase + pace * index + rng.normal(0, 0.03)) % 1.0),
        heading=float((heading + rng.normal(0, 0.07)) % (2 * math.pi)),
        x=float(x + step * math.sin(heading) + rng.normal(0, 0.04)),
        y=float(y + 0.5 * step * math.cos(heading) + rng.normal(0, 0.04)),
    )
    behind = tuple((int(rng.integers(4)), float(rng.normal(0, 55))) for _ in range(rng.binomial(2, camera.crowd)))
    front = ()
    if rng.random() < camera.occlusion:
        kind, number, near = ("front", 2, 44) if rng.random() < 0.35 else ("things", 4, 26)
        front = ((kind, int(rng.integers(number)), float(rng.choice((-1, 1)) * rng.uniform(near, 62))),)
    margin = tuple(int(m) for m in rng.integers(1, 4, 4))
    errors = rng.normal(0, 1, 4) * (0.035, 0.03, 0.07, 0.08) + (0, 0, 0.05, 0.04)
    if rng.random() < 0.12:  # a detector that lost the feet or the head
        errors[2] -= 0.22
        errors[1] += float(rng.choice((-0.09, 0.07)))
    light, motion = float(light * np.exp(rng.normal(0, 0.03))), float(rng.uniform(0.4, 1.6))
    tone, errors = tuple(float(t) for t in tone), tuple(float(e) for e in errors)
    return ShotPlan(pose, light, motion, behind, front, tone, margin, errors, int(rng.integers(1 << 31)))


def _boxes(figure: Sprite, plan: ShotPlan, scale: float) -> tuple[Box, Box]:
    """Labeled and detected box, output pixels from the optical axis."""
    rows, columns = np.flatnonzero(figure.parts.any(1)), np.flatnonzero(figure.parts.any(0))
    m = [max(1, round(v * scale)) for v in plan.margin]
    left, top = figure.x + int(columns[0]) - m[0], figure.y + int(rows[0]) - m[1]
    right, bottom = figure.x + int(columns[-1]) + 1 + m[2], figure.y + int(rows[-1]) + 1 + m[3]
    height, width = bottom - top, right - left
    dx, dy, grow, aspect = plan.detector
    half_h = 0.5 * height * math.exp(grow)
    # Detectors draw boxes of nearly one shape, so theirs is between the walker's and 0.41.
    half_w = 0.5 * math.sqrt(width * 0.41 * height) * math.exp(grow + aspect)
    cx, cy = 0.5 * (left + right) + dx * height, 0.5 * (top + bottom) + dy * height
    detected = (round(cx - half_w), round(cy - half_h), round(cx + half_w), round(cy + half_h))
    return (left, top, right, bottom), detected


def render_shot(person: Person, camera: Camera, plan: ShotPlan, scale: float = 1.0, boxes=BOXES) -> Shot:
    """Draw one shot at `scale` output pixels per native pixel; the named boxes lie inside the image."""
    solids = body_solids(person, plan.pose.phase)
    figure = draw_figure(solids, person, plan.pose, camera, scale, plan.light)
    labeled, detected = _boxes(figure, plan, scale)
    held = [box for name, box in zip(BOXES, (labeled, detected), strict=True) if name in boxes]
    left, top = (min(box[i] for box in held) - 4 for i in (0, 1))
    right, bottom = (max(box[i] for box in held) + 4 for i in (2, 3))
    shape = (bottom - top, right - left)
    light = resample(scene_picture(camera), left / scale + CENTER[0], top / scale + CENTER[1], 1 / scale, shape)
    light *= _daylight(camera, plan.light)
    point = camera.to_camera(np.array([[plan.pose.x, plan.pose.y, 0.9]]))[0]
    middle = float(camera.focal * point[0] / point[2])  # of the walker, native pixels right of the optical axis
    for number, offset in plan.behind:
        away = offset + (30 if offset >= 0 else -30)
        _paste(light, sprites(camera)["behind"][number], away + middle, (left, top), scale)
    light *= _shadow(solids, camera, plan, (left, top), shape, scale)
    mask = np.zeros(shape, np.uint8)
    _paste_figure(light, mask, figure, (left, top))
    covered = np.zeros(shape, bool)
    for kind, number, offset in plan.front:
        covered |= _paste(light, sprites(camera)[kind][number], offset + middle, (left, top), scale) > 0.5
    occluded = float(np.count_nonzero(covered & (mask > 0))) / max(int(np.count_nonzero(mask)), 1)
    mask[covered] = PART_NUMBERS["occluder"]
    image = develop(light, camera, np.random.default_rng(plan.noise), scale, plan.motion, plan.tone)
    move = lambda box: (box[0] - left, box[1] - top, box[2] - left, box[3] - top)  # noqa: E731
    return Shot(image, mask, move(labeled), move(detected), occluded, (round(left / scale), round(top / scale)))


def _daylight(camera: Camera, light: float) -> np.ndarray:
    """How much brighter the street is when the sun is `light` times as strong as usual, (3, 1, 1)."""
    sun, sky = 0.6 * np.array(camera.sun_color), np.array(camera.sky_color)
    return ((sun * light + sky) / (sun + sky)).astype(np.float32)[:, None, None]


def _paste_figure(light: np.ndarray, mask: np.ndarray, figure: Sprite, origin: tuple[int, int]) -> None:
    """Lay the walker over the picture; the region is large enough to hold all but soft edges."""
    x, y = figure.x - origin[0], figure.y - origin[1]
    h, w = figure.parts.shape
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(light.shape[2], x + w), min(light.shape[1], y + h)
    _cover(light[:, y0:y1, x0:x1], figure.light[:, y0 - y : y1 - y, x0 - x : x1 - x])
    mask[y0:y1, x0:x1] = figure.parts[y0 - y : y1 - y, x0 - x : x1 - x]


def _cover(window: np.ndarray, part: np.ndarray) -> None:
    window *= 1 - part[3]
    window += part[:3]


def _paste(light: np.ndarray, sprite: Sprite, offset: float, origin: tuple[int, int], scale: float) -> np.ndarray:
    """Lay a native-scale sprite over the picture, moved sideways; returns its coverage (H, W)."""
    x0, y0 = origin[0] / scale - sprite.x - offset, origin[1] / scale - sprite.y
    covered = np.zeros(light.shape[1:], np.float32)
    h, w = sprite.parts.shape
    # Only the columns and rows that the sprite reaches.
    left, right = max(0, math.ceil(-x0 * scale)), min(light.shape[2], math.floor((w - x0) * scale))
    top, bottom = max(0, math.ceil(-y0 * scale)), min(light.shape[1], math.floor((h - y0) * scale))
    if left >= right or top >= bottom:
        return covered
    part = resample(sprite.light, x0 + left / scale, y0 + top / scale, 1 / scale, (bottom - top, right - left))
    _cover(light[:, top:bottom, left:right], part)
    covered[top:bottom, left:right] = part[3]
    return covered


def _shadow(solids: Solids, camera: Camera, plan: ShotPlan, origin, shape: tuple[int, int], scale: float) -> np.ndarray:
    """How much light the ground keeps behind the walker's shadow, (1, H, W), drawn at a quarter of the size."""
    step = 4
    h, w = -(-shape[0] // step), -(-shape[1] // step)
    big = np.flatnonzero(solids.radii[:, 0] > 0.05)
    dark = np.zeros((h, w), np.float32)
    sun = np.array(camera.sun)
    strength = camera.sun_color[1] * plan.light
    share = strength * sun[2] / (strength * sun[2] + camera.sky_color[1])
    gx = (np.arange(w, dtype=np.float32) + 0.5) * step + origin[0]
    gy = (np.arange(h, dtype=np.float32) + 0.5) * step + origin[1]

    def on_screen(world: np.ndarray) -> np.ndarray:
        seen = camera.to_camera(world)
        return camera.focal * scale * seen[:, :2] / seen[:, 2:]

    ends = []
    for points in (solids.start[big], solids.end[big]):
        world = placed(points, plan.pose)
        ends.append(on_screen(world - sun * (world[:, 2:] / sun[2])))
    flat = camera.focal * scale / camera.distance
    for a, b, radius in zip(*ends, solids.radii[big, 0], strict=True):
        _smear(dark, gx, gy, a, b, radius * flat, camera.pitch)
    shade = 1 - np.float32(0.9 * share) * dark
    contact = np.zeros_like(dark)
    feet = np.flatnonzero((solids.part == PART_NUMBERS["shoes"]) & (solids.cap == 1))
    for i in {bool(solids.start[i, 0] > 0): i for i in feet}.values():  # whatever the light, none gets under a foot
        middle = 0.5 * (solids.start[i] + solids.end[i]) * (1, 1, 0)
        spot = on_screen(placed(middle[None], plan.pose))[0]
        _smear(contact, gx, gy, spot, spot, 0.14 * flat, camera.pitch)
    shade *= 1 - np.float32(0.5) * contact
    return resample(shade[None], 0, 0, 1 / step, shape)


def _smear(dark: np.ndarray, gx, gy, a, b, radius: float, pitch: float) -> None:
    """Darken around the segment a to b, softly; circles on the ground look flat from a low camera."""
    squash = 1 / max(0.25, math.sin(pitch))
    reach = 1.3 * radius
    cols = np.searchsorted(gx, (min(a[0], b[0]) - reach, max(a[0], b[0]) + reach))
    rows = np.searchsorted(gy, (min(a[1], b[1]) - reach / squash, max(a[1], b[1]) + reach / squash))
    x, y = (gx[slice(*cols)] - a[0])[None, :], ((gy[slice(*rows)] - a[1]) * squash)[:, None]
    if not x.size or not y.size:
        return
    ux, uy = b[0] - a[0], (b[1] - a[1]) * squash
    t = np.clip((x * ux + y * uy) * (1 / max(ux * ux + uy * uy, 1e-6)), 0, 1)
    dark_part = np.clip(1.25 - np.sqrt((x - t * ux) ** 2 + (y - t * uy) ** 2) / radius, 0, 1)
    window = dark[slice(*rows), slice(*cols)]
    np.maximum(window, dark_part, out=window)
