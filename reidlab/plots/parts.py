"""Figures of stripes, of what they are compared with, and of the losses of networks of parts.

Taught in: notebooks/05_relation_network.ipynb
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reidlab.plots.drawing import numbers, picture, styled

HATCHES = ("", "//", "..", "xx")
"""Of bars beside each other, so that they are distinct without colour."""
READINGS = (("mean (GAP)", "s", "#0072B2"), ("largest (GMP)", "^", "#D55E00"))
READINGS += (("released contrast", "D", "#009E73"), ("paper contrast", "v", "#CC79A7"))
"""Name, marker and colour of what is made of the values of all parts."""


def _cut(axes: Axes, height: int, parts: int, **line) -> None:
    for edge in range(1, parts):
        axes.axhline(edge * height / parts - 0.5, **line)


@styled
def stripe_cuts(image: np.ndarray, rows: Sequence[int], parts: Sequence[int]) -> tuple[Figure, str]:
    """Draw a picture with the rows of its map, cut into several numbers of stripes.

    Dotted lines part the rows of the map, thick lines the stripes. A number of stripes that does not divide the
    rows is drawn without cuts, as a pale picture.

    Args:
        image: uint8 (H, W, 3).
        rows: numbers of rows of maps, a row of pictures each.
        parts: numbers of stripes, a column of pictures each.

    Raises:
        ValueError: no rows or no parts, or a number below 1.

    Example:
        >>> stripe_cuts(np.zeros((64, 32, 3), np.uint8), [12, 16], [6, 4])[1]
        'Figure: stripes of a map. 12 rows: 6 of 2, 4 of 3; 16 rows: 6 do not fit, 4 of 4.'
    """
    if not len(rows) or not len(parts) or min(*rows, *parts) < 1:
        raise ValueError(f"got rows={list(rows)}, parts={list(parts)}; expected some of each, all at least 1")
    size = (1.5 * len(parts) + 0.3, 2.5 * len(rows))
    figure, grid = plt.subplots(len(rows), len(parts), figsize=size, squeeze=False)
    texts = []
    for line, height in zip(grid, rows, strict=True):
        cuts = []
        for axes, number in zip(line, parts, strict=True):
            fits = height % number == 0
            picture(axes, image if fits else 255 - (255 - image) // 4)
            _cut(axes, len(image), height, color="white" if fits else "0.5", linewidth=0.6, linestyle=":")
            if fits:
                _cut(axes, len(image), number, color="black", linewidth=4)
                _cut(axes, len(image), number, color="#E69F00", linewidth=2)
            axes.set_title(f"{number} × {height // number}" if fits else f"{number}: no", loc="center")
            cuts.append(f"{number} of {height // number}" if fits else f"{number} do not fit")
        line[0].set_ylabel(f"{height} rows")
        texts.append(f"{height} rows: {', '.join(cuts)}")
    return figure, f"Figure: stripes of a map. {'; '.join(texts)}."


@styled
def contrast_readings(parts: np.ndarray) -> tuple[Figure, str]:
    """Draw, channel by channel, the values of the parts and what is pooled from them.

    Args:
        parts: (n, C) values of n ≥ 2 parts in C channels.

    Raises:
        ValueError: another number of axes, or fewer than two parts.

    Example:
        >>> contrast_readings([[4.0], [1.0], [1.0]])[1]
        'Figure: channel 1: parts 4, 1, 1; mean 2, largest 4, released contrast 1, paper contrast -2.'
    """
    parts = np.asarray(parts, float)
    if parts.ndim != 2 or len(parts) < 2:
        raise ValueError(f"parts: got shape {parts.shape}, expected (n, channels) with n at least 2")
    mean, largest = parts.mean(0), parts.max(0)
    pooled = [mean, largest, (parts.sum(0) - largest) / (len(parts) - 1), mean - largest]
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    channels = np.arange(1, parts.shape[1] + 1)
    for number, values in enumerate(parts, start=1):
        where = channels - 0.2 - 0.09 * (len(parts) - number)  # beside each other, as values may be equal
        axes.plot(where, values, linestyle="", marker=f"${number}$", markersize=8, color="black")
    for step, ((name, marker, colour), values) in enumerate(zip(READINGS, pooled, strict=True)):
        where = channels - 0.08 + 0.12 * step
        axes.plot(where, values, linestyle="", marker=marker, markersize=8, color=colour, label=name)
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xticks=channels, xlabel="channel (left in each: the parts, by their number)", ylabel="value")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    names = ("mean", "largest", "released contrast", "paper contrast")
    texts = []
    for channel, own in zip(channels, parts.T, strict=True):
        found = ", ".join(f"{name} {values[channel - 1]:g}" for name, values in zip(names, pooled, strict=True))
        texts.append(f"channel {channel}: parts {', '.join(f'{v:g}' for v in own)}; {found}")
    return figure, f"Figure: {' | '.join(texts)}."


@styled
def stripe_bars(
    images: Sequence[np.ndarray], titles: Sequence[str], values: Mapping[str, Sequence[float]], label: str
) -> tuple[Figure, str]:
    """Draw pictures cut in stripes, and beside them a bar for each stripe.

    Args:
        images: uint8 (H, W, 3) each, drawn at one size.
        titles: a short text for each.
        values: a number ≥ 0 for each stripe from top to bottom, by what was compared.
        label: what the numbers are.

    Raises:
        ValueError: no images or no numbers, another number of titles, or rows of different lengths.

    Example:
        >>> stripe_bars([np.zeros((64, 32, 3), np.uint8)], ["a"], {"alone": [0.1, 0.25]}, "distance")[1]
        'Figure: distance of the stripes from top to bottom. alone: 0.10, 0.25.'
    """
    lengths = {len(row) for row in values.values()}
    if not len(images) or len(titles) != len(images) or len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"got {len(images)} images, {len(titles)} titles and rows of {sorted(lengths)} numbers; "
            "expected a title an image and one number a stripe"
        )
    parts = lengths.pop()
    ratios = [1.0] * len(images) + [3.2]
    size = (1.45 * len(images) + 4.6, 4.0)
    figure, panels = plt.subplots(1, len(ratios), figsize=size, width_ratios=ratios, squeeze=False)
    for axes, image, title in zip(panels.flat, images, titles, strict=False):
        picture(axes, image, aspect="auto")
        _cut(axes, len(image), parts, color="black", linewidth=2.5)
        _cut(axes, len(image), parts, color="#E69F00", linewidth=1.2)
        axes.set_title(title, fontsize=9, loc="center")
    axes, high = panels.flat[-1], 0.8 / len(values)
    for step, (hatch, (name, row)) in enumerate(zip(cycle(HATCHES), values.items(), strict=False)):
        where = np.arange(1, parts + 1) - 0.4 + high * (step + 0.5)
        axes.barh(where, row, high, label=name, hatch=hatch, edgecolor="black", linewidth=0.5)
    axes.set(yticks=range(1, parts + 1), ylim=(parts + 0.5, 0.5), xlabel=label, ylabel="stripe")
    axes.grid(False, axis="y")
    figure.legend(loc="outside lower right", ncols=len(values), fontsize=9)
    texts = (f"{name}: {', '.join(f'{value:.2f}' for value in row)}" for name, row in values.items())
    return figure, f"Figure: {label} of the stripes from top to bottom. {'; '.join(texts)}."


@styled
def loss_terms(terms: Mapping[str, float], levels: Mapping[str, float]) -> tuple[Figure, str]:
    """Draw the terms of a loss as a table, each as a share of what it is while nothing has been learned.

    Args:
        terms: values by name, "kind/feature" as in `RelationNet.loss`.
        levels: by kind, the value of a term that has learned nothing, > 0.

    Raises:
        ValueError: no terms, a name without "/", or a kind without a level.

    Example:
        >>> loss_terms({"local/part2.1": 3.0, "local/part2.2": 1.0}, {"local": 4.0})[1]
        'Figure: 2 terms as shares of their start. Means: local 0.50. Largest: local/part2.1 with 0.75.'
    """
    kinds = list(dict.fromkeys(name.partition("/")[0] for name in terms))
    features = list(dict.fromkeys(name.partition("/")[2] for name in terms))
    missing = [kind for kind in kinds if kind not in levels]
    if not terms or "" in features or missing:
        raise ValueError(f"got {len(terms)} terms, without a level: {missing}; expected names such as 'local/part6.1'")
    shares = {name: value / levels[name.partition("/")[0]] for name, value in terms.items()}
    table = np.array([[shares.get(f"{kind}/{feature}", np.nan) for feature in features] for kind in kinds])
    figure, axes = plt.subplots(figsize=(0.62 * len(features) + 2.0, 0.5 * len(kinds) + 1.5))
    numbers(axes, table, ".2f", np.nanmin(table), np.nanmax(table), aspect="auto")
    axes.set(yticks=range(len(kinds)), yticklabels=kinds, xticks=range(len(features)))
    axes.set_xticklabels(features, rotation=45, ha="right", rotation_mode="anchor")
    means = ", ".join(f"{kind} {np.nanmean(row):.2f}" for kind, row in zip(kinds, table, strict=True))
    worst = max(shares, key=shares.__getitem__)
    largest = f"Largest: {worst} with {shares[worst]:.2f}."
    return figure, f"Figure: {len(terms)} terms as shares of their start. Means: {means}. {largest}"
