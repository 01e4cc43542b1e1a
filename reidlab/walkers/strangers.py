"""A wardrobe wider than the town's: street colours in any shade, more patterns, prints and ways to hold the arms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from reidlab.walkers.wardrobe import COLORS, Person, sample_person

_DARK = ("black", "charcoal", "navy", "black", "grey", "brown", "denim")
_RICH = ("marl", "flowers", "patches", "tartan", "fading")
_TIGHTS = ("black", "charcoal", "brown", "beige")
_LAYERS = ("jacket", "hoodie", "coat", "open jacket")
Color = tuple[int, int, int]


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _shaded(rng: np.random.Generator, color: str | Color) -> Color:
    """A street colour, a little lighter or darker and off its hue."""
    base = np.array(COLORS[color] if isinstance(color, str) else color, float)
    base = base * np.exp(rng.normal(0, 0.16)) + rng.normal(0, 3.5 + 0.04 * base.mean(), 3)
    return _clipped(base)


def _any_color(rng: np.random.Generator) -> Color:
    value, chroma = rng.uniform(20, 240), rng.uniform(0, 90)
    return _clipped(value + chroma * rng.normal(0, 0.8, 3))


def _clipped(color: np.ndarray) -> Color:
    r, g, b = (int(c) for c in np.clip(color, 5, 250).round())
    return r, g, b


def _colors(rng: np.random.Generator, person: Person) -> dict[str, Color]:
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

    Args:
        rng: the source of all choices; the same state gives the same person.
        pid: identity number.

    Example:
        >>> a = sample_stranger(np.random.default_rng(3), 1)
        >>> a == sample_stranger(np.random.default_rng(3), 1)
        True
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
