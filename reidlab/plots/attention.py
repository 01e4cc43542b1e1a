"""Figures of attention: relations, gates beside the true outline, costs.

Taught in: notebooks/04_rga_attention.ipynb
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reidlab.plots.drawing import MARKERS, blank, name_row, numbers, panels, picture, styled

MEGABYTE = 2**20
QUANTITIES = {"seconds": ("seconds a step", 1.0), "saved_bytes": ("saved for the backward pass (MiB)", 1 / MEGABYTE)}


@styled
def relation_stacks(relations: np.ndarray, height: int, width: int) -> tuple[Figure, str]:
    """Draw a matrix of relations and, for each place of the map, its row and its column as maps.

    Args:
        relations: (N, N), row i and column j: θ_i · φ_j; N = height · width, at most 12.
        height, width: of the map.

    Raises:
        ValueError: a matrix of another shape, or one too large to be read.

    Example:
        >>> relation_stacks([[1, 2], [3, 4]], 1, 2)[1]
        'Figure: 2×2 relations, the row and the column of each of 2 places; place 0: row 1, 2, column 1, 3.'
    """
    relations = np.asarray(relations, float)
    places = height * width
    if relations.shape != (places, places) or places > 12:
        raise ValueError(f"relations: got shape {relations.shape}, expected ({places}, {places}) and at most 12 places")
    figure = plt.figure(figsize=(3.3 + 1.25 * places, 3.2))
    grid = figure.add_gridspec(2, places + 1, width_ratios=[2.6, *[1] * places])
    limits = float(relations.min()), float(relations.max()) or 1.0
    axes = figure.add_subplot(grid[:, 0])
    numbers(axes, relations, "g", *limits)
    axes.set(xlabel="j", ylabel="i", title="θ_i · φ_j", xticks=range(places), yticks=range(places))
    for place in range(places):
        for line, (name, values) in enumerate((("row", relations[place]), ("column", relations[:, place]))):
            axes = figure.add_subplot(grid[line, place + 1])
            numbers(axes, values.reshape(height, width), "g", *limits)
            blank(axes)
            axes.set_title(f"{name} {place}", fontsize=10)
    first = (", ".join(f"{value:g}" for value in values) for values in (relations[0], relations[:, 0]))
    shows = f"{places}×{places} relations, the row and the column of each of {places} places"
    return figure, f"Figure: {shows}; place 0: row {next(first)}, column {next(first)}."


@styled
def attention_costs(costs: Mapping[str, Mapping[str, float]]) -> tuple[Figure, str]:
    """Draw what modules cost as bars on logarithmic axes, a panel for each quantity.

    Args:
        costs: for each module, numbers above 0 by the name of the quantity; the same quantities everywhere.

    Raises:
        ValueError: no modules, other quantities for one of them, or a number that is not above 0.

    Example:
        >>> attention_costs({"a": {"parameters": 8}, "b": {"parameters": 900}})[1]
        'Figure: costs on logarithmic axes. parameters: from 8 (a) to 900 (b).'
    """
    kinds = [tuple(values) for values in costs.values()]
    if not kinds or len(set(kinds)) > 1 or not kinds[0]:
        raise ValueError(f"got quantities {kinds}; expected the same ones, at least one, for every module")
    if min(min(values.values()) for values in costs.values()) <= 0:
        raise ValueError(f"got {dict(costs)}; a logarithmic axis takes numbers above 0 only")
    figure, grid = panels(len(kinds[0]), len(kinds[0]), 3.4, 0.42 * len(costs) + 1.0, extra=1.2)
    names = list(costs)
    texts = []
    for axes, quantity in zip(grid, kinds[0], strict=True):
        values = [costs[name][quantity] for name in names]
        axes.barh(range(len(names)), values, color="#0072B2")
        axes.set(xscale="log", yticks=[], ylim=(len(names) - 0.4, -0.6), xlim=(min(values) / 3, max(values) * 8))
        axes.set_title(quantity)
        for line, value in enumerate(values):
            axes.text(value * 1.15, line, f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", va="center", fontsize=9)
        low, high = int(np.argmin(values)), int(np.argmax(values))
        texts.append(f"{quantity}: from {values[low]:,.3g} ({names[low]}) to {values[high]:,.6g} ({names[high]})")
    grid[0].set(yticks=range(len(names)), yticklabels=names)
    return figure, f"Figure: costs on logarithmic axes. {'; '.join(texts)}."


@styled
def method_sizes(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Draw time and saved memory of a step over the places of the map, a curve for each way to compute it.

    Args:
        rows: each with "method", "map_height", "map_width", "seconds" and "saved_bytes".

    Raises:
        ValueError: no rows.

    Example:
        >>> at = {"map_height": 8, "map_width": 4}
        >>> explicit = {"method": "explicit", "seconds": 0.5, "saved_bytes": 2**21, **at}
        >>> factored = {"method": "factored", "seconds": 0.1, "saved_bytes": 2**20, **at}
        >>> method_sizes([explicit, factored])[1]
        'Figure: cost over the places of a map. At 32 places: explicit 0.5 s, 2 MiB; factored 0.1 s, 1 MiB.'
    """
    if not rows:
        raise ValueError("rows is empty: there is nothing to draw")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, grid = panels(2, 2, 4.3, 3.3)
    sizes = sorted({row["map_height"] * row["map_width"] for row in rows})
    largest = sizes[-1]
    texts = []
    for marker, method in zip(cycle(MARKERS), methods, strict=False):
        own = sorted(
            (r["map_height"] * r["map_width"], r["seconds"], r["saved_bytes"]) for r in rows if r["method"] == method
        )
        places, *columns = zip(*own, strict=True)
        for axes, values, (_, scale) in zip(grid, columns, QUANTITIES.values(), strict=True):
            axes.plot(places, [value * scale for value in values], marker=marker, label=method)
        if places[-1] == largest:
            texts.append(f"{method} {own[-1][1]:.3g} s, {own[-1][2] / MEGABYTE:.3g} MiB")
    for axes, (title, _) in zip(grid, QUANTITIES.values(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="places of the map", title=title)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    grid[0].legend()
    return figure, f"Figure: cost over the places of a map. At {largest:,} places: {'; '.join(texts)}."


@styled
def attention_pictures(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], gates: Mapping[str, np.ndarray]
) -> tuple[Figure, str]:
    """Draw pictures, their true outlines and the gates of one or more maps, a column for each picture.

    Each row has its own scale of colours, from its smallest gate to its largest: gates that hardly differ look as
    strong as any, so the description states the range.

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) each, True on the person.
        gates: by name, (B, h, w), one map for each picture.

    Raises:
        ValueError: no pictures, or another number of masks or maps.

    Example:
        >>> black, mask = np.zeros((8, 4, 3), np.uint8), np.ones((8, 4), bool)
        >>> attention_pictures([black] * 2, [mask] * 2, {"stage 1": np.array([[[0.2]], [[0.4]]])})[1]
        'Figure: 2 pictures, the true outline of the person, and gates (dark: low). stage 1: 0.20 to 0.40.'
    """
    numbers = {"masks": len(masks), **{name: len(maps) for name, maps in gates.items()}}
    if not len(images) or set(numbers.values()) != {len(images)}:
        raise ValueError(f"got {len(images)} pictures and {numbers}; expected one of each for every picture")
    size = (1.0 * len(images) + 1.4, 1.75 * (len(gates) + 2))
    figure, grid, ranges = _gate_grid(images, ["picture", "person"], gates, size)
    for axes, mask in zip(grid[1], masks, strict=True):
        axes.imshow(mask, cmap="gray", aspect="auto", vmin=0, vmax=1)
    shows = f"{len(images)} pictures, the true outline of the person, and gates (dark: low)"
    return figure, f"Figure: {shows}. {ranges}."


@styled
def gate_maps(
    images: Sequence[np.ndarray], gates: Mapping[str, np.ndarray], titles: Sequence[str] | None = None
) -> tuple[Figure, str]:
    """Draw pictures and, below each, its gates: what attention lets through, for pictures without a true outline.

    Each row has its own scale of colours, as in `attention_pictures`.

    Args:
        images: (H, W, 3) uint8 each.
        gates: by name, (B, h, w), one map for each picture.
        titles: a short text for each picture, or None.

    Raises:
        ValueError: no pictures or gates, or another number of maps or titles.

    Example:
        >>> black = np.zeros((8, 4, 3), np.uint8)
        >>> gate_maps([black] * 2, {"stage 1": np.array([[[0.2]], [[0.4]]])})[1]
        'Figure: 2 pictures and the gates of their places (dark: low). stage 1: 0.20 to 0.40.'
    """
    titles = [""] * len(images) if titles is None else list(titles)
    numbers = {"titles": len(titles), **{name: len(maps) for name, maps in gates.items()}}
    if not len(images) or not gates or set(numbers.values()) != {len(images)}:
        raise ValueError(f"got {len(images)} pictures and {numbers}; expected gates, and one of each for every picture")
    size = (0.85 * len(images) + 1.0, 1.5 * (len(gates) + 1))
    figure, grid, ranges = _gate_grid(images, ["picture"], gates, size)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, loc="center")
    for axes in grid.flat:
        axes.spines[:].set_visible(False)
    return figure, f"Figure: {len(images)} pictures and the gates of their places (dark: low). {ranges}."


def _gate_grid(
    images: Sequence[np.ndarray], above: Sequence[str], gates: Mapping[str, np.ndarray], size: tuple[float, float]
) -> tuple[Figure, np.ndarray, str]:
    """Draw images in the first of the rows `above`, gates in the rows below; return axes and ranges too."""
    figure, grid = plt.subplots(len(above) + len(gates), len(images), figsize=size, squeeze=False)
    for axes, image in zip(grid[0], images, strict=True):
        picture(axes, image, aspect="auto")
    for line, maps in zip(grid[len(above) :], gates.values(), strict=True):
        for axes, one in zip(line, maps, strict=True):
            axes.imshow(one, aspect="auto", vmin=np.min(maps), vmax=np.max(maps))
    for axes in grid.flat:
        blank(axes)
    for axes, name in zip(grid[:, 0], [*above, *gates], strict=True):
        name_row(axes, name.replace(", ", ",\n"))
    return figure, grid, "; ".join(f"{name}: {np.min(maps):.2f} to {np.max(maps):.2f}" for name, maps in gates.items())


@styled
def attention_shares(shares: Mapping[str, Mapping[str, float]], label: str) -> tuple[Figure, str]:
    """Draw ratios as marks beside the line at 1, which stands for "no more than its share of the area".

    Args:
        shares: for each row of the figure, numbers above 0 by the name of the series.
        label: what the numbers are.

    Raises:
        ValueError: no rows.

    Example:
        >>> attention_shares({"head": {"before": 1.0, "after": 1.25}}, "ratio")[1]
        'Figure: ratio. head: before 1.00, after 1.25.'
    """
    if not shares:
        raise ValueError("shares is empty: there is nothing to draw")
    series = list(dict.fromkeys(name for values in shares.values() for name in values))
    figure, axes = plt.subplots(figsize=(6.8, 0.4 * len(shares) + 1.2))
    axes.axvline(1, color="black", linewidth=1, linestyle=":")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for marker, colour, name in zip(cycle(MARKERS), cycle(colours), series, strict=False):
        own = [(values[name], line) for line, values in enumerate(shares.values()) if name in values]
        axes.plot(*zip(*own, strict=True), marker, markersize=8, color=colour, alpha=0.85, label=name)
    axes.set(yticks=range(len(shares)), yticklabels=list(shares), xlabel=label, ylim=(len(shares) - 0.5, -0.5))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    texts = (f"{row}: {', '.join(f'{n} {v:.2f}' for n, v in values.items())}" for row, values in shares.items())
    return figure, f"Figure: {label}. {'; '.join(texts)}."
