"""Figures of training: losses, learning rates, scores on the way, and what came out query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reidlab.models.relation import group_terms
from reidlab.plots.drawing import panels, styled

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
"""Columns about the computer, drawn only where they are named."""
MARKED = 60
"""Curves of up to so many points have a marker at each."""
SHOWN = 1e-4
"""Lowest learning rate that is drawn, as a share of the highest: a cosine ends at next to nothing."""


@styled
def history(rows: Sequence[Mapping[str, float]]) -> tuple[Figure, str]:
    """Draw the loss terms of a training run over its iterations.

    Args:
        rows: the history of a `TrainResult`.

    Taught in: notebooks/00_start_here.ipynb
    """
    if not rows:
        raise ValueError("the history is empty; train for at least `log_every` iterations")
    terms = [name for name in rows[0] if name not in ("iteration", *FOLLOWED)]
    iterations = [row["iteration"] for row in rows]
    figure, grid = panels(len(terms), len(terms), 3.4, 2.8)
    for axes, name in zip(grid, terms, strict=True):
        axes.plot(iterations, [row[name] for row in rows], marker="o", markersize=3)
        axes.set(xlabel="iteration", title=name.replace("_", " "))
        if min(row[name] for row in rows) >= 0:
            axes.set_ylim(0, None)
    ends = "; ".join(f"{name.replace('_', ' ')} from {rows[0][name]:.2f} to {rows[-1][name]:.2f}" for name in terms)
    return figure, f"Figure: losses over {int(iterations[-1])} iterations: {ends}."


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
    figure, grid = panels(len(columns), 3, 3.3, 2.35, extra=0.2)
    told = []
    for axes, column in zip(grid, columns, strict=True):
        points = [(row["iteration"], own[column]) for row, own in zip(rows, table, strict=True) if column in own]
        terms = grouped_losses({name: 1.0 for name in rows[-1] if "/" in name}).get(column, 0)
        told.append(_curve(axes, points, column, round(terms)))
        axes.set_xlabel("iteration")
    first, last = rows[0]["iteration"], rows[-1]["iteration"]
    return figure, f"Figure: training, iterations {first:g} to {last:g}. {'; '.join(told)}."


def _curve(axes: Axes, points: Sequence[tuple[float, float]], column: str, terms: int) -> str:
    """Draw one column, the sum of so many terms; return what it shows."""
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


@styled
def evaluation_curve(rows: Sequence[Row]) -> tuple[Figure, str]:
    """Draw the scores that a run recorded, with the level of a random ranking.

    Args:
        rows: the evaluations of a `TrainResult`, or rows of metrics.jsonl, of which others are left out: iteration,
            rank1, mean_ap, chance_mean_ap, people ("held-out" or "seen") and their number, identities. Each kind of
            people has a panel.

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
    figure, grid = panels(len(groups), len(groups), (6.6 if len(groups) == 1 else 9.6) / len(groups), 3.2)
    told = []
    for axes, people in zip(grid, groups, strict=True):
        own = [row for row in rows if row["people"] == people]
        x, scores = [row["iteration"] for row in own], []
        for name, key, marker, colour, line in (
            ("rank-1", "rank1", "o", "#0072B2", "-"),
            ("mAP", "mean_ap", "s", "#D55E00", "--"),
        ):
            y = [row[key] for row in own]
            axes.plot(x, y, label=name, marker=marker, color=colour, linestyle=line)
            scores.append(_told(x, y, name))
        axes.plot(x, [row["chance_mean_ap"] for row in own], ":", color="0.4", label="mAP of chance")
        axes.set(xlabel="iteration", ylim=(0, 1.02), title=f"{own[-1]['identities']} {people} people")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        chance = own[-1]["chance_mean_ap"]
        told.append(f"{own[-1]['identities']} {people} people. {'; '.join(scores)} (chance {chance:.3f})")
    grid[0].set_ylabel("share")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
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
def schedules(rates: Mapping[str, Sequence[float]]) -> tuple[Figure, str]:
    """Draw learning rates over the course of runs, a panel each, on one logarithmic axis.

    Args:
        rates: by the name of the run, its rate at each iteration, all > 0; runs may differ in length, since the axis
            shows shares of a run. Rates below a ten-thousandth of the highest of all are not seen.

    Raises:
        ValueError: no runs, or a rate that is not above 0.

    Example:
        >>> schedules({"short": [0.1, 0.2, 0.2, 0.02]})[1]
        'Figure: learning rate over the run. short: 0.2 from 25%, at the end 0.02.'

    Taught in: notebooks/06_training.ipynb
    """
    if not rates or any(not len(own) or min(own) <= 0 for own in rates.values()):
        raise ValueError(f"got rates of {sorted(rates) or 'no runs'}; expected some for each, all above 0")
    figure, grid = panels(len(rates), len(rates), 1.9, 2.7, extra=0.8, sharey=True)
    told, highest = [], max(map(max, rates.values()))
    for axes, (name, own) in zip(grid, rates.items(), strict=True):
        own = np.asarray(own, float)
        axes.step(np.arange(len(own)) / len(own), own, where="post", color="#0072B2")
        axes.set(title=name, xlim=(0, 1), xticks=(0, 0.5, 1), yscale="log", ylim=(SHOWN * highest, 1.6 * highest))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        first = int(np.argmax(own >= own.max() * (1 - 1e-9)))
        told.append(f"{name}: {own.max():.3g} from {first / len(own):.0%}, at the end {own[-1]:.2g}")
    grid[0].set_ylabel("learning rate")
    grid[len(rates) // 2].set_xlabel("share of the run")
    return figure, f"Figure: learning rate over the run. {'; '.join(told)}."
