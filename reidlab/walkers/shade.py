"""Colour the surfaces: cloth patterns, grain and folds, then light."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from reidlab.walkers.body import MATERIALS, PART_NUMBERS
from reidlab.walkers.camera import Camera
from reidlab.walkers.raster import Projected, Surface
from reidlab.walkers.wardrobe import HAIR_COLORS, SKIN_TONES, Person, rgb_of

SIZE = 256  # side of the periodic noise pictures
SKIN, HAIR, HAT, TORSO, SLEEVE, BOTTOM, LEG, SHOE, BAG, INNER, METAL, SOLE = range(len(MATERIALS))
# How deep the folds are and how visible the weave is, by material.
_FOLDS = np.array([0.0, 0.5, 0.15, 0.42, 0.55, 0.3, 0.5, 0.1, 0.25, 0.3, 0.0, 0.0], np.float32)
_GRAIN = np.array([0.03, 0.18, 0.12, 0.1, 0.1, 0.1, 0.12, 0.08, 0.1, 0.08, 0.05, 0.05], np.float32)
_GLOSS = np.array([0.03, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02, 0.14, 0.08, 0.02, 0.3, 0.02], np.float32)


def _octave(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Periodic value noise with `cells` cells a side, (SIZE, SIZE)."""
    grid = rng.random((cells, cells)).astype(np.float32)
    at = np.arange(SIZE) * cells / SIZE
    low = at.astype(np.int64)
    t = (at - low).astype(np.float32)
    t = t * t * (3 - 2 * t)
    high = (low + 1) % cells
    rows = grid[low] * (1 - t)[:, None] + grid[high] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, high] * t


@lru_cache(maxsize=1)
def noise_pictures() -> dict[str, np.ndarray]:
    """Periodic noise: `rough` (many octaves), `soft` (few), and the slopes of soft folds, each about -1..1, flat."""
    rng = np.random.default_rng(20171)
    rough = sum(_octave(rng, 2**k) * 0.6**k for k in range(2, 8))
    soft = sum(_octave(rng, 2**k) * 0.5**k for k in range(2, 5))
    rough = (rough - rough.mean()) / rough.std()
    soft = (soft - soft.mean()) / soft.std()
    slope_u = (np.roll(soft, -2, 1) - np.roll(soft, 2, 1)) * 2.2
    slope_v = (np.roll(soft, -2, 0) - np.roll(soft, 2, 0)) * 2.2
    pictures = {"rough": rough, "soft": soft, "slope_u": slope_u, "slope_v": slope_v}
    return {name: np.ascontiguousarray(picture).reshape(-1) for name, picture in pictures.items()}


def _cell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u.astype(np.int32) & (SIZE - 1)) + ((v.astype(np.int32) & (SIZE - 1)) << 8)


def sample_noise(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Look up a noise picture at (u, v), which count pixels of it and wrap around."""
    return noise_pictures()[name][_cell(u, v)]


def _mix(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, b.reshape(3, -1), a)


def _pattern(person: Person, u: np.ndarray, v: np.ndarray, color: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Albedo (3, N) of the top's cloth at (u, v) metres around and along."""
    kind, period = person.top_pattern, person.pattern_scale
    color, second = color[:, None], second[:, None]
    base = np.broadcast_to(color, (3, len(u)))
    if kind == "stripes":
        return _mix(base, second, (v / period) % 1.0 < 0.45)
    if kind == "pinstripes":
        return _mix(base, 0.5 * (second + color), (u / (0.4 * period)) % 1.0 < 0.3)
    if kind == "check":
        share = 0.5 * ((u / period) % 1.0 < 0.5) + 0.5 * ((v / period) % 1.0 < 0.5)
        return base + share.astype(np.float32) * (second - color)
    if kind == "dots":
        return _mix(base, second, ((u / period) % 1.0 - 0.5) ** 2 + ((v / period) % 1.0 - 0.5) ** 2 < 0.075)
    if kind == "camouflage":
        return _mix(base, 0.5 * (second + color), sample_noise("soft", u * 420 + person.shade % 251, v * 420) > 0.25)
    if kind == "marl":
        return base + 0.5 * np.clip(sample_noise("rough", u * 900, v * 300) * 0.4, 0, 1) * (second - color)
    if kind == "flowers":
        grow = 12 / period
        spots = sample_noise("soft", u * grow + person.shade % 251, v * grow)
        base = _mix(base, second, spots > 0.75)
        return _mix(base, second[[1, 2, 0]], sample_noise("soft", u * grow + 97, v * grow + person.shade % 241) > 1.1)
    if kind == "patches":
        cell = np.floor(u / period) * 31.7 + np.floor(v / period) * 17.3 + person.shade % 97
        return base + (np.sin(cell) ** 2).astype(np.float32) * (second - color)
    if kind == "tartan":
        wide = ((u / period) % 1.0 < 0.35) * 0.4 + ((v / period) % 1.0 < 0.35) * 0.4
        thin = (((u / period) % 1.0 - 0.7) ** 2 < 0.002) | (((v / period) % 1.0 - 0.7) ** 2 < 0.002)
        return _mix(base + wide.astype(np.float32) * (second - color), second[[2, 0, 1]], thin)
    if kind == "fading":
        return base + np.clip(1.3 - v * 4, 0, 1) * (second - color)
    if kind == "colour block":
        return _mix(base, second, v > (0.1 + 0.12 * (person.shade % 2)) * person.height)
    if kind == "chest band":
        return _mix(base, second, np.abs(v - 0.205 * person.height) < 0.6 * period)
    return base


def _print(person: Person, x: np.ndarray, v: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Where the print is, (N,) bool."""
    if person.top_print == "none":
        return np.zeros(len(x), bool)
    h = person.height
    a, b = x / (0.062 * h), (v - 0.19 * h) / (0.062 * h)
    shape = person.print_shape
    if shape >= 6:  # larger ones: lines of text, a torn picture, a broad panel
        a, b = a * 0.75, b * (0.5 + 0.1 * (person.shade % 6)) + 0.15 * (person.shade % 5 - 2)
    inside = (
        a * a + b * b < 1,
        (np.abs(a) < 1) & (np.abs(b) < 0.55),
        (np.abs(a) < 0.85) & (np.abs(b) < 1) & (np.abs((b * 2.5) % 1.0 - 0.5) < 0.3),
        (np.abs(a) < 1.0) & (b < 0.9) & (b > 1.6 * np.abs(a) - 0.9),
        (np.abs(a * a + b * b - 0.7) < 0.32),
        (np.abs(a) + np.abs(b) < 1.1) & ~((np.abs(a) < 0.3) & (np.abs(b) < 0.3)),
        (np.abs(a) < 1) & (np.abs(b) < 0.8) & ((b * 2.5) % 1.0 < 0.6) & (np.sin(a * 23 + 9 * np.floor(b * 2.5)) > -0.5),
        (a * a + b * b < 1.4) & (sample_noise("soft", a * 20 + person.shade % 251, b * 20) > -0.2),
        (np.abs(a) < 1) & (np.abs(b) < 1),
    )[shape]
    side = {"front": front > 0, "back": front < 0}.get(person.top_print)
    return inside if side is None else inside & side


def _torso(person: Person, x: np.ndarray, front: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Albedo of the trunk: cloth, print, what an open jacket shows, straps."""
    h = person.height
    color, second, inner = rgb_of(person.top_color), rgb_of(person.top_color2), rgb_of(person.inner_color)
    albedo = _pattern(person, u, v, color, second)
    albedo = _mix(albedo, rgb_of(person.print_color), _print(person, x, v, front))
    ahead = front > 0
    if person.top == "open jacket":
        albedo = _mix(albedo, inner, ahead & (np.abs(x) < 0.028 * h + 0.06 * np.maximum(v - 0.1 * h, -0.03 * h)))
    if person.top in ("coat", "jacket", "puffer", "shirt", "hoodie"):
        seam = ahead & (np.abs(x) < 0.0035 * h) & (person.top != "hoodie" or person.shade % 2 == 0)
        albedo = _mix(albedo, albedo * 0.45, seam)
    if person.top in ("coat", "jacket", "shirt"):
        albedo = _mix(albedo, inner, ahead & (np.abs(x) < 0.35 * (v - 0.235 * h)))
    if person.top == "dress":
        albedo = _mix(albedo, rgb_of(person.bottom_color), (np.abs(v - 0.07 * h) < 0.014 * h) & (person.shade % 2 == 0))
    if person.bag == "backpack":
        strap = ahead & (np.abs(np.abs(x) - 0.062 * h) < 0.011 * h) & (v > 0.1 * h)
        albedo = _mix(albedo, rgb_of(person.bag_color), strap)
    if person.bag == "cross bag":
        line = x + person.bag_side * 1.05 * (v - 0.17 * h)
        albedo = _mix(albedo, rgb_of(person.bag_color), np.abs(line) < 0.013 * h)
    return albedo


def _leg(person: Person, u: np.ndarray, v: np.ndarray, outer: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Albedo of trousers and skirts; `outer` is 1 on the outer seam, `front` -1..1 forward."""
    color = rgb_of(person.bottom_color)
    albedo = np.broadcast_to(color[:, None], (3, len(u)))
    if person.bottom_pattern == "side stripe":
        light = 0.75 if color.sum() < 0.9 else 0.04
        return _mix(albedo, np.full(3, light, np.float32), outer > 0.93)
    if person.bottom_pattern == "check":
        share = 0.25 * ((u / 0.06) % 1.0 < 0.5) + 0.25 * ((v / 0.06) % 1.0 < 0.5)
        return albedo + share.astype(np.float32) * (0.35 - albedo)
    if person.bottom_pattern == "marl":
        return albedo * (1 + 0.35 * sample_noise("rough", u * 500, v * 160))
    if person.bottom_pattern == "faded":
        fade = np.clip(front, 0, 1) * np.clip(1 - np.abs(v - 0.28) * 2.6, 0, 1)
        return albedo + (0.5 * fade) * (np.sqrt(color[:, None]) * 0.6 + 0.1 - albedo)
    return albedo


def _albedo(person: Person, material: np.ndarray, cloth: dict[str, np.ndarray]) -> np.ndarray:
    """Albedo (3, N) of every pixel of the walker."""
    tint = np.random.default_rng(person.shade)
    flat = np.zeros((len(MATERIALS), 3), np.float32)
    flat[SKIN], flat[HAIR] = rgb_of(person.skin, SKIN_TONES), rgb_of(person.hair_color, HAIR_COLORS)
    flat[HAT], flat[SHOE], flat[BAG] = rgb_of(person.hat_color), rgb_of(person.shoe_color), rgb_of(person.bag_color)
    flat[INNER], flat[METAL], flat[SOLE] = rgb_of(person.inner_color), 0.35, 0.62
    albedo = np.ascontiguousarray(flat.T)[:, material]
    x, front, u, v = cloth["x"], cloth["front"], cloth["u"], cloth["v"]
    for number, paint in (
        (TORSO, lambda i: _torso(person, x[i], front[i], u[i], v[i])),
        (SLEEVE, lambda i: _sleeve(person, u[i], v[i])),
        (BOTTOM, lambda i: _leg(person, u[i], v[i], 0 * u[i], front[i])),
        (LEG, lambda i: _leg(person, u[i], v[i], cloth["outer"][i], front[i])),
    ):
        i = np.flatnonzero(material == number)
        if len(i):
            albedo[:, i] = paint(i)
    shift = np.exp(tint.normal(0, 0.05, (len(MATERIALS), 1)) + tint.normal(0, 0.025, (len(MATERIALS), 3)))
    shift[SLEEVE], shift[LEG] = shift[TORSO], shift[BOTTOM]
    albedo *= np.ascontiguousarray(shift.T, np.float32)[:, material]
    return albedo


def _sleeve(person: Person, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    color, second = rgb_of(person.top_color), rgb_of(person.top_color2)
    if person.top_pattern == "raglan" or (person.top == "vest" and person.sleeves == "long"):
        other = second if person.top_pattern == "raglan" else rgb_of(person.inner_color)
        return np.broadcast_to(other[:, None], (3, len(u)))
    if person.top_pattern == "chest band":
        return np.broadcast_to(color[:, None], (3, len(u)))
    return _pattern(person, u, v, color, second)


def _cloth(p: Projected, s: Surface, person: Person) -> dict[str, np.ndarray]:
    """Coordinates on the body of every pixel, in metres, and the unit vector on the cross-section."""
    solids, i = p.solids, s.solid
    table = np.concatenate([p.e1, p.e2, solids.radii, solids.texture], 1).T.astype(np.float32)[:, i]
    side = s.across * table[0] + s.facing * table[2]
    front = s.across * table[1] + s.facing * table[3]
    a = table[4] + s.along * (table[6] - table[4])
    b = table[5] + s.along * (table[7] - table[5])
    v = table[8] + s.along * (table[9] - table[8])
    around = np.arctan2(side, front)
    return {
        "side": side,
        "front": front,
        "a": a,
        "b": b,
        "v": v,
        "x": table[10] + a * side,
        "outer": side * np.sign(table[10]),
        "u": around * 0.5 * (a + b),
    }


def shade(p: Projected, s: Surface, person: Person, camera: Camera, light: float = 1.0) -> np.ndarray:
    """Linear-light colour (3, N) of every covered pixel, under a sun `light` times as bright as the camera's usual."""
    solids = p.solids
    material = solids.material[s.solid]
    cloth = _cloth(p, s, person)
    albedo = _albedo(person, material, cloth)
    if person.tights is not None:
        below = np.flatnonzero(solids.part[s.solid] == PART_NUMBERS["bare legs"])
        albedo[:, below] = rgb_of(person.tights)[:, None]
    # The seed moves the noise so that every person's folds are their own; solids differ by number.
    u = cloth["u"] * 330 + (person.shade % 241) + s.solid * 37.0
    v = cloth["v"] * 150 + (person.shade % 239)
    folds = _FOLDS[material]
    if person.top == "puffer":
        quilt = np.isin(material, (TORSO, SLEEVE))
        ridge = np.where(quilt, np.sin(cloth["v"] * (2 * np.pi / 0.085)) * 0.75, 0).astype(np.float32)
    else:
        ridge = np.float32(0)
    cell, noise = _cell(u, v), noise_pictures()
    bend_u = folds * noise["slope_u"][cell]
    bend_v = folds * noise["slope_v"][cell] + ridge
    normal = _normals(p, s, cloth, bend_u, bend_v)
    grain = 1 + _GRAIN[material] * sample_noise("rough", u * 2.4, v * 5)
    sun, sky = _light(normal, camera, light)
    view = camera.axes()[2].astype(np.float32)
    gloss = np.maximum(0, -(normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2]))
    gloss *= gloss
    gloss *= gloss * gloss  # to the sixth
    gloss *= gloss * _GLOSS[material]
    albedo *= grain * (sun + sky)
    albedo += gloss * sky
    return np.maximum(albedo, 0, out=albedo)


def _normals(p: Projected, s: Surface, cloth: dict[str, np.ndarray], bend_u, bend_v) -> np.ndarray:
    """World normals (3, N), tilted by folds."""
    table = np.concatenate([p.side, p.front, p.axis], 1).T.astype(np.float32)
    frame = table[:, s.solid]
    # The end caps bulge along the axis; a little of that on the trunk rounds shoulders and hems.
    n_side = cloth["side"] / cloth["a"] * 0.08 + bend_u * 0.5 * cloth["front"]
    n_front = cloth["front"] / cloth["b"] * 0.08 - bend_u * 0.5 * cloth["side"]
    round_ends = np.where(p.solids.cap > 0.85, 1.0, 0.2).astype(np.float32)[s.solid]
    n_axis = s.bulge * round_ends + bend_v * 0.5
    n = n_side * frame[0:3]
    n += n_front * frame[3:6]
    n += n_axis * frame[6:9]
    n *= 1 / np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2] + np.float32(1e-9))
    return n


def _light(normal: np.ndarray, camera: Camera, light: float) -> tuple[np.ndarray, np.ndarray]:
    """Sunlight and skylight on surfaces with these normals, (3, N) each."""
    toward = np.array(camera.sun, np.float32)
    facing = normal[0] * toward[0] + normal[1] * toward[1] + normal[2] * toward[2]
    direct = np.maximum(0, np.float32(0.85) * facing + np.float32(0.15)) * np.float32(light)
    up = np.float32(0.62) + np.float32(0.38) * normal[2]
    sun, sky = np.array(camera.sun_color, np.float32), np.array(camera.sky_color, np.float32)
    return direct * sun[:, None], up * sky[:, None]
