"""What all figures share: the style sheet, panels, frames, pictures without axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Function = TypeVar("Function", bound=Callable)
STYLE = Path(__file__).with_name("reidlab.mplstyle")
FRAMES = {  # colour, line style, mark: never colour alone
    "right": ("#009E73", "-", "✓"),
    "wrong": ("#D55E00", (0, (4, 1.5)), "✗"),
    "junk": ("#8C8C8C", (0, (1, 2)), "–"),
    "query": ("#000000", "-", "query"),
}
MARKERS = "os^Dvx"
PAIRS = {  # how histograms of the distances of pairs are drawn
    "same person": {"color": "#009E73", "fill": True, "alpha": 0.45},
    "two people": {"color": "#D55E00", "linestyle": "--", "linewidth": 2},
}


def styled(function: Function) -> Function:
    """Draw with the package's style sheet, leaving the caller's settings alone."""

    @wraps(function)
    def inside_style(*args, **kwargs):
        with plt.style.context(STYLE):
            return function(*args, **kwargs)

    return inside_style


def panels(
    number: int, columns: int, width: float, height: float, extra: float = 0.0, **shared: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `number` panels, at most `columns` in a row.

    Args:
        number: of panels, ≥ 1; columns: in a row.
        width, height: of a panel in inches; extra: inches beside all of them.
        shared: sharex, sharey.
    """
    columns = min(columns, number)
    rows = -(-number // columns)
    size = (width * columns + extra, height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, **shared)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:number])


def blank(axes: Axes) -> None:
    """Remove ticks and grid."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def picture(axes: Axes, image: np.ndarray, aspect: str = "equal") -> None:
    """Draw an image without axes around it."""
    axes.imshow(image, aspect=aspect)
    blank(axes)
    axes.spines[:].set_visible(False)


def frame(axes: Axes, kind: str) -> None:
    """Frame a picture as "right", "wrong", "junk" or "query"."""
    colour, line, _ = FRAMES[kind]
    axes.spines[:].set(visible=True, color=colour, linewidth=3, linestyle=line)


def name_row(axes: Axes, name: str) -> None:
    """Write the name of a row of pictures at the left of its first one."""
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)


def numbers(axes: Axes, values: np.ndarray, form: str, low: float, high: float, aspect: str = "equal") -> None:
    """Draw a small matrix as colours from `low` to `high` with its numbers in it; NaN stays empty."""
    axes.imshow(values, aspect=aspect, vmin=low, vmax=high)
    axes.grid(False)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "black" if value > (low + high) / 2 else "white"
            axes.text(column, row, f"{value:{form}}", ha="center", va="center", color=ink, fontsize=9)
