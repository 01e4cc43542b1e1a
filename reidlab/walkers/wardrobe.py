"""What people look like: body, clothes, hair, bags, gait, drawn at random as a street would have them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

RGB = tuple[int, int, int]
Color = str | RGB

# sRGB, 0..255. Street colours come first and are worn most; the saturated ones are few.
COLORS: dict[str, RGB] = {
    "black": (24, 24, 27),
    "charcoal": (52, 53, 58),
    "grey": (112, 113, 117),
    "light grey": (172, 172, 174),
    "white": (228, 228, 226),
    "navy": (30, 38, 70),
    "denim": (62, 86, 126),
    "light denim": (128, 152, 186),
    "beige": (198, 180, 148),
    "khaki": (132, 122, 88),
    "brown": (92, 66, 46),
    "olive": (78, 84, 54),
    "cream": (232, 222, 196),
    "burgundy": (106, 28, 42),
    "red": (182, 34, 38),
    "blue": (36, 84, 174),
    "green": (42, 118, 72),
    "yellow": (222, 182, 52),
    "pink": (216, 142, 162),
    "purple": (98, 62, 130),
    "teal": (32, 118, 124),
    "orange": (214, 106, 40),
}
SKIN_TONES = {
    "light": (232, 196, 172),
    "fair": (216, 172, 142),
    "medium": (188, 138, 104),
    "tan": (154, 106, 76),
    "dark": (104, 68, 48),
}
HAIR_COLORS = {
    "black": (22, 19, 19),
    "dark brown": (46, 32, 24),
    "brown": (82, 56, 38),
    "blond": (178, 144, 92),
    "grey": (142, 140, 138),
    "red": (120, 58, 32),
}
TOP_TYPES = ("t-shirt", "shirt", "sweater", "hoodie", "open jacket", "jacket", "puffer", "coat", "dress", "vest")
BOTTOM_TYPES = ("trousers", "slim trousers", "wide trousers", "shorts", "skirt", "long skirt")
PATTERNS = ("plain", "stripes", "pinstripes", "check", "colour block", "raglan", "chest band", "dots", "camouflage")
PATTERNS += ("marl", "flowers", "patches", "tartan", "fading")
PRINTS = ("none", "front", "back", "both")
BAGS = ("none", "backpack", "shoulder bag", "cross bag", "hand bag", "trolley")
HATS = ("none", "cap", "beanie", "brim hat")
HAIR_STYLES = ("short", "medium", "long", "ponytail", "bun", "bald")
SHOES = ("shoes", "sneakers", "boots", "sandals")
ARMS = ("swing", "pockets", "folded", "behind", "phone")

_TOP_SHARES = (15, 8, 9, 6, 11, 9, 5, 3, 6, 3, 4, 3.5, 2.5, 2, 2.5, 2.5, 2, 1.5, 2, 1.2, 1.8, 1.2)
_TOP_COLORS = dict(zip(COLORS, _TOP_SHARES, strict=True))
_BOTTOM_COLORS = {"black": 20, "charcoal": 10, "grey": 9, "navy": 11, "denim": 16, "light denim": 7, "beige": 8}
_BOTTOM_COLORS |= {"khaki": 5, "brown": 4, "olive": 4, "white": 5, "burgundy": 1.5}
_BAG_COLORS = {"black": 34, "charcoal": 10, "grey": 9, "navy": 10, "brown": 12, "beige": 6, "red": 4, "olive": 5}
_BAG_COLORS |= {"blue": 3, "pink": 2, "teal": 2, "white": 3, "yellow": 1, "orange": 1}
_SHOE_COLORS = {"black": 40, "white": 22, "brown": 14, "grey": 10, "navy": 6, "beige": 4, "red": 2, "blue": 2}


@dataclass(frozen=True)
class Person:
    """Everything that stays the same about one walker, whichever camera sees them.

    Args:
        pid: identity number, 1..N, in (pair, identity) order.
        pair: camera pair, 1..5, that saw this person.
        identity: number within the pair, 1-based.
        height: body height in metres, 1.45..1.98.
        girth: width of the trunk and limbs, 1.0 = average.
        shoulders: width of the shoulders, 1.0 = average.
        skin: a name of `SKIN_TONES`.
        hair: a name of `HAIR_STYLES`; hair_color: a name of `HAIR_COLORS`.
        hat, hat_color: a name of `HATS` and a colour.
        top, top_color, top_color2: garment type, main and second colour.
        top_pattern: a name of `PATTERNS`; pattern_scale: period in metres.
        top_print: which side carries a print; print_color, print_shape: its colour and shape, 0..8.
        inner_color: what shows under an open jacket or at the collar.
        sleeves: "short" or "long".
        bottom, bottom_color, bottom_pattern: lower garment; "plain", "side stripe", "check", "faded"
            or "marl".
        shoes, shoe_color: footwear.
        bag, bag_color: what is carried; bag_side: -1 right, 1 left.
        stride, arm_swing, stoop: gait; radians of the hip, radians of the shoulder, radians of the trunk.
        shade: seed of the small shifts of colour and fabric that make two black coats differ.
        tights: colour of what covers legs below shorts and skirts; None: bare.
        arms: what they do, a name of `ARMS`.

    A colour is a name of `COLORS` or an (r, g, b) triple, 0..255.

    Example:
        >>> person = sample_person(np.random.default_rng(0), pid=1, pair=1, identity=1)
        >>> person.top in TOP_TYPES
        True

    Taught in: notebooks/00_start_here.ipynb
    """

    pid: int
    pair: int
    identity: int
    height: float
    girth: float
    shoulders: float
    skin: str
    hair: str
    hair_color: str
    hat: str
    hat_color: Color
    top: str
    top_color: Color
    top_color2: Color
    top_pattern: str
    pattern_scale: float
    top_print: str
    print_color: Color
    print_shape: int
    inner_color: Color
    sleeves: str
    bottom: str
    bottom_color: Color
    bottom_pattern: str
    shoes: str
    shoe_color: Color
    bag: str
    bag_color: Color
    bag_side: int
    stride: float
    arm_swing: float
    stoop: float
    shade: int
    tights: Color | None = None
    arms: str = "swing"

    def describe(self) -> str:
        """One sentence that a witness might give.

        Example:
            >>> sample_person(np.random.default_rng(0), 1, 1, 1).describe().startswith("Person 1")
            True
        """
        top = f"{_say(self.top_color)} {self.top}"
        if self.top_pattern != "plain":
            top += f" ({self.top_pattern} with {_say(self.top_color2)})"
        if self.top_print != "none":
            where = "front and back" if self.top_print == "both" else self.top_print
            top += f" with a {_say(self.print_color)} print on the {where}"
        legs = "" if self.top == "dress" else f", {_say(self.bottom_color)} {self.bottom}"
        hair = "bald" if self.hair == "bald" else f"{self.hair} {self.hair_color} hair"
        hat = "" if self.hat == "none" else f", {_say(self.hat_color)} {self.hat}"
        bag = "no bag" if self.bag == "none" else f"{_say(self.bag_color)} {self.bag}"
        return (
            f"Person {self.pid}: {self.height:.2f} m, {hair}{hat}, {top}{legs}, "
            f"{_say(self.shoe_color)} {self.shoes}, {bag}."
        )


PERSON_FIELDS = tuple(f.name for f in fields(Person))
CHOICES = {
    "skin": tuple(SKIN_TONES),
    "hair": HAIR_STYLES,
    "hair_color": tuple(HAIR_COLORS),
    "hat": HATS,
    "top": TOP_TYPES,
    "top_pattern": PATTERNS,
    "top_print": PRINTS,
    "sleeves": ("short", "long"),
    "bottom": BOTTOM_TYPES,
    "bottom_pattern": ("plain", "side stripe", "check", "faded", "marl"),
    "shoes": SHOES,
    "bag": BAGS,
    "print_shape": tuple(range(9)),
    "arms": ARMS,
    "bag_side": (-1, 1),
}
COLOR_FIELDS = tuple(n for n in PERSON_FIELDS if n.endswith(("_color", "_color2")) and n != "hair_color")


def _say(color: Color) -> str:
    return color if isinstance(color, str) else "rgb({}, {}, {})".format(*color)


def rgb_of(color: Color, table: dict[str, RGB] = COLORS) -> np.ndarray:
    """Linear-light albedo (3,), 0..1, of a colour name or an sRGB triple.

    Raises:
        ValueError: no such name, or not three numbers in 0..255.

    Example:
        >>> rgb_of((255, 255, 255))
        array([1., 1., 1.], dtype=float32)
    """
    if isinstance(color, str):
        if color not in table:
            raise ValueError(f"got the colour {color!r}, expected one of {', '.join(table)}, or an (r, g, b) triple")
        color = table[color]
    value = np.asarray(color, dtype=np.float64)
    if value.shape != (3,) or not ((value >= 0) & (value <= 255)).all():
        raise ValueError(f"got the colour {color!r}, expected a name or three numbers in 0..255")
    return ((value / 255) ** 2.2).astype(np.float32)


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    share = np.array(list(weights.values()), dtype=np.float64)
    return list(weights)[int(np.searchsorted(np.cumsum(share / share.sum()), rng.random(), side="right"))]


def _sample_top(rng: np.random.Generator, slender: bool) -> dict:
    kinds = {"t-shirt": 18, "shirt": 12, "sweater": 12, "hoodie": 13, "open jacket": 13, "jacket": 12, "puffer": 7}
    kinds |= {"coat": 8, "dress": 7 if slender else 0, "vest": 4}
    kind = _pick(rng, kinds)
    patterns = {"plain": 40, "stripes": 11, "pinstripes": 5, "check": 9, "colour block": 9, "raglan": 7}
    patterns |= {"chest band": 6, "dots": 4, "camouflage": 3}
    if kind in ("coat", "puffer", "jacket"):
        patterns = {"plain": 66, "check": 9, "colour block": 14, "chest band": 7, "camouflage": 4}
    color = _pick(rng, _TOP_COLORS)
    short = {"t-shirt": 0.85, "shirt": 0.3, "dress": 0.6, "vest": 0.5}.get(kind, 0.0)
    prints = {"none": 100}
    if kind in ("t-shirt", "sweater", "hoodie"):
        prints = {"none": 42, "front": 24, "back": 12, "both": 22}
    light = ("white", "cream", "light grey", "yellow", "red", "orange", "light denim", "beige")
    dark = ("black", "navy", "charcoal", "burgundy", "blue", "green", "teal", "brown")
    contrast = dark if sum(COLORS[color]) > 330 else light
    return {
        "top": kind,
        "top_color": color,
        "top_color2": contrast[int(rng.integers(len(contrast)))],
        "top_pattern": _pick(rng, patterns),
        "pattern_scale": float(np.round(rng.choice([0.05, 0.07, 0.1, 0.14, 0.2]), 3)),
        "top_print": _pick(rng, prints),
        "print_color": contrast[int(rng.integers(len(contrast)))],
        "print_shape": int(rng.integers(6)),
        "inner_color": _pick(rng, {"white": 40, "grey": 14, "black": 18, "light grey": 10, "red": 4, "blue": 5}),
        "sleeves": "short" if rng.random() < short else "long",
    }


def _sample_rest(rng: np.random.Generator, slender: bool) -> dict:
    bottoms = {"trousers": 36, "slim trousers": 28, "wide trousers": 9, "shorts": 11}
    bottoms |= {"skirt": 12, "long skirt": 6} if slender else {}
    hairs = {"short": 62, "medium": 16, "long": 4, "ponytail": 3, "bald": 9}
    if slender:
        hairs = {"short": 9, "medium": 21, "long": 36, "ponytail": 22, "bun": 12}
    hat = _pick(rng, {"none": 74, "cap": 13, "beanie": 8, "brim hat": 5})
    bags = {"none": 30, "backpack": 26, "shoulder bag": 13, "cross bag": 12, "hand bag": 12, "trolley": 7}
    return {
        "skin": _pick(rng, {"light": 28, "fair": 34, "medium": 20, "tan": 11, "dark": 7}),
        "hair": _pick(rng, hairs),
        "hair_color": _pick(rng, {"black": 46, "dark brown": 26, "brown": 12, "blond": 7, "grey": 7, "red": 2}),
        "hat": hat,
        "hat_color": _pick(rng, {**_BAG_COLORS, "white": 12}),
        "bottom": _pick(rng, bottoms),
        "bottom_color": _pick(rng, _BOTTOM_COLORS),
        "bottom_pattern": _pick(rng, {"plain": 62, "side stripe": 14, "check": 8, "faded": 16}),
        "shoes": _pick(rng, {"shoes": 30, "sneakers": 46, "boots": 16, "sandals": 8}),
        "shoe_color": _pick(rng, _SHOE_COLORS),
        "bag": _pick(rng, bags),
        "bag_color": _pick(rng, _BAG_COLORS),
        "bag_side": int(rng.integers(2)) * 2 - 1,
    }


def sample_person(rng: np.random.Generator, pid: int, pair: int, identity: int) -> Person:
    """Draw one walker; the same state of `rng` gives the same person, `pid`, `pair`, `identity` are as in `Person`.

    Example:
        >>> a = sample_person(np.random.default_rng(3), 1, 1, 1)
        >>> a == sample_person(np.random.default_rng(3), 1, 1, 1)
        True
    """
    slender = bool(rng.random() < 0.5)
    height = rng.normal(1.64 if slender else 1.76, 0.065)
    return Person(
        pid=pid,
        pair=pair,
        identity=identity,
        height=float(np.clip(np.round(height, 3), 1.45, 1.98)),
        girth=float(np.round(np.clip(rng.normal(0.95 if slender else 1.04, 0.11), 0.78, 1.35), 3)),
        shoulders=float(np.round(np.clip(rng.normal(0.92 if slender else 1.05, 0.05), 0.8, 1.2), 3)),
        **_sample_top(rng, slender),
        **_sample_rest(rng, slender),
        stride=float(np.round(rng.uniform(0.3, 0.52), 3)),
        arm_swing=float(np.round(rng.uniform(0.15, 0.6), 3)),
        stoop=float(np.round(rng.uniform(-0.02, 0.12), 3)),
        shade=int(rng.integers(1 << 30)),
    )


# The strangers of the streets: colours in any shade, more patterns, prints and ways to hold the arms.
_DARK = ("black", "charcoal", "navy", "black", "grey", "brown", "denim")
_RICH = ("marl", "flowers", "patches", "tartan", "fading")
_TIGHTS = ("black", "charcoal", "brown", "beige")
_LAYERS = ("jacket", "hoodie", "coat", "open jacket")


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _shaded(rng: np.random.Generator, color: Color) -> RGB:
    """A street colour, a little lighter or darker and off its hue."""
    base = np.array(COLORS[color] if isinstance(color, str) else color, float)
    base = base * np.exp(rng.normal(0, 0.16)) + rng.normal(0, 3.5 + 0.04 * base.mean(), 3)
    return _clipped(base)


def _any_color(rng: np.random.Generator) -> RGB:
    value, chroma = rng.uniform(20, 240), rng.uniform(0, 90)
    return _clipped(value + chroma * rng.normal(0, 0.8, 3))


def _clipped(color: np.ndarray) -> RGB:
    r, g, b = (int(c) for c in np.clip(color, 5, 250).round())
    return r, g, b


def _colors(rng: np.random.Generator, person: Person) -> dict[str, RGB]:
    u = rng.random()
    top = _one_of(rng, _DARK) if u < 0.3 else person.top_color
    bottom = _one_of(rng, _DARK) if rng.random() < 0.35 else person.bottom_color
    out = {
        "top_color": _any_color(rng) if u > 0.9 else _shaded(rng, top),
        "bottom_color": _any_color(rng) if rng.random() < 0.06 else _shaded(rng, bottom),
    }
    for name in ("top_color2", "inner_color", "bag_color", "shoe_color", "hat_color", "print_color"):
        out[name] = _any_color(rng) if rng.random() < 0.2 else _shaded(rng, getattr(person, name))
    return out


def sample_stranger(rng: np.random.Generator, pid: int) -> Person:
    """Draw one walker from the wider wardrobe.

    Example:
        >>> sample_stranger(np.random.default_rng(3), 1).pid
        1
    """
    person = sample_person(rng, pid, 1, 0)
    changes: dict[str, Any] = _colors(rng, person)
    u = rng.random()
    if u < (0.12 if person.top in ("coat", "puffer", "jacket") else 0.25):
        changes["top_pattern"] = _one_of(rng, _RICH)
    elif u < 0.45:
        changes["top_pattern"] = "plain"
    changes["pattern_scale"] = float(np.exp(rng.uniform(math.log(0.03), math.log(0.25))))
    changes["print_shape"] = int(rng.integers(9))
    if person.top in _LAYERS and rng.random() < 0.25:
        changes["top_print"] = _one_of(rng, ("front", "back", "both"))
    if rng.random() < 0.15:
        changes["bottom_pattern"] = "marl"
    elif person.bottom_pattern == "check" and rng.random() < 0.6:
        changes["bottom_pattern"] = "plain"
    if person.bottom in ("skirt", "shorts", "long skirt") and person.hair not in ("short", "bald"):
        changes["tights"] = _shaded(rng, _one_of(rng, _TIGHTS)) if rng.random() < 0.5 else None
    if rng.random() < 0.5:
        changes["hat"] = "none"
    return replace(person, **changes)
