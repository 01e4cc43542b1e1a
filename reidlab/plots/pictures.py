"""Figures of pictures: grids, ranked lists, rows of augmented images, and what is inside a `.mat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reidlab.data.records import Record
from reidlab.evaluation import matches_and_junk
from reidlab.plots.drawing import FRAMES, MARKERS, frame, name_row, panels, picture, styled


@styled
def image_grid(
    images: Sequence[np.ndarray], shows: str, titles: Sequence[str] | None = None, columns: int = 8, height: float = 1.9
) -> tuple[Figure, str]:
    """Draw images side by side, each at its own proportions.

    Args:
        images: uint8 (H, W, 3) each.
        shows: what they show, for the description.
        titles: one short text an image, or None.
        columns: images in a row.
        height: of a row, in inches.

    Raises:
        ValueError: no images, or another number of titles.

    Example:
        >>> image_grid([np.zeros((16, 8, 3), np.uint8)] * 3, "darkness")[1]
        'Figure: darkness; 3 images in 1 row.'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    if not len(images) or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"got {len(images)} images and {len(titles or [])} titles; expected one title an image")
    rows = -(-len(images) // columns)
    figure, grid = panels(len(images), columns, 0.5 * height, height, extra=0.2)
    for axes, image, title in zip(grid, images, titles or [""] * len(images), strict=True):
        picture(axes, image)
        axes.set_title(title, fontsize=8, loc="center")
    return figure, f"Figure: {shows}; {len(images)} images in {rows} row{'s' if rows > 1 else ''}."


@styled
def ranked_gallery(
    query: Sequence[Record],
    gallery: Sequence[Record],
    distmat: np.ndarray,
    rows: Sequence[int],
    results: int = 10,
    show_junk: bool = True,
) -> tuple[Figure, str]:
    """Draw queries with their nearest gallery images, distances underneath.

    A solid green frame and ✓ mean the right person, a dashed orange frame and ✗ another one, a dotted grey
    frame and – junk: the same person in the query's own camera, which the market rule does not count.

    Args:
        query: records of the queries.
        gallery: records of the gallery.
        distmat: (Q, G) distances, smaller meaning more alike.
        rows: which queries to draw, a row of pictures each.
        results: how many gallery images a row shows.
        show_junk: draw junk at its place in the list, or leave it out.

    Raises:
        ValueError: a matrix of another shape.

    Taught in: notebooks/00_start_here.ipynb
    """
    distmat = np.asarray(distmat)
    if distmat.shape != (len(query), len(gallery)):
        raise ValueError(f"distmat: got shape {distmat.shape}, expected ({len(query)}, {len(gallery)})")
    figure, grid = plt.subplots(len(rows), results + 1, figsize=(0.72 * (results + 1), 2.0 * len(rows)), squeeze=False)
    counts = dict.fromkeys(("right", "wrong", "junk"), 0)
    pids, camids = (torch.tensor([getattr(record, name) for record in gallery]) for name in ("pid", "camid"))
    for axes_row, row in zip(grid, rows, strict=True):
        record = query[row]
        matches, junk = matches_and_junk(torch.tensor(record.pid), torch.tensor(record.camid), pids, camids)
        ranked = [int(i) for i in np.argsort(distmat[row], kind="stable") if show_junk or not junk[i]][:results]
        _draw_result(axes_row[0], record.load(), "query", f"person {record.pid}")
        for axes, index in zip(axes_row[1:], ranked, strict=False):
            kind = "junk" if junk[index] else "right" if matches[index] else "wrong"
            counts[kind] += 1
            _draw_result(axes, gallery[index].load(), kind, f"{distmat[row, index]:.3f}")
        for axes in axes_row[1 + len(ranked) :]:
            axes.set_visible(False)
    return figure, (
        f"Figure: {len(rows)} queries (left, black frame) and the {results} nearest gallery images of each, nearest "
        f"first, distance underneath: {counts['right']} right (solid green, ✓), {counts['wrong']} wrong "
        f"(dashed orange, ✗), {counts['junk']} junk (dotted grey, –)."
    )


def _draw_result(axes: Axes, image: np.ndarray, kind: str, text: str) -> None:
    picture(axes, image, aspect="auto")  # one size for all, so that rows can be compared
    frame(axes, kind)
    axes.set_title(FRAMES[kind][2], color=FRAMES[kind][0], fontsize=10, loc="center", pad=3)
    axes.set_xlabel(text, fontsize=9)


@styled
def augmented_rows(rows: Mapping[str, Sequence[np.ndarray]], shows: str) -> tuple[Figure, str]:
    """Draw rows of pictures of one size, the name of each row at its left.

    Args:
        rows: uint8 (H, W, 3) pictures by the name of what was done to them, the same number of them in each row.
        shows: what they show, for the description.

    Raises:
        ValueError: no rows, or rows of different lengths.

    Example:
        >>> black = np.zeros((8, 4, 3), np.uint8)
        >>> augmented_rows({"as it is": [black] * 2, "mirror": [black] * 2}, "a dark picture")[1]
        'Figure: a dark picture, 2 draws a row: as it is, mirror.'

    Taught in: notebooks/06_training.ipynb
    """
    numbers = {name: len(pictures) for name, pictures in rows.items()}
    if not numbers or len(set(numbers.values())) != 1 or 0 in numbers.values():
        raise ValueError(f"got rows of {numbers or 'nothing'}; expected the same number of pictures in each")
    columns = next(iter(numbers.values()))
    figure, grid = plt.subplots(len(rows), columns, figsize=(0.72 * columns + 1.2, 1.3 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, pictures, strict=True):
            picture(axes, image)
        name_row(line[0], name)
    return figure, f"Figure: {shows}, {columns} draws a row: {', '.join(rows)}."


@styled
def reference_tree(levels: Sequence[tuple[str, str, str]], image: np.ndarray) -> tuple[Figure, str]:
    """Draw the way from a `.mat` file to one picture, a box for every reference that is followed.

    Args:
        levels: for each step its path, its shape, and what one of its cells holds.
        image: the picture at the end, uint8 (H, W, 3).

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    figure, axes = plt.subplots(figsize=(9.5, 2.6))
    axes.set(xlim=(0, 2.4 * len(levels) + 1.2), ylim=(0, 3))
    axes.axis("off")
    for number, (path, shape, content) in enumerate(levels):
        left = 2.4 * number
        axes.add_patch(plt.Rectangle((left, 0.9), 1.85, 1.3, facecolor="#E8F1F8", edgecolor="#0072B2", linewidth=1.5))
        for height, text, family in ((2.4, path, "monospace"), (1.75, shape, "monospace"), (1.2, content, None)):
            axes.text(left + 0.92, height, text, ha="center", family=family, fontsize=9)
        axes.annotate("", (left + 2.38, 1.55), (left + 1.87, 1.55), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
    share = 1.1 / (2.4 * len(levels) + 1.2)
    picture(axes.inset_axes([1 - share, 0.1, share, 0.85]), image)
    steps = " → ".join(f"{path} {shape}" for path, shape, _ in levels)
    return figure, f"Figure: the way to one picture: {steps} → {image.shape[0]}×{image.shape[1]} pixels."


@styled
def filled_cells(filled: np.ndarray, show: int = 60) -> tuple[Figure, str]:
    """Draw which cells of one camera pair hold an image.

    Args:
        filled: (identities, 10) booleans; columns 0–4 are view 1, columns 5–9 view 2.
        show: how many identities to draw.

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

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for marker, (name, values) in zip(cycle(MARKERS), sizes.items(), strict=False):
        axes.scatter(values[:, 1], values[:, 0], s=14, alpha=0.5, marker=marker, label=name)
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)")
    axes.legend()
    text = "; ".join(
        f"{name}: height {v[:, 0].min()}–{v[:, 0].max()}, width {v[:, 1].min()}–{v[:, 1].max()}, "
        f"mean {v[:, 0].mean():.0f}×{v[:, 1].mean():.0f}"
        for name, v in sizes.items()
    )
    return figure, f"Figure: image sizes in pixels. {text}."
