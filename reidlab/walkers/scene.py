"""The street behind the walkers: one fixed picture per camera, in linear light."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from reidlab.walkers.camera import Camera, Street
from reidlab.walkers.shade import sample_noise

WIDTH, HEIGHT = 900, 640  # native pixels; the optical axis goes through the middle
CENTER = (WIDTH / 2, HEIGHT * 0.5)


def _rgb(*color: float) -> np.ndarray:
    return np.asarray(color, np.float32)


def _noise(a: np.ndarray, b: np.ndarray, scale: float, name: str = "rough") -> np.ndarray:
    return sample_noise(name, a * scale + 4096, b * scale + 4096)


def _lines(a: np.ndarray, period: float, width: float, offset=0.0) -> np.ndarray:
    """True within `width` metres of every multiple of `period`."""
    return np.abs((a / period + offset + 0.5) % 1.0 - 0.5) * period < width / 2


def _paint(base: np.ndarray, where: np.ndarray, color: np.ndarray) -> None:
    base[where] = color if np.ndim(color) == 1 else color[where]


def _flat(shape: tuple[int, ...], color: np.ndarray) -> np.ndarray:
    return np.broadcast_to(color, (*shape, 3)).astype(np.float32).copy()


def _cells(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A fixed random number 0..1 for every pair of whole numbers."""
    h = (a.astype(np.int64) * 73856093) ^ (b.astype(np.int64) * 19349663)
    return (((h ^ (h >> 13)) * 1274126177) % 65521 / 65521).astype(np.float32)


def _slabs(x, y, size_x, size_y, color, joint, stagger=0.0, vary=0.12):
    """Rectangular slabs or bricks with joints."""
    row = np.floor(y / size_y)
    shifted = x + stagger * size_x * (row % 2)
    base = _flat(x.shape, color)
    base *= (1 - vary / 2 + vary * _cells(np.floor(shifted / size_x), row))[..., None]
    width = 0.05 * min(size_x, size_y) + 0.006
    _paint(base, _lines(shifted, size_x, width) | _lines(y, size_y, width), joint)
    return base


def _ground(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Albedo of the ground at (x, y) metres."""
    if kind in ("asphalt", "road"):
        base = _flat(x.shape, _rgb(0.10, 0.10, 0.105))
    elif kind == "paving":
        base = _slabs(x, y, 0.6, 0.6, _rgb(0.36, 0.34, 0.31), _rgb(0.18, 0.17, 0.16))
    elif kind == "red brick":
        base = _slabs(x, y, 0.24, 0.12, _rgb(0.30, 0.15, 0.11), _rgb(0.22, 0.2, 0.18), 0.5, 0.35)
    elif kind == "plates":
        base = _slabs(x, y, 1.5, 1.1, _rgb(0.44, 0.44, 0.44), _rgb(0.2, 0.2, 0.2), 0.5, 0.1)
    elif kind == "granite":
        checker = (np.floor(x / 0.8) + np.floor(y / 0.8)) % 2
        base = _slabs(x, y, 0.8, 0.8, _rgb(0.48, 0.46, 0.44), _rgb(0.3, 0.3, 0.3))
        base *= (1 - 0.35 * checker)[..., None].astype(np.float32)
    elif kind == "grass":
        base = _flat(x.shape, _rgb(0.11, 0.17, 0.045))
        base *= (1 + 0.1 * _noise(x, y, 5, "soft"))[..., None]
    elif kind == "gravel":
        base = _flat(x.shape, _rgb(0.34, 0.29, 0.22))
    elif kind == "leaves":
        base = _leaves(x, y)
    else:
        base = _flat(x.shape, _rgb(0.26, 0.26, 0.25))
    rough = {"grass": 0.3, "gravel": 0.22}.get(kind, 0.09)
    base *= (1 + rough * _noise(x, y, 60) + 0.03 * _noise(x, y, 9))[..., None]
    return np.maximum(base, 0.01)


def _leaves(x, y):
    """Earth and short grass under fallen leaves."""
    base = _flat(x.shape, _rgb(0.2, 0.16, 0.1))
    _paint(base, _noise(x, y, 7, "soft") > 0.1, _rgb(0.12, 0.15, 0.05))
    for k, color in enumerate(((0.4, 0.2, 0.06), (0.5, 0.36, 0.14), (0.22, 0.09, 0.04), (0.55, 0.5, 0.3))):
        u, v = x / 0.11 + 7.3 * k + 0.3 * _noise(x, y, 30), y / 0.15 + 3.1 * k
        spot = (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.12
        _paint(base, spot & (_cells(np.floor(u), np.floor(v)) > 0.72), _rgb(*color))
    return base


def _shop_wall(x, z, rng):
    """A row of shops: dark windows with goods, sign boards, plaster above."""
    base = _flat(x.shape, _rgb(0.42, 0.36, 0.29))
    shop = np.floor((x + 50) / 3.4).astype(np.int64) % 32
    colors = rng.uniform(0.05, 0.55, (32, 3)).astype(np.float32)
    inside = (x + 50) % 3.4
    _paint(base, (z > 2.5) & (z < 3.1), colors[shop])
    letters = (z > 2.65) & (z < 2.95) & (inside > 0.7) & (inside < 2.6) & (_cells(np.floor(x / 0.13), shop) > 0.4)
    _paint(base, letters, _rgb(0.75, 0.72, 0.62))
    window = (z > 0.5) & (z < 2.35) & (inside > 0.2) & (inside < 2.2)
    goods = 0.06 + 0.3 * _cells(np.floor(x / 0.22), np.floor(z / 0.35)) * (z < 1.7)
    _paint(base, window, goods[..., None] * _rgb(1.0, 0.92, 0.75) * (0.6 + colors[shop]))
    _paint(base, (z < 2.35) & (inside > 2.45) & (inside < 3.3), _rgb(0.05, 0.05, 0.06))
    upper = (z > 3.9) & (z < 5.4) & (np.abs((x + 50) % 2.3 - 1.1) < 0.5)
    _paint(base, upper, _rgb(0.08, 0.1, 0.13))
    return base


def _brick_wall(x, z, rng):
    base = _slabs(x, z, 0.26, 0.09, _rgb(0.27, 0.13, 0.09), _rgb(0.32, 0.29, 0.26), 0.5, 0.4)
    _paint(base, z < 0.45, _rgb(0.28, 0.27, 0.26))
    frame = (np.abs((x + 51) % 4.2 - 2.1) < 0.72) & (z > 1.2) & (z < 2.7)
    glass = (np.abs((x + 51) % 4.2 - 2.1) < 0.62) & (z > 1.3) & (z < 2.6)
    _paint(base, frame, _rgb(0.6, 0.59, 0.56))
    _paint(base, glass & ~_lines(x + 51, 0.7, 0.05) & ~_lines(z, 0.65, 0.05), _rgb(0.07, 0.09, 0.11))
    poster = (np.abs(x - 2.4) < 0.45) & (np.abs(z - 1.7) < 0.6)
    _paint(base, poster, _rgb(0.55, 0.42, 0.1))
    return base


def _hedge(x, z, rng):
    base = _flat(x.shape, _rgb(0.045, 0.085, 0.025))
    leaf = 1 + 0.45 * _noise(x, z, 190) + 0.4 * _noise(x, z, 50) + 0.12 * _noise(x, z, 14)
    return base * np.maximum(leaf, 0.15)[..., None]


def _columns(x, z, rng):
    base = _flat(x.shape, _rgb(0.09, 0.095, 0.10))
    _paint(base, _lines(z, 1.4, 0.08) | _lines(x, 1.0, 0.06), _rgb(0.25, 0.25, 0.25))
    phase = (x + 52) % 2.6 / 0.75
    round_ = np.sqrt(np.clip(1 - (2 * phase - 1) ** 2, 0, 1))
    _paint(base, phase < 1, (0.14 + 0.34 * round_)[..., None] * _rgb(1.0, 0.97, 0.92))
    _paint(base, (z > 3.3) & (z < 4.0), _rgb(0.46, 0.45, 0.42))
    return base


def _tiles(x, z, rng):
    base = _slabs(x, z, 0.2, 0.2, _rgb(0.46, 0.47, 0.42), _rgb(0.25, 0.25, 0.23))
    _paint(base, (z > 1.15) & (z < 1.4), _rgb(0.06, 0.2, 0.3))
    frame = (np.abs((x + 50.5) % 3.0 - 1.5) < 0.75) & (z > 1.5) & (z < 2.6)
    number = np.floor((x + 50.5) / 3.0).astype(np.int64) % 16
    colors = rng.uniform(0.05, 0.6, (16, 3)).astype(np.float32)
    art = 0.45 + 0.8 * _cells(np.floor(x / 0.3), np.floor(z / 0.25))
    _paint(base, frame, colors[number] * art[..., None])
    return base


def _fence(x, z, rng):
    base = _hedge(x, z * 1.3, rng) * _rgb(1.5, 1.25, 1.0)
    trunk = np.abs((x + 50.4 + 0.06 * np.sin(z * 2)) % 2.1 - 1.0) < 0.11
    _paint(base, trunk, _rgb(0.11, 0.075, 0.05))
    _paint(base, (z < 1.1) & (_lines(x, 0.14, 0.028) | _lines(z, 0.8, 0.05)), _rgb(0.03, 0.04, 0.04))
    return base


def _shutters(x, z, rng):
    ridge = 0.75 + 0.25 * np.sin(z * (2 * np.pi / 0.11))
    number = np.floor((x + 50) / 3.1).astype(np.int64) % 16
    tone = rng.uniform(0.16, 0.42, (16, 1)).astype(np.float32) * _rgb(0.92, 1.0, 1.02)
    base = tone[number] * ridge[..., None].astype(np.float32)
    edge = (x + 50) % 3.1
    _paint(base, (edge < 0.35) | (z > 2.7), _rgb(0.3, 0.28, 0.25))
    tag = (np.abs(edge - 1.6) < 0.9) & (np.abs(z - 1.3) < 0.45) & (np.abs(_noise(x, z, 26, "soft")) < 0.22)
    _paint(base, tag & (number % 2 == 0), _rgb(0.25, 0.05, 0.12))
    return np.ascontiguousarray(base)


def _glass(x, z, rng):
    shade = 0.14 + 0.2 * _cells(np.floor(x / 1.3), np.floor(z / 1.6)) + 0.05 * _noise(x, z, 12, "soft")
    base = shade[..., None] * _rgb(0.75, 0.95, 1.1)
    _paint(base, _lines(x, 1.3, 0.09) | _lines(z, 1.6, 0.09), _rgb(0.42, 0.43, 0.44))
    _paint(base, z < 0.3, _rgb(0.12, 0.12, 0.12))
    return np.maximum(base, 0.02).astype(np.float32)


def _steps(x, z, rng):
    """Garden steps with a planted slope beside them."""
    tread = (z / 0.17) % 1.0
    base = (0.22 + 0.26 * (tread > 0.55))[..., None] * _rgb(1.0, 0.94, 0.84) * np.float32(1)
    _paint(base, np.abs(x - 0.6) > 2.3, _hedge(x, z, rng))
    _paint(base, np.abs(np.abs(x - 0.6) - 2.3) < 0.16, _rgb(0.4, 0.38, 0.34))
    return np.ascontiguousarray(base.astype(np.float32))


def _collage(x, z, rng):
    """Things one cannot name: panels, blobs and noise in random colours."""
    colors = (rng.uniform(0.08, 0.85, (8, 1)) * rng.uniform(0.75, 1.25, (8, 3))).astype(np.float32) ** 2
    base = np.ascontiguousarray(_flat(x.shape, colors[0]))
    base *= (1 + 0.3 * _noise(x, z, float(rng.uniform(5, 60))))[..., None]
    for k in range(1, 8):
        kind, scale = int(rng.integers(3)), float(np.exp(rng.uniform(-1.5, 0.8)))
        if kind == 0:
            where = _cells(np.floor(x / scale + k), np.floor(z / (scale * rng.uniform(0.5, 2)))) > 0.72
        elif kind == 1:
            where = _noise(x, z, 30 / scale, "soft") > 0.9
        else:
            where = _lines(x if rng.random() < 0.6 else z, 1.7 * scale, 0.3 * scale, float(rng.random()))
        _paint(base, where & (z < 1 + 5 * rng.random()), colors[k])
    return np.maximum(base, 0.005).astype(np.float32)


Wall = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
WALLS: dict[str, Wall] = {
    "shops": _shop_wall,
    "bricks": _brick_wall,
    "hedge": _hedge,
    "columns": _columns,
    "tiles": _tiles,
    "fence": _fence,
    "shutters": _shutters,
    "glass": _glass,
    "steps": _steps,
    "collage": _collage,
}
GROUNDS = ("asphalt", "road", "paving", "red brick", "plates", "granite", "grass", "gravel", "concrete", "leaves")
STREETS: dict[str, Street] = {
    "shop street": Street("shops", 3.2, 0.16, "paving", ((2.4, 3.4, "plates"),), 977),
    "brick wall": Street("bricks", 2.6, -0.12, "asphalt", ((1.3, 4.0, "red brick"),), 983),
    "park lawn": Street("hedge", 6.0, 0.08, "grass", ((-1.6, 1.5, "asphalt"),), 979),
    "plaza": Street("columns", 4.5, 0.0, "granite", (), 978),
    "zebra crossing": Street("shops", 9.0, -0.1, "road", ((3.2, 9.5, "paving"),), 981),
    "underpass": Street("tiles", 2.1, 0.3, "plates", (), 985),
    "gravel walk": Street("fence", 4.2, -0.2, "gravel", ((2.0, 6.0, "grass"),), 980),
    "shutters": Street("shutters", 2.8, 0.1, "concrete", ((-9.0, -1.9, "road"),), 986),
    "glass front": Street("glass", 7.0, 0.12, "plates", ((-2.4, -1.7, "red brick"), (4.6, 5.4, "grass")), 982),
    "garden steps": Street("steps", 3.6, 0.05, "red brick", (), 984),
}


@lru_cache(maxsize=10)
def scene_picture(camera: Camera) -> np.ndarray:
    """The empty street before a camera, linear light, float32 (3, 640, 900)."""
    street = camera.street or STREETS[camera.scene]
    rng = np.random.default_rng(street.seed)
    axes = camera.axes()
    x = (np.arange(WIDTH) + 0.5 - CENTER[0]) / camera.focal
    y = (np.arange(HEIGHT) + 0.5 - CENTER[1]) / camera.focal
    ray = x[None, :, None] * axes[0] + y[:, None, None] * axes[1] + axes[2]  # (640, 900, 3), in the world
    down = np.minimum(ray[..., 2], -1e-4)
    reach = camera.height / -down
    gx, gy = ray[..., 0] * reach, ray[..., 1] * reach
    # Wall: y - slant * x = distance + behind.
    hit = (camera.distance + street.behind) / (ray[..., 1] - street.slant * ray[..., 0])
    wx, wz = ray[..., 0] * hit, camera.height + ray[..., 2] * hit
    on_wall = (wz > 0) & (hit < reach * 1.0001)
    gx += street.shift
    ground = _ground(street.ground, gx, gy)
    for start, stop, strip in street.strips:
        inside = (gy - camera.distance > start) & (gy - camera.distance < stop)
        if inside.any():
            _paint(ground, inside, _ground(strip, gx, gy))
            for edge in (start, stop):
                _paint(ground, np.abs(gy - camera.distance - edge) < 0.07, _rgb(0.4, 0.39, 0.37))
    if camera.scene == "zebra crossing":
        _paint(ground, (np.abs(gy - camera.distance) < 1.5) & ((gx + 50) % 1.0 < 0.5), _rgb(0.52, 0.52, 0.5))
    ground *= np.array(street.ground_tint, np.float32)
    sun, sky = np.array(camera.sun_color, np.float32), np.array(camera.sky_color, np.float32)
    ground *= sun * max(0.0, camera.sun[2]) + sky * 0.9
    normal = np.array([street.slant, -1.0, 0.0]) / np.hypot(1, street.slant)
    facing = max(0.0, float((normal * camera.sun).sum()))
    picture = WALLS[street.wall]((wx + street.shift) / street.stretch, wz / street.stretch, rng) * (
        np.array(street.wall_tint, np.float32) * (sun * facing + sky * 0.55)
    )
    stain = 1 + 0.08 * _noise(wx, wz, 8, "soft") - 0.25 * np.exp(-np.abs(wz) / 0.12)
    picture = np.where(on_wall[..., None], picture * stain[..., None], ground)
    # Where ground meets wall little sky is seen.
    picture *= (1 - 0.35 * np.exp(-np.abs(hit - reach) / 0.35) * ~on_wall)[..., None]
    return np.ascontiguousarray(np.maximum(picture, 0.004).transpose(2, 0, 1), np.float32)
