"""Figures of a training run: what the loop wrote down, scores on the way, and what came out query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidlab.models.relation import group_terms
from reidlab.plots.drawing import picture, styled

Row = Mapping[str, Any]
FOLLOWED = {
    "learning_rate": "learning rate",
    "active_anchors": "share of active anchors",
    "mean_distance": "mean distance in the batch",
}
"""Columns that are drawn beside the loss where a row has them, by what they are called in a figure."""
CIRCUMSTANCES = {
    "images_per_second": "images per second",
    "memory_mb": "most memory so far (MB)",
    "seconds": "seconds since the start",
}
"""Columns about the computer, drawn only when they are asked for."""
MARKED = 60
"""Curves of up to so many points have a marker at each."""


def _kind(row: Row) -> str:
    return row.get("kind", "evaluation" if "people" in row else "train")


def grouped_losses(row: Row) -> dict[str, float]:
    """Return the loss terms of a row, those of networks of parts added up by kind.

    Args:
        row: of a history, or of metrics.jsonl.

    Returns:
        Values by name: the five groups of `group_terms` for the sixty terms of a relation network, the text before
        "/" for other names with one, every other term by its own name.

    Example:
        >>> grouped_losses({"iteration": 5, "triplet": 0.5, "cross_entropy/a": 2.0, "cross_entropy/b": 1.0})
        {'triplet': 0.5, 'cross_entropy': 3.0}
    """
    others = {"iteration", *FOLLOWED, *CIRCUMSTANCES}
    terms = {
        name: float(value)
        for name, value in row.items()
        if name not in others and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if any(name.startswith("relational/") for name in terms):
        groups = group_terms({name: torch.tensor(value, dtype=torch.float64) for name, value in terms.items()})
        return {name: float(value) for name, value in groups.items()}
    sums: dict[str, float] = {}
    for name, value in terms.items():
        group = name.partition("/")[0]
        sums[group] = sums.get(group, 0.0) + value
    return sums


@styled
def training_curves(rows: Sequence[Row], columns: Sequence[str] | None = None) -> tuple[Figure, str]:
    """Draw a training run over its iterations, a panel for each column.

    Args:
        rows: the history of a `TrainResult`, or rows of metrics.jsonl, of which those of an evaluation are left out.
        columns: what to draw: groups of loss terms as in `grouped_losses`, or other columns, such as
            "images_per_second". None: all losses, then the learning rate, the share of active anchors and the mean
            distance as far as there are any.

    Returns:
        The figure and its description: the first and the last value of each panel.

    Raises:
        ValueError: no rows, or a column that none of them has.

    Example:
        >>> rows = [{"iteration": i, "triplet": 1 / i, "learning_rate": 0.1 * i} for i in (1, 2)]
        >>> training_curves(rows)[1]
        'Figure: training, iterations 1 to 2. triplet from 1 to 0.5; learning rate from 0.1 to 0.2, highest at 2.'

    Taught in: notebooks/06_training.ipynb
    """
    rows = [row for row in rows if _kind(row) == "train"]
    if not rows:
        raise ValueError("got no rows of a training run; train for at least `log_every` iterations")
    others = (*FOLLOWED, *CIRCUMSTANCES)
    table = [{n: row[n] for n in others if row.get(n) is not None} | grouped_losses(row) for row in rows]
    there = list(dict.fromkeys(name for row in rows for name in grouped_losses(row)))
    there += [name for name in FOLLOWED if any(name in row for row in table)]
    columns = there if columns is None else list(columns)
    missing = [name for name in columns if not any(name in row for row in table)]
    if missing or not columns:
        raise ValueError(f"no row has {', '.join(missing) or 'a column to draw'}; the columns are {', '.join(there)}")
    figure, panels = _panels(len(columns))
    told = []
    for axes, column in zip(panels, columns, strict=True):
        points = [(row["iteration"], own[column]) for row, own in zip(rows, table, strict=True) if column in own]
        told.append(_curve(axes, points, column, _how_many(rows[-1], column)))
        axes.set_xlabel("iteration")
    first, last = rows[0]["iteration"], rows[-1]["iteration"]
    return figure, f"Figure: training, iterations {first:g} to {last:g}. {'; '.join(told)}."


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, number)
    lines = -(-number // columns)
    size = (3.3 * columns + 0.2, 2.35 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axes in grid.flat[number:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:number])


def _curve(axes: Axes, points: Sequence[tuple[float, float]], column: str, terms: int) -> str:
    """Draw one column; return what it shows."""
    x, y = zip(*points, strict=True)
    axes.plot(x, y, marker="o" if len(points) <= MARKED else None, markersize=3, color="#0072B2", linestyle="-")
    name = {**FOLLOWED, **CIRCUMSTANCES}.get(column, column.replace("_", " "))
    name = f"{name} (sum of {terms})" if terms > 1 else name
    axes.set_title(name)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if min(y) >= 0:
        axes.set_ylim(0, 1.08 * (1 if column == "active_anchors" else max(y)) or None)
    highest = f", highest at {x[int(np.argmax(y))]:g}" if column == "learning_rate" else ""
    first, last = (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in (y[0], y[-1]))
    return f"{name} from {first} to {last}{highest}"


def _how_many(row: Row, group: str) -> int:
    """How many terms were added up for a group."""
    return round(grouped_losses({name: 1.0 for name in row if "/" in name}).get(group, 0))


@styled
def evaluation_curve(rows: Sequence[Row]) -> tuple[Figure, str]:
    """Draw the scores that a run took on the way, with the level that chance would give.

    Args:
        rows: the evaluations of a `TrainResult`, or rows of metrics.jsonl, of which others are left out: iteration,
            rank1, mean_ap, chance_mean_ap, people ("held-out" or "seen") and their number, identities. Each kind of
            people has a panel.

    Returns:
        The figure and its description: first, highest and last scores.

    Raises:
        ValueError: no rows of an evaluation.

    Example:
        >>> row = {"iteration": 5, "people": "held-out", "identities": 9}
        >>> evaluation_curve([{**row, "rank1": 0.5, "mean_ap": 0.4, "chance_mean_ap": 0.125}])[1]
        'Figure: scores on 9 held-out people. rank-1 0.500 at 5; mAP 0.400 at 5 (chance 0.125).'

    Taught in: notebooks/06_training.ipynb
    """
    rows = [row for row in rows if _kind(row) == "evaluation"]
    if not rows:
        raise ValueError("got no rows of an evaluation; set evaluate_every to have some")
    groups = list(dict.fromkeys(row["people"] for row in rows))
    figure, panels = plt.subplots(1, len(groups), figsize=(6.6 if len(groups) == 1 else 9.6, 3.2), squeeze=False)
    told = []
    for axes, people in zip(panels.flat, groups, strict=True):
        own = [row for row in rows if row["people"] == people]
        x = [row["iteration"] for row in own]
        for name, key, marker, colour, line in (
            ("rank-1", "rank1", "o", "#0072B2", "-"),
            ("mAP", "mean_ap", "s", "#D55E00", "--"),
        ):
            axes.plot(x, [row[key] for row in own], label=name, marker=marker, color=colour, linestyle=line)
        axes.plot(x, [row["chance_mean_ap"] for row in own], ":", color="0.4", label="mAP of chance")
        axes.set(xlabel="iteration", ylim=(0, 1.02), title=f"{own[-1]['identities']} {people} people")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        scores = "; ".join(
            _told(x, [row[key] for row in own], name) for name, key in (("rank-1", "rank1"), ("mAP", "mean_ap"))
        )
        told.append(f"{own[-1]['identities']} {people} people. {scores} (chance {own[-1]['chance_mean_ap']:.3f})")
    panels.flat[0].set_ylabel("share")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure, f"Figure: scores on {'; on '.join(told)}."


def _told(x: Sequence[float], y: Sequence[float], name: str) -> str:
    best = int(np.argmax(y))
    between = f", highest {y[best]:.3f} at {x[best]:g}" if 0 < best < len(y) - 1 else ""
    end = f", {y[-1]:.3f} at {x[-1]:g}" if len(y) > 1 else ""
    return f"{name} {y[0]:.3f} at {x[0]:g}{between}{end}"


@styled
def average_precisions(values: Mapping[str, Sequence[float]]) -> tuple[Figure, str]:
    """Draw how the average precision is spread over the queries, as bars of ten equal steps.

    Args:
        values: by name, one average precision in [0, 1] a query; NaN marks queries that were skipped.

    Returns:
        The figure and its description: median, perfect and bad queries of each.

    Raises:
        ValueError: nothing to draw, or a value outside [0, 1].

    Example:
        >>> average_precisions({"last": [1.0, 0.5, 0.1, float("nan")]})[1]
        'Figure: average precision of the queries. last: median 0.50; of 3, 1 at 1 and 1 below 0.2.'
    """
    kept = {name: np.asarray(own, float)[np.isfinite(np.asarray(own, float))] for name, own in values.items()}
    if not kept or any(not len(own) or own.min() < 0 or own.max() > 1 for own in kept.values()):
        sizes = {name: len(own) for name, own in kept.items()}
        raise ValueError(f"got {sizes or 'no'} average precisions; expected at least one each, all in [0, 1]")
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    width, told = 0.092 / len(kept), []
    for step, ((name, own), colour, hatch) in enumerate(
        zip(kept.items(), ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), ("", "//", "..", "xx"), strict=False)
    ):
        counts, edges = np.histogram(own, bins=10, range=(0, 1))
        where = edges[:-1] + 0.004 + width * (step + 0.5)
        axes.bar(where, counts, width, color=colour, hatch=hatch, edgecolor="black", linewidth=0.5, label=name)
        told.append(
            f"{name}: median {np.median(own):.2f}; of {len(own)}, {(own == 1).sum()} at 1 and "
            f"{(own < 0.2).sum()} below 0.2"
        )
    axes.set(xlabel="average precision", ylabel="queries", xlim=(0, 1), xticks=np.linspace(0, 1, 6))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(kept) > 1:
        axes.legend()
    return figure, f"Figure: average precision of the queries. {'. '.join(told)}."


@styled
def gate_maps(
    images: Sequence[np.ndarray], gates: Mapping[str, np.ndarray], titles: Sequence[str] | None = None
) -> tuple[Figure, str]:
    """Draw pictures and, below each, its gates: what attention lets through, for pictures without a true outline.

    Each row has its own scale of colours, from its smallest gate to its largest, which the description tells: gates
    that hardly differ look as strong as any.

    Args:
        images: (H, W, 3) uint8 each.
        gates: by name, (B, h, w), one map for each picture.
        titles: a short text for each picture, or None.

    Returns:
        The figure and its description, with the range of the gates of each row.

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
    lines = len(gates) + 1
    figure, grid = plt.subplots(lines, len(images), figsize=(0.85 * len(images) + 1.0, 1.5 * lines), squeeze=False)
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        picture(grid[0, column], image, aspect="auto")
        grid[0, column].set_title(title, fontsize=9, loc="center")
        for line, maps in enumerate(gates.values(), start=1):
            grid[line, column].imshow(maps[column], aspect="auto", vmin=np.min(maps), vmax=np.max(maps))
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], ["picture", *gates], strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    ranges = "; ".join(f"{name}: {np.min(maps):.2f} to {np.max(maps):.2f}" for name, maps in gates.items())
    return figure, f"Figure: {len(images)} pictures and the gates of their places (dark: low). {ranges}."
