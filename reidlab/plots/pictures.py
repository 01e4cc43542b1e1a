"""Grids of pictures and ranked lists."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reidlab.data.records import Record
from reidlab.evaluation import matches_and_junk
from reidlab.plots.drawing import FRAMES, frame, picture, styled


@styled
def image_grid(
    images: Sequence[np.ndarray],
    shows: str,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    height: float = 1.9,
) -> tuple[Figure, str]:
    """Draw images side by side, each at its own proportions.

    Args:
        images: uint8 (H, W, 3) each.
        shows: what they show, for the description.
        titles: one short text an image, or None.
        columns: images in a row.
        height: of a row, in inches.

    Returns:
        The figure and its description.

    Raises:
        ValueError: no images, or another number of titles.

    Example:
        >>> image_grid([np.zeros((16, 8, 3), np.uint8)] * 3, "darkness")[1]
        'Figure: darkness; 3 images in 1 row.'

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    if not len(images) or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"got {len(images)} images and {len(titles or [])} titles; expected one title an image")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(columns * height * 0.5 + 0.2, rows * height), squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_visible(False)
    for axes, image, title in zip(grid.flat, images, titles or [""] * len(images), strict=False):
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

    Returns:
        The figure and its description.

    Raises:
        ValueError: a matrix of another shape.

    Taught in: notebooks/00_start_here.ipynb
    """
    distmat = np.asarray(distmat)
    if distmat.shape != (len(query), len(gallery)):
        raise ValueError(f"distmat: got shape {distmat.shape}, expected ({len(query)}, {len(gallery)})")
    figure, grid = plt.subplots(len(rows), results + 1, figsize=(0.72 * (results + 1), 2.0 * len(rows)), squeeze=False)
    counts = dict.fromkeys(("right", "wrong", "junk"), 0)
    for axes_row, row in zip(grid, rows, strict=True):
        _draw_result(axes_row[0], query[row].load(), "query", f"person {query[row].pid}")
        listed = _ranked_list(query[row], gallery, distmat[row], results, show_junk)
        for axes in axes_row[1 + len(listed) :]:
            axes.set_visible(False)
        for axes, (index, kind) in zip(axes_row[1:], listed, strict=False):
            counts[kind] += 1
            _draw_result(axes, gallery[index].load(), kind, f"{distmat[row, index]:.3f}")
    description = (
        f"Figure: {len(rows)} queries (left, black frame) and the {results} nearest gallery images of each, nearest "
        f"first, distance underneath: {counts['right']} right (solid green, ✓), {counts['wrong']} wrong "
        f"(dashed orange, ✗), {counts['junk']} junk (dotted grey, –)."
    )
    return figure, description


def _ranked_list(
    query: Record, gallery: Sequence[Record], distances: np.ndarray, results: int, show_junk: bool
) -> list[tuple[int, str]]:
    listed: list[tuple[int, str]] = []
    labels = (torch.tensor([getattr(record, name) for record in gallery]) for name in ("pid", "camid"))
    matches, junk = matches_and_junk(torch.tensor(query.pid), torch.tensor(query.camid), *labels)
    for index in np.argsort(distances, kind="stable"):
        if junk[index] and not show_junk:
            continue
        listed.append((int(index), "junk" if junk[index] else "right" if matches[index] else "wrong"))
        if len(listed) == results:
            break
    return listed


def _draw_result(axes: Axes, image: np.ndarray, kind: str, text: str) -> None:
    picture(axes, image, aspect="auto")  # one size for all, so that rows can be compared
    frame(axes, kind)
    axes.set_title(FRAMES[kind][2], color=FRAMES[kind][0], fontsize=10, loc="center", pad=3)
    axes.set_xlabel(text, fontsize=9)
