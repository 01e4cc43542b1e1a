"""The building blocks of bodies and things: rounded cones with elliptic cross-section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
