"""Ten pinhole cameras in five pairs: where they hang, what light they see, how they spoil the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_CAMERAS = 10


@dataclass(frozen=True)
class Street:
    """What stands and lies in front of a camera.

    Args:
        wall: a name of `reidlab.walkers.scene.WALLS`.
        behind: metres from the middle of the lane to the wall; slant: metres further away per metre to the right.
        ground: a kind of ground of `reidlab.walkers.scene`.
        strips: other ground in strips along the lane, (from, to, kind) in metres behind the middle of it.
        seed: of the details of the wall.
        shift: metres by which wall and ground are moved sideways; stretch: size of the wall's pattern, 1 = usual.
        wall_tint, ground_tint: factors on the colours (r, g, b).
    """

    wall: str
    behind: float
    slant: float
    ground: str
    strips: tuple[tuple[float, float, str], ...]
    seed: int
    shift: float = 0.0
    stretch: float = 1.0
    wall_tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ground_tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Camera:
    """One fixed camera.

    Args:
        index: 0..9 = 2 * (pair - 1) + (view - 1).
        scene: a name of `reidlab.walkers.scene.STREETS`.
        height: metres above the ground.
        distance: metres to the middle of the walking lane.
        pixels: height in pixels of a person of 1.7 m in the middle of the lane.
        heading: usual walking direction, radians; 0 = away, pi = towards the camera; spread: standard deviation.
        against: share of people who walk the other way.
        sun: direction to the light, (right, away, up), unit length.
        sun_color, sky_color: linear light of the sun and of the sky, (r, g, b).
        balance: white balance gains (r, g, b).
        exposure, gamma, saturation, haze: tone of the picture; haze lifts the blacks.
        defocus, motion: blur, standard deviation in pixels at native size.
        noise: standard deviation of the sensor noise at mid-grey, 0..1.
        jpeg: quality, 1..95.
        crowd: chance of a passer-by behind; occlusion: chance of something in front.
        street: the street of a camera outside the ten; None: the street that `scene` names.

    Taught in: notebooks/00_start_here.ipynb
    """

    index: int
    scene: str
    height: float
    distance: float
    pixels: float
    heading: float
    spread: float
    against: float
    sun: tuple[float, float, float]
    sun_color: tuple[float, float, float]
    sky_color: tuple[float, float, float]
    balance: tuple[float, float, float]
    exposure: float
    gamma: float
    saturation: float
    haze: float
    defocus: float
    motion: float
    noise: float
    jpeg: int
    crowd: float
    occlusion: float
    street: Street | None = None

    @property
    def pair(self) -> int:
        """Camera pair, 1..5."""
        return self.index // 2 + 1

    @property
    def view(self) -> int:
        """View within the pair, 1 or 2: what the protocol files call the camera."""
        return self.index % 2 + 1

    @property
    def pitch(self) -> float:
        """Downward tilt, radians: the camera looks at the middle of the body in the middle of the lane."""
        return math.atan2(self.height - 0.85, self.distance)

    @property
    def focal(self) -> float:
        """Focal length in native pixels."""
        return self.pixels * math.hypot(self.distance, self.height - 0.85) / (1.7 * math.cos(self.pitch))

    def axes(self) -> np.ndarray:
        """Rows: the camera's right, down and forward in world coordinates, (3, 3)."""
        s, c = math.sin(self.pitch), math.cos(self.pitch)
        return np.array([[1.0, 0.0, 0.0], [0.0, -s, -c], [0.0, c, -s]])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) to camera coordinates (n, 3): right, down, depth."""
        a = self.axes()
        d = np.asarray(points, dtype=np.float64) - (0.0, 0.0, self.height)
        return d[:, :1] * a[:, 0] + d[:, 1:2] * a[:, 1] + d[:, 2:] * a[:, 2]


def unit_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Direction (right, away, up) of unit length; degrees, azimuth clockwise from "away from the camera"."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return (math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), math.sin(e))


def colors_of_light(strength: float, warmth: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Linear light (r, g, b) of the sun and of the sky; under a weak sun the sky is brighter."""
    sky = 0.62 if strength > 0.5 else 0.85
    sun = (strength * (1 + warmth), strength, strength * (1 - warmth))
    return sun, (sky * (1 - 0.5 * warmth), sky, sky * (1 + 0.6 * warmth))


# One row per camera. Place: scene, height, distance, pixels, heading, spread, against.
# Light: azimuth of the sun (degrees, clockwise from "away from the camera"), elevation, strength, warmth.
# Picture: balance, exposure, gamma, saturation, haze, defocus, motion, noise, jpeg; then crowd and occlusion.
_TABLE = (
    ("shop street", 2.6, 8.5, 214, 178, 17, 0.1, -60, 42, 1.0, 0.047,
     (1.04, 1.0, 0.93), 1.03, 1.0, 1.03, 0.009, 0.7, 0.3, 0.011, 82, 0.34, 0.09),
    ("plaza", 4.6, 9.0, 206, 105, 18, 0.1, 130, 55, 0.15, 0.0,
     (0.92, 0.99, 1.1), 1.22, 1.08, 0.86, 0.023, 1.1, 0.6, 0.019, 60, 0.22, 0.13),
    ("park lawn", 3.2, 10.0, 226, 20, 18, 0.1, 35, 34, 1.25, 0.075,
     (1.0, 1.02, 0.95), 1.0, 0.93, 1.07, 0.0, 0.6, 0.2, 0.008, 88, 0.26, 0.07),
    ("gravel walk", 2.2, 7.0, 236, 300, 18, 0.1, -150, 60, 0.25, 0.009,
     (1.03, 0.99, 1.03), 1.2, 1.03, 0.82, 0.042, 0.9, 0.5, 0.014, 70, 0.3, 0.11),
    ("zebra crossing", 5.6, 11.0, 196, 150, 18, 0.1, 80, 48, 1.1, 0.019,
     (0.97, 1.0, 1.04), 1.1, 0.96, 0.93, 0.019, 0.9, 0.3, 0.012, 66, 0.34, 0.09),
    ("glass front", 2.4, 6.0, 222, 245, 18, 0.1, 10, 75, 0.1, -0.038,
     (1.12, 1.01, 0.84), 1.02, 1.04, 0.92, 0.009, 1.0, 0.9, 0.026, 62, 0.19, 0.09),
    ("brick wall", 3.6, 9.5, 208, 205, 18, 0.1, -20, 28, 1.35, 0.112,
     (1.04, 1.0, 0.94), 0.95, 1.1, 1.04, 0.0, 0.8, 0.3, 0.01, 76, 0.26, 0.09),
    ("garden steps", 4.0, 8.0, 218, 120, 18, 0.1, 160, 50, 0.4, 0.009,
     (0.97, 1.03, 0.99), 0.98, 0.97, 0.79, 0.033, 1.2, 0.4, 0.016, 54, 0.26, 0.13),
    ("underpass", 6.4, 12.0, 200, 25, 18, 0.1, 100, 40, 0.9, 0.028,
     (0.95, 1.0, 1.07), 1.18, 0.94, 0.97, 0.028, 0.8, 0.4, 0.011, 72, 0.34, 0.07),
    ("shutters", 2.9, 8.0, 228, 105, 18, 0.1, -100, 32, 1.15, 0.085,
     (1.06, 1.0, 0.92), 0.84, 1.06, 1.06, 0.0, 0.7, 0.3, 0.012, 80, 0.3, 0.11),
)  # fmt: skip


def make_cameras() -> tuple[Camera, ...]:
    """The ten cameras, the same in every world.

    Example:
        >>> cameras = make_cameras()
        >>> len(cameras), cameras[3].pair, cameras[3].view
        (10, 2, 2)
    """
    cameras = []
    for index, row in enumerate(_TABLE):
        scene, height, distance, pixels, heading, spread, against, azimuth, elevation, strength, warmth, *tone = row
        place = (height, distance, float(pixels), math.radians(heading), math.radians(spread), against)
        light = (unit_direction(azimuth, elevation), *colors_of_light(strength, warmth))
        cameras.append(Camera(index, scene, *place, *light, *tone))
    return tuple(cameras)
