"""Figures of the data: the tree inside a `.mat`, its cells, the sizes of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reidlab.plots.drawing import picture, styled


@styled
def reference_tree(levels: Sequence[tuple[str, str, str]], image: np.ndarray) -> tuple[Figure, str]:
    """Draw the way from a `.mat` file to one picture, a box for every reference that is followed.

    Args:
        levels: for each step its path, its shape, and what one of its cells holds.
        image: the picture at the end, uint8 (H, W, 3).

    Returns:
        The figure and its description.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    figure, axes = plt.subplots(figsize=(9.5, 2.6))
    axes.set(xlim=(0, 2.4 * len(levels) + 1.2), ylim=(0, 3))
    axes.axis("off")
    for number, (path, shape, content) in enumerate(levels):
        left = 2.4 * number
        axes.add_patch(plt.Rectangle((left, 0.9), 1.85, 1.3, facecolor="#E8F1F8", edgecolor="#0072B2", linewidth=1.5))
        axes.text(left + 0.92, 2.4, path, ha="center", family="monospace", fontsize=9)
        axes.text(left + 0.92, 1.75, shape, ha="center", family="monospace", fontsize=9)
        axes.text(left + 0.92, 1.2, content, ha="center", fontsize=9)
        axes.annotate("", (left + 2.38, 1.55), (left + 1.87, 1.55), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
    inset = axes.inset_axes([1 - 1.1 / (2.4 * len(levels) + 1.2), 0.1, 1.1 / (2.4 * len(levels) + 1.2), 0.85])
    picture(inset, image)
    steps = " → ".join(f"{path} {shape}" for path, shape, _ in levels)
    return figure, f"Figure: the way to one picture: {steps} → {image.shape[0]}×{image.shape[1]} pixels."


@styled
def filled_cells(filled: np.ndarray, show: int = 60) -> tuple[Figure, str]:
    """Draw which cells of one camera pair hold an image.

    Args:
        filled: (identities, 10) booleans; columns 0–4 are view 1, columns 5–9 view 2.
        show: how many identities to draw.

    Returns:
        The figure and its description, which counts over all identities, drawn or not.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    figure, axes = plt.subplots(figsize=(9.5, 2.6))
    drawn = filled[:show].T
    extent = (0.5, drawn.shape[1] + 0.5, 9.5, -0.5)
    axes.imshow(drawn, aspect="auto", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    axes.axhline(4.5, color="white", linewidth=2)
    axes.set(xlabel="identity", yticks=[2, 7], yticklabels=["view 1", "view 2"], title="light: an image, dark: empty")
    axes.grid(False)
    empty = int((~filled).sum())
    return figure, (
        f"Figure: cells of the first {min(show, len(filled))} identities of one camera pair; in all "
        f"{filled.size - empty} of {filled.size} cells hold an image and {empty} are empty."
    )


@styled
def image_sizes(sizes: Mapping[str, np.ndarray]) -> tuple[Figure, str]:
    """Draw the heights and widths of images, a marker and a colour for each group.

    Args:
        sizes: (N, 2) heights and widths in pixels, by the name of the group.

    Returns:
        The figure and its description.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for marker, (name, values) in zip(cycle("os^D"), sizes.items(), strict=False):
        axes.scatter(values[:, 1], values[:, 0], s=14, alpha=0.5, marker=marker, label=name)
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)")
    axes.legend()
    text = "; ".join(
        f"{name}: height {v[:, 0].min()}–{v[:, 0].max()}, width {v[:, 1].min()}–{v[:, 1].max()}, "
        f"mean {v[:, 0].mean():.0f}×{v[:, 1].mean():.0f}"
        for name, v in sizes.items()
    )
    return figure, f"Figure: image sizes in pixels. {text}."
