"""Bodies as some thirty rounded cones in the body's own frame, from attributes and a walking phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reidlab.walkers.wardrobe import Person

# Label map of the masks. What covers a region counts as that region: a coat's skirt is torso.
_NAMES = ("background", "head", "hair", "hat", "torso", "arms", "hands", "hips and legs", "bare legs", "shoes", "bag")
PARTS = dict(enumerate((*_NAMES, "occluder")))
PART_NUMBERS = {name: number for number, name in PARTS.items()}
MATERIALS = ("skin", "hair", "hat", "torso", "sleeve", "bottom", "leg", "shoe", "bag", "inner", "metal", "sole")
_MATERIAL = {name: number for number, name in enumerate(MATERIALS)}


@dataclass(frozen=True)
class Solids:
    """Rounded cones with elliptic cross-section: everything the rasteriser draws.

    Args:
        start, end: (n, 3) ends of the axis, metres; x = the body's left, y = forward, z = up.
        radii: (n, 4) half-widths at start (sideways, forward) and at end (sideways, forward), metres.
        cap: (n,) how far the ends bulge, in units of the radius: 1 round, 0.1 nearly flat.
        texture: (n, 3) cloth coordinate at start and at end (metres along the garment), and sideways offset.
        part, material: (n,) small integers, see `PARTS` and `MATERIALS`.
        frame: (n, 3) the direction called "sideways" for each solid.
    """

    start: np.ndarray
    end: np.ndarray
    radii: np.ndarray
    cap: np.ndarray
    texture: np.ndarray
    part: np.ndarray
    material: np.ndarray
    frame: np.ndarray


class SolidsBuilder:
    """Collects solids one by one."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(self, part, material, start, end, r0, r1=None, cap=1.0, tex=(0.0, 1.0), side=(1.0, 0.0, 0.0)):
        """Add a solid; `r0`, `r1` are a radius or a (sideways, forward) pair."""
        r1 = r0 if r1 is None else r1
        a0, b0 = r0 if isinstance(r0, tuple) else (r0, r0)
        a1, b1 = r1 if isinstance(r1, tuple) else (r1, r1)
        where = (*start, *end, a0, b0, a1, b1, cap, *tex, 0.5 * (start[0] + end[0]))
        self.rows.append((*where, PART_NUMBERS[part], _MATERIAL[material], *side))

    def build(self) -> Solids:
        """Turn the rows into arrays."""
        t = np.array(self.rows, dtype=np.float64).reshape(-1, 19)
        part, material = t[:, 14].astype(np.int64), t[:, 15].astype(np.int64)
        return Solids(t[:, 0:3], t[:, 3:6], t[:, 6:10], t[:, 10], t[:, 11:14], part, material, t[:, 16:19])


@dataclass(frozen=True)
class Pose:
    """How a walker stands in one shot.

    Args:
        phase: position in the walking cycle, 0..1; 0 and 0.5 have the feet together.
        heading: direction of walking, radians; 0 = away from the camera, pi = towards it.
        x, y: place on the ground, metres right of and away from the camera.
    """

    phase: float
    heading: float
    x: float
    y: float


def _limb(origin, angle, length, sideways=0.0):
    """End of a limb hanging from `origin`, swung forward by `angle` and out by `sideways`."""
    down = math.cos(angle) * math.cos(sideways)
    return (origin[0] + math.sin(sideways) * length, origin[1] + math.sin(angle) * length, origin[2] - down * length)


def _legs(person: Person, phase: float) -> list[tuple]:
    """Hip, knee, ankle, toe and swing of both legs, left first, hips at height 0."""
    h, out = person.height, []
    for side, offset in ((1, 0.0), (-1, 0.5)):
        turn = 2 * math.pi * (phase + offset)
        swing = person.stride * math.sin(turn) + 0.04
        bend = 0.1 + 0.85 * person.stride / 0.45 * max(0.0, math.cos(turn)) ** 1.5
        hip = (side * 0.047 * h, 0.0, 0.0)
        knee = _limb(hip, swing, 0.245 * h)
        ankle = _limb(knee, swing - bend, 0.24 * h)
        lift = max(-0.5, min(0.5, -(swing - bend) - 0.1))
        toe = (ankle[0] * 1.12, ankle[1] + 0.098 * h * math.cos(lift), ankle[2] - 0.018 * h - 0.06 * h * math.sin(lift))
        out.append((hip, knee, ankle, toe, swing))
    return out


def body_solids(person: Person, phase: float) -> Solids:
    """Pose the walker at a walking phase 0..1 and dress them: solids in the body's frame, feet on z = 0.

    Example:
        >>> import numpy as np
        >>> from reidlab.walkers.wardrobe import sample_person
        >>> solids = body_solids(sample_person(np.random.default_rng(0), 1, 1, 1), 0.25)
        >>> 20 <= len(solids.part) <= 60
        True
    """
    h = person.height
    legs = _legs(person, phase)
    hip_z = -min(min(leg[2][2] - 0.045 * h, leg[3][2] - 0.02 * h) for leg in legs)
    build = SolidsBuilder()
    lift = [tuple((p[0], p[1], p[2] + hip_z) for p in leg[:4]) + leg[4:] for leg in legs]
    _add_legs(build, person, lift, hip_z)
    _add_trunk(build, person, hip_z, abs(math.sin(2 * math.pi * phase)))
    hands = _add_arms(build, person, phase, hip_z)
    _add_head(build, person, hip_z)
    _add_bag(build, person, hip_z, hands)
    return build.build()


def _trunk_point(person: Person, hip_z: float, up: float, forward: float = 0.0, side: float = 0.0):
    """A point `up` metres above the hips along the stooped trunk."""
    lean = person.stoop
    y = up * math.sin(lean) + forward * math.cos(lean)
    return (side, y, hip_z + up * math.cos(lean) - forward * math.sin(lean))


def _add_legs(build: SolidsBuilder, person: Person, legs: list[tuple], hip_z: float) -> None:
    h, g = person.height, person.girth
    kind = "skirt" if person.top == "dress" else person.bottom
    part, stuff = ("torso", "torso") if person.top == "dress" else ("hips and legs", "bottom")
    low, high = (0, 0, hip_z - 0.025 * h), (0, 0.05 * h * person.stoop, hip_z + 0.055 * h)
    build.add(part, stuff, low, high, (0.084 * h * g, 0.064 * h * g), (0.07 * h * g, 0.05 * h * g), 0.4, (0.02, 0.1))
    for leg in legs:
        _add_leg(build, person, kind, leg)
    if kind in ("skirt", "long skirt"):
        reach = max(abs(legs[0][4]), abs(legs[1][4]))
        drop, sweep = (0.42, 0.16) if kind == "long skirt" else (0.2, 0.1)
        hem = (0.108 * h * g, (0.092 * g + sweep * reach) * h)
        low, high = (0, 0.005, hip_z - drop * h), (0, 0, hip_z + 0.03 * h)
        build.add(part, stuff, low, high, hem, (0.082 * h * g, 0.064 * h * g), 0.12, (drop * h + 0.1, 0.05))


def _add_leg(build: SolidsBuilder, person: Person, kind: str, leg: tuple) -> None:
    """One leg with the cloth on it; a skirt's cloth lies on the thigh that swings into it."""
    h, g = person.height, person.girth
    hip, knee, ankle, toe, _ = leg
    wide = {"trousers": 1.06, "slim trousers": 0.9, "wide trousers": 1.3, "shorts": 1.06}.get(kind, 1.0)
    covered = {"skirt": 0.72, "shorts": 0.86}.get(kind, 1.0)
    bare = kind in ("skirt", "long skirt", "shorts")
    cloth = ("torso", "torso") if person.top == "dress" else ("hips and legs", "bottom" if "skirt" in kind else "leg")
    hem = tuple(p + covered * (q - p) for p, q in zip(hip, knee, strict=True))
    r_hip, r_knee = 0.047 * h * g * min(wide, 1.1), 0.037 * h * g**0.6 * wide
    r_hem = (0.049 * h * g if kind == "shorts" else r_hip + covered * (r_knee - r_hip)) * (1.08 if bare else 1.0)
    build.add(*cloth, hip, hem, r_hip * (1.04 if bare else 1.0), r_hem, 0.25 if bare else 1.0, (0.0, 0.42 * covered))
    if bare:
        start = tuple(p + 0.5 * (q - p) for p, q in zip(hip, knee, strict=True))
        build.add("bare legs", "skin", start, knee, 0.044 * h * g**0.6, 0.036 * h * g**0.6)
        build.add("bare legs", "skin", knee, ankle, 0.0305 * h * g**0.5, 0.02 * h)
    else:
        end = (ankle[0], ankle[1], ankle[2] - 0.02 * h)
        build.add(*cloth, knee, end, 0.036 * h * wide * g**0.5, 0.03 * h * wide, tex=(0.42, 0.85))
    _add_foot(build, person, ankle, toe)


def _add_foot(build: SolidsBuilder, person: Person, ankle, toe) -> None:
    h = person.height
    heel = (ankle[0], ankle[1] - 0.012 * h, ankle[2] - 0.02 * h)
    skin = person.shoes == "sandals"
    build.add("shoes", "skin" if skin else "shoe", heel, toe, (0.027 * h, 0.027 * h), (0.024 * h, 0.016 * h))
    if person.shoes in ("sneakers", "sandals"):
        sole0, sole1 = (heel[0], heel[1], heel[2] - 0.014 * h), (toe[0], toe[1], toe[2] - 0.007 * h)
        stuff = "sole" if person.shoes == "sneakers" else "shoe"
        build.add("shoes", stuff, sole0, sole1, (0.028 * h, 0.013 * h), (0.026 * h, 0.012 * h))
    if person.shoes == "boots":
        top = (ankle[0], ankle[1], ankle[2] + 0.09 * h)
        build.add("shoes", "shoe", ankle, top, 0.033 * h, 0.037 * h, 0.3)


_THICK = {"t-shirt": 1.0, "shirt": 1.02, "sweater": 1.08, "hoodie": 1.12, "open jacket": 1.12}
_THICK |= {"jacket": 1.13, "puffer": 1.34, "coat": 1.15, "dress": 0.97, "vest": 1.12}


def _add_trunk(build: SolidsBuilder, person: Person, hip_z: float, spread: float) -> None:
    h, g, k = person.height, person.girth, _THICK[person.top]
    w = 0.5 * (g + person.shoulders)

    def at(up, forward=0.0):
        return _trunk_point(person, hip_z, up * h, forward * h)

    def cloth(low, high, r0, r1, cap):
        build.add("torso", "torso", at(low), at(high), r0, r1, cap, (low * h, high * h))

    hems = {"coat": -0.01, "puffer": -0.02, "jacket": -0.02, "dress": -0.01, "open jacket": -0.03}
    hem = hems.get(person.top, -0.035)
    chest, waist = (0.098 * h * w * k, 0.071 * h * g * k), (0.081 * h * g * k, 0.06 * h * g * k)
    hips = (0.101 * h * g * k**0.6, 0.077 * h * g * k**0.6)
    top = (0.083 * h * w * k, 0.054 * h * g * k)
    if person.top != "shirt" or person.shade % 3:  # the others tuck it in
        cloth(hem, 0.1, hips, waist, 0.16)
    if person.top == "coat":
        cloth(-0.21, 0.01, (0.115 * h * g, (0.092 + 0.05 * spread) * h * g), hips, 0.08)
    cloth(0.1, 0.2, waist, chest, 0.4)
    cloth(0.2, 0.262, chest, top, 0.45)
    cloth(0.262, 0.312, top, (0.037 * h, 0.037 * h), 0.3)
    build.add("head", "skin", at(0.29), at(0.36, 0.012), 0.031 * h, (0.028 * h, 0.031 * h), 0.3)
    collar = (0.31 * h, 0.34 * h)
    if person.top in ("coat", "jacket", "puffer", "open jacket", "shirt"):
        r0, r1 = (0.047 * h, 0.044 * h), (0.041 * h, 0.041 * h)
        build.add("torso", "torso", at(0.296), at(0.318, 0.004), r0, r1, 0.3, collar)
    if person.top == "hoodie":
        r0, r1 = (0.062 * h, 0.038 * h), (0.05 * h, 0.028 * h)
        build.add("torso", "torso", at(0.3, -0.035), at(0.325, -0.04), r0, r1, 0.7, collar)


# Arms that do not swing.
_HOLDS = {"pockets": (-0.3, 0.75, 1.0), "folded": (0.35, 1.5, -6.0), "behind": (-0.45, 0.35, -4.5)}
_HOLDS |= {"phone": (0.4, 2.0, -2.5)}


def _arm_angles(person: Person, side: int, turn: float) -> tuple[float, float, float]:
    """Angle of the upper arm, bend of the elbow, how far the forearm points outwards."""
    if side == person.bag_side and person.bag == "trolley":
        return -0.22, 0.0, 0.3
    swing = person.arm_swing * math.sin(turn) + 0.04
    if side == person.bag_side and person.bag == "hand bag":
        return 0.06 * swing, 0.08, 0.3
    if person.arms == "swing" or (person.arms == "phone" and side < 0):
        return swing, 0.18 + 0.35 * max(0.0, swing), 0.3
    return _HOLDS[person.arms]


def _add_arms(build: SolidsBuilder, person: Person, phase: float, hip_z: float) -> list[tuple]:
    h, g, k = person.height, person.girth, _THICK[person.top] ** 1.2
    hands = []
    for side, offset in ((1, 0.5), (-1, 0.0)):
        swing, bent, across = _arm_angles(person, side, 2 * math.pi * (phase + offset))
        joint = 0.083 * h * person.shoulders * (0.5 + 0.5 * k)
        shoulder = _trunk_point(person, hip_z, 0.266 * h, 0.0, side * joint)
        out = side * (0.1 + 0.1 * (g - 1) + 0.08 * (k - 1))
        elbow = _limb(shoulder, swing + person.stoop, 0.165 * h, out)
        wrist = _limb(elbow, swing + bent, 0.145 * h, out * across)
        r = h * (0.5 + 0.5 * g)
        if person.top == "vest" and person.sleeves == "short":
            build.add("arms", "skin", shoulder, elbow, 0.027 * r, 0.022 * r, tex=(0.0, 0.28))
        else:
            short = person.sleeves == "short"
            tip = tuple(s + 0.72 * (e - s) for s, e in zip(shoulder, elbow, strict=True)) if short else elbow
            wide, cap = (0.032, 0.5) if short else (0.028, 1.0)
            build.add("arms", "sleeve", shoulder, tip, 0.0315 * r * k, wide * r * k, cap, (0.28 * h, 0.12 * h))
        if person.sleeves == "short":
            bare = tuple(a + 0.5 * (e - a) for a, e in zip(shoulder, elbow, strict=True))
            build.add("arms", "skin", bare, elbow, 0.025 * r, 0.022 * r)
            build.add("arms", "skin", elbow, wrist, 0.022 * r, 0.016 * r)
        else:
            build.add("arms", "sleeve", elbow, wrist, 0.0275 * r * k, 0.021 * r * k, tex=(0.12 * h, -0.02 * h))
        hand = _limb(wrist, swing + bent, 0.045 * h)
        build.add("hands", "skin", wrist, hand, 0.0165 * h, (0.014 * h, 0.02 * h))
        hands.append(hand)
    return hands


def _add_head(build: SolidsBuilder, person: Person, hip_z: float) -> None:
    h = person.height

    def at(up, forward=0.0, side=0.0):
        return _trunk_point(person, hip_z, (up - 0.014) * h, forward * h, side * h)

    build.add("head", "skin", at(0.392, 0.022), at(0.43, 0.016), (0.037 * h, 0.047 * h), (0.043 * h, 0.053 * h))
    style, hat = person.hair, person.hat
    if style != "bald":
        wide = (0.004 if style == "short" else 0.009) * h
        low, top = (0.0455 * h + wide, 0.05 * h), (0.044 * h + wide, 0.052 * h)
        build.add("hair", "hair", at(0.425, 0.0), at(0.44, 0.008), low, top)
    if style in ("medium", "long"):
        low = at(0.345 if style == "medium" else 0.25, -0.032)
        build.add("hair", "hair", low, at(0.43, -0.012), (0.05 * h, 0.024 * h), (0.05 * h, 0.045 * h), 0.6)
    if style == "ponytail":
        build.add("hair", "hair", at(0.43, -0.055), at(0.32, -0.072), 0.021 * h, 0.012 * h)
    if style == "bun":
        build.add("hair", "hair", at(0.465, -0.045), at(0.468, -0.047), 0.028 * h)
    if hat in ("cap", "beanie"):
        size = h if hat == "cap" else 1.05 * h
        low, top = (0.052 * size, 0.06 * size), (0.048 * size, 0.055 * size)
        build.add("hat", "hat", at(0.449, -0.002), at(0.458, 0.002), low, top)
    if hat == "cap":
        build.add("hat", "hat", at(0.458, 0.05), at(0.45, 0.095), (0.04 * h, 0.01 * h), (0.034 * h, 0.006 * h))
    if hat == "brim hat":
        build.add("hat", "hat", at(0.455, 0.005), at(0.487, 0.005), (0.053 * h, 0.06 * h), (0.045 * h, 0.052 * h), 0.4)
        build.add("hat", "hat", at(0.457, 0.008), at(0.462, 0.008), (0.095 * h, 0.1 * h), None, 0.12)


def _add_bag(build: SolidsBuilder, person: Person, hip_z: float, hands: list[tuple]) -> None:
    h, g, kind = person.height, person.girth, person.bag
    x, y, z = hand = hands[0 if person.bag_side > 0 else 1]

    def at(up, forward, across=0.0):
        return _trunk_point(person, hip_z, up * h, forward, person.bag_side * across * h)

    if kind == "backpack":
        back = -0.07 * h * g * _THICK[person.top] - 0.035 * h
        low, top = (0.08 * h, 0.058 * h), (0.068 * h, 0.044 * h)
        build.add("bag", "bag", at(0.075, back), at(0.235, back + 0.006 * h), low, top, 0.45, (0.0, 0.3))
        pocket = back - 0.045 * h
        build.add("bag", "bag", at(0.095, pocket), at(0.14, pocket), (0.055 * h, 0.028 * h), None, 0.5, (0.3, 0.4))
    if kind in ("shoulder bag", "cross bag"):
        out, low, size = (0.115 * g, -0.035, 0.065) if kind == "shoulder bag" else (0.105 * g, 0.0, 0.052)
        wide, narrow = (0.032 * h, size * h), (0.026 * h, size * 0.9 * h)
        build.add("bag", "bag", at(low, -0.02 * h, out), at(low + 0.07, -0.02 * h, out), wide, narrow, 0.4, (0.0, 0.2))
    if kind == "shoulder bag":
        for way in (-0.05, 0.03):
            build.add("bag", "bag", at(0.285, 0.0, 0.07), at(0.05, way * h, 0.118 * g), 0.007 * h, tex=(0.5, 0.5))
    if kind == "hand bag":
        for way in (-0.03, 0.03):
            build.add("bag", "bag", hand, (x, y + way * h, z - 0.07 * h), 0.005 * h, tex=(0.5, 0.5))
        low, top = (x, y, z - 0.145 * h), (x, y, z - 0.085 * h)
        build.add("bag", "bag", low, top, (0.025 * h, 0.085 * h), (0.018 * h, 0.07 * h), 0.3, (0.0, 0.2))
    if kind == "trolley":
        behind = y - 0.3
        build.add(
            "bag", "bag", (x, behind, 0.13), (x, behind + 0.04, 0.52), (0.17, 0.11), (0.16, 0.1), 0.25, (0.0, 0.5)
        )
        for out in (-0.07, 0.07):
            build.add("bag", "metal", (x + out, behind + 0.05, 0.55), (x + out * 0.4, y, z), 0.011)
            build.add("bag", "shoe", (x + 1.7 * out, behind, 0.05), (x + 1.5 * out, behind, 0.05), 0.05)
