"""Every figure of the lessons. Each function returns the figure and one sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidlab.data.records import Record
from reidlab.evaluation import Evaluation
from reidlab.evaluation.ranking import matches_and_junk

STYLE = Path(__file__).with_name("reidlab.mplstyle")
FRAMES = {  # colour, line style, mark: never colour alone
    "right": ("#009E73", "-", "✓"),
    "wrong": ("#D55E00", (0, (4, 1.5)), "✗"),
    "junk": ("#8C8C8C", (0, (1, 2)), "–"),
    "query": ("#000000", "-", "query"),
}


def _styled(function):
    """Draw with the package's style sheet, leaving the caller's settings alone."""

    @wraps(function)
    def inside_style(*args, **kwargs):
        with plt.style.context(STYLE):
            return function(*args, **kwargs)

    return inside_style


def _picture(axes: Axes, image: np.ndarray, aspect: str = "equal") -> None:
    axes.imshow(image, aspect=aspect)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _frame(axes: Axes, kind: str) -> None:
    colour, line, _ = FRAMES[kind]
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=3, linestyle=line)


@_styled
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
        _picture(axes, image)
        axes.set_title(title, fontsize=8, loc="center")
    return figure, f"Figure: {shows}; {len(images)} images in {rows} row{'s' if rows > 1 else ''}."


@_styled
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
    _picture(axes, image, aspect="auto")  # one size for all, so that rows can be compared
    _frame(axes, kind)
    axes.set_title(FRAMES[kind][2], color=FRAMES[kind][0], fontsize=10, loc="center", pad=3)
    axes.set_xlabel(text, fontsize=9)


@_styled
def cmc(results: Mapping[str, Evaluation], max_rank: int = 20) -> tuple[Figure, str]:
    """Draw cumulative matching curves: the share of queries with a right match among the first k results.

    Args:
        results: evaluations by the name to print; all by the same rule.
        max_rank: how far to draw.

    Returns:
        The figure and its description.

    Raises:
        ValueError: nothing to draw, or evaluations by different rules, which must not be compared.

    Taught in: notebooks/00_start_here.ipynb
    """
    rules = {result.rule for result in results.values()}
    if len(rules) != 1:
        raise ValueError(f"got rules {sorted(rules)}; one picture compares rankings under exactly one rule")
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for marker, (name, result) in zip(cycle("os^Dvx"), results.items(), strict=False):
        curve = result.cmc[:max_rank]
        axes.plot(np.arange(1, len(curve) + 1), curve, marker=marker, markersize=4, label=name)
    axes.set(xlabel="rank k", ylabel="share of queries", ylim=(0, 1.02), title="right match among the first k")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    text = "; ".join(
        f"{name}: {r.rank1:.1%} at rank 1, {r.rank(min(10, len(r.cmc))):.1%} at rank 10" for name, r in results.items()
    )
    return figure, f"Figure: matching curves under the {rules.pop()} rule. {text}."


@_styled
def history(rows: Sequence[Mapping[str, float]]) -> tuple[Figure, str]:
    """Draw the loss terms of a training run over its iterations.

    Args:
        rows: the history of a `TrainResult`.

    Returns:
        The figure and its description.

    Taught in: notebooks/00_start_here.ipynb
    """
    if not rows:
        raise ValueError("the history is empty; train for at least `log_every` iterations")
    terms = [name for name in rows[0] if name not in ("iteration", "learning_rate")]
    iterations = [row["iteration"] for row in rows]
    figure, panels = plt.subplots(1, len(terms), figsize=(3.4 * len(terms), 2.8), squeeze=False)
    for axes, name in zip(panels.flat, terms, strict=True):
        axes.plot(iterations, [row[name] for row in rows], marker="o", markersize=3)
        axes.set(xlabel="iteration", title=name.replace("_", " "), ylim=(0, None))
    ends = "; ".join(f"{name.replace('_', ' ')} from {rows[0][name]:.2f} to {rows[-1][name]:.2f}" for name in terms)
    return figure, f"Figure: losses over {int(iterations[-1])} iterations: {ends}."


@_styled
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
    _picture(inset, image)
    steps = " → ".join(f"{path} {shape}" for path, shape, _ in levels)
    return figure, f"Figure: the way to one picture: {steps} → {image.shape[0]}×{image.shape[1]} pixels."


@_styled
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


@_styled
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
