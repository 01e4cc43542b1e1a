"""What all figures share: the style sheet, frames, pictures without axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Function = TypeVar("Function", bound=Callable)
STYLE = Path(__file__).with_name("reidlab.mplstyle")
FRAMES = {  # colour, line style, mark: never colour alone
    "right": ("#009E73", "-", "✓"),
    "wrong": ("#D55E00", (0, (4, 1.5)), "✗"),
    "junk": ("#8C8C8C", (0, (1, 2)), "–"),
    "query": ("#000000", "-", "query"),
}


def styled(function: Function) -> Function:
    """Draw with the package's style sheet, leaving the caller's settings alone."""

    @wraps(function)
    def inside_style(*args, **kwargs):
        with plt.style.context(STYLE):
            return function(*args, **kwargs)

    return inside_style


def picture(axes: Axes, image: np.ndarray, aspect: str = "equal") -> None:
    """Draw an image without axes around it."""
    axes.imshow(image, aspect=aspect)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def frame(axes: Axes, kind: str) -> None:
    """Frame a picture as "right", "wrong", "junk" or "query"."""
    colour, line, _ = FRAMES[kind]
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=3, linestyle=line)
