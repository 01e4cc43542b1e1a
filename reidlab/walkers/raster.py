"""Draw rounded cones as impostors into a buffer of depth, normals and cloth coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reidlab.walkers.body import Pose, Solids
from reidlab.walkers.camera import Camera


@dataclass(frozen=True)
class Projected:
    """Solids seen by a camera, in pixels; one row per solid.

    Args:
        p0, p1: (n, 2) ends on the screen; z0, z1: (n,) their depths in metres.
        r0, r1: (n,) apparent half-widths at the ends; cap: (n,) bulge of the ends.
        e1, e2: (n, 2) the solid's (sideways, forward) unit vectors that point right across the axis and to the viewer.
        d1, d2: (n,) metres nearer per unit of e1 and e2.
        axis, side, front: (n, 3) the solid's own axes in world coordinates.
        solids: what was projected.
    """

    p0: np.ndarray
    p1: np.ndarray
    z0: np.ndarray
    z1: np.ndarray
    r0: np.ndarray
    r1: np.ndarray
    cap: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    d1: np.ndarray
    d2: np.ndarray
    axis: np.ndarray
    side: np.ndarray
    front: np.ndarray
    solids: Solids

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of all silhouettes, in pixels."""
        r, p = np.stack([self.r0, self.r1])[..., None], np.stack([self.p0, self.p1])
        return (*(float(v) for v in (p - r).min((0, 1))), *(float(v) for v in (p + r).max((0, 1))))


def _normalize(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.sqrt((v * v).sum(axis=-1, keepdims=True)), 1e-9)


def turned(v: np.ndarray, pose: Pose) -> np.ndarray:
    """Directions (n, 3) of the body's frame (left, forward, up) in world coordinates."""
    s, c = math.sin(pose.heading), math.cos(pose.heading)
    matrix = np.array([[-c, s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return v[:, :1] * matrix[:, 0] + v[:, 1:2] * matrix[:, 1] + v[:, 2:] * matrix[:, 2]


def placed(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Points (n, 3) of the body's frame in world coordinates."""
    return turned(points, pose) + np.array([pose.x, pose.y, 0.0])


def project(solids: Solids, pose: Pose, camera: Camera, scale: float = 1.0) -> Projected:
    """Place solids in the world and project them; (0, 0) is the optical axis, `scale` pixels per native pixel."""
    w0, w1 = placed(solids.start, pose), placed(solids.end, pose)
    axis, side = _normalize(w1 - w0 + 1e-7), turned(solids.frame, pose)
    side = _normalize(side - (side * axis).sum(1, keepdims=True) * axis)
    front = np.cross(axis, side)
    forward = turned(np.array([[0.0, 1.0, 0.0]]), pose)
    front *= np.where((front * forward).sum(1, keepdims=True) < 0, -1.0, 1.0)
    c0, c1 = camera.to_camera(w0), camera.to_camera(w1)
    f = camera.focal * scale
    p0, p1 = f * c0[:, :2] / c0[:, 2:], f * c1[:, :2] / c1[:, 2:]
    along = p1 - p0
    length = np.sqrt((along * along).sum(1, keepdims=True))
    along = np.where(length > 1e-3, along / np.maximum(length, 1e-3), (0.0, 1.0))
    axes = camera.axes()
    across = -along[:, 1:] * axes[0] + along[:, :1] * axes[1]
    view = _normalize(np.array([0.0, 0.0, camera.height]) - 0.5 * (w0 + w1))
    s = np.stack([(across * side).sum(1), (across * front).sum(1)], 1)
    v = np.stack([(view * side).sum(1), (view * front).sum(1)], 1)
    half0, half1 = s * solids.radii[:, :2], s * solids.radii[:, 2:]
    r0, r1 = np.sqrt((half0**2).sum(1)), np.sqrt((half1**2).sum(1))
    mean = 0.5 * (solids.radii[:, :2] + solids.radii[:, 2:])
    e1 = _normalize(s * mean)
    e2 = np.stack([-e1[:, 1], e1[:, 0]], 1)
    e2 *= np.where((e2 * mean * v).sum(1, keepdims=True) < 0, -1.0, 1.0)
    d1, d2 = (e1 * mean * v).sum(1), (e2 * mean * v).sum(1)
    k0, k1 = f / c0[:, 2], f / c1[:, 2]
    ends = (p0, p1, c0[:, 2], c1[:, 2], r0 * k0, r1 * k1, solids.cap)
    return Projected(*ends, e1, e2, d1, d2, axis, side, front, solids)


@dataclass(frozen=True)
class Surface:
    """What is seen at each covered pixel, as flat arrays over the `index` of covered pixels.

    Args:
        shape: (H, W) of the buffer; index: (N,) flat positions of covered pixels.
        solid: (N,) which solid; across: (N,) -1..1 over its width; facing: (N,) 0..1 towards the viewer.
        along: (N,) 0..1 over its length; bulge: (N,) -1..1 over the ends; depth: (N,) metres.
    """

    shape: tuple[int, int]
    index: np.ndarray
    solid: np.ndarray
    across: np.ndarray
    facing: np.ndarray
    along: np.ndarray
    bulge: np.ndarray
    depth: np.ndarray


def rasterize(p: Projected, origin: tuple[float, float], shape: tuple[int, int]) -> Surface:
    """Find the nearest solid at every pixel of a buffer (H, W) whose top-left corner is at `origin` on the screen."""
    height, width = shape
    depth = np.full(shape, 1e9, np.float32)
    solid = np.full(shape, -1, np.int16)
    table = _screen_table(p, origin)
    reach0, reach1 = (r * np.maximum(1.0, p.cap) + 0.5 for r in (p.r0, p.r1))
    x0, y0 = table[0], table[1]
    x1, y1 = x0 + table[2] * table[4], y0 + table[3] * table[4]
    left = np.clip(np.minimum(x0 - reach0, x1 - reach1), 0, width).astype(int)
    right = np.clip(np.maximum(x0 + reach0, x1 + reach1) + 1, 0, width).astype(int)
    top = np.clip(np.minimum(y0 - reach0, y1 - reach1), 0, height).astype(int)
    bottom = np.clip(np.maximum(y0 + reach0, y1 + reach1) + 1, 0, height).astype(int)
    columns, rows = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
    near = np.stack([p.z0, p.z1 - p.z0, p.d2, p.d1]).astype(np.float32)
    for i in range(len(x0)):
        if left[i] < right[i] and top[i] < bottom[i]:
            window = (slice(top[i], bottom[i]), slice(left[i], right[i]))
            _draw(i, table[:, i], near[:, i], columns[window[1]], rows[window[0]], depth[window], solid[window])
    index = np.flatnonzero(solid.ravel() >= 0)
    which = solid.ravel()[index]
    y, x = np.divmod(index, width)
    across, along, over = _place(table[:, which], columns[x], rows[y])
    facing = np.sqrt(np.maximum(0, 1 - across * across - over * over))
    return Surface(shape, index, which, across, facing, along, over, depth.ravel()[index])


def _screen_table(p: Projected, origin: tuple[float, float]) -> np.ndarray:
    """Per solid: x, y of the start, direction x, y, length, radius, its growth, 1 / cap: (8, n) float32."""
    x0, y0 = p.p0[:, 0] - origin[0], p.p0[:, 1] - origin[1]
    dx, dy = (p.p1 - p.p0).T
    length = np.hypot(dx, dy)
    flat = length < 1e-3
    length = np.where(flat, 1e-3, length)
    ex, ey = np.where(flat, 0.0, dx / length), np.where(flat, 1.0, dy / length)
    r0, r1 = np.maximum(p.r0, 0.3), np.maximum(p.r1, 0.3)
    return np.stack([x0, y0, ex, ey, length, r0, r1 - r0, 1 / p.cap]).astype(np.float32)


def _place(row: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where (x, y) lie on solids: across -1..1, along 0..1, beyond the ends -1..1."""
    x0, y0, ex, ey, length, r0, growth, cap = row
    gx, gy = x - x0, y - y0
    along = gx * ex + gy * ey
    across = gy * ex - gx * ey
    core = np.minimum(np.maximum(along, 0), length)
    along -= core
    core /= length
    inverse = 1 / (core * growth + r0)
    across *= inverse
    inverse *= cap
    along *= inverse
    return across, core, along


def _draw(i: int, row: np.ndarray, near: np.ndarray, x, y, depth: np.ndarray, solid: np.ndarray) -> None:
    """Draw solid `i` into windows of the buffers."""
    across, along, over = _place(row, x[None, :], y[:, None])
    over *= over
    over += across * across
    seen = over < 1
    facing = np.sqrt(np.maximum(1 - over, 0))
    z0, dz, forward, sideways = near
    along *= dz
    along += z0
    facing *= forward
    along -= facing
    across *= sideways
    along -= across
    seen &= along < depth
    np.copyto(depth, along, where=seen)
    np.copyto(solid, np.int16(i), where=seen)
