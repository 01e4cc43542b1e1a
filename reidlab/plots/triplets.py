"""Figures of triplets and of the losses made of them.

Taught in: notebooks/03_triplet_losses.ipynb
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reidlab.plots.drawing import MARKERS, panels, styled

PERSON_MARKERS = "os^Dv"
SMALLEST = 1e-8
"""A logarithmic axis has no place for 0; drawn here, it is seen to be small."""
PULL, PUSH = ("#009E73", "-"), ("#D55E00", "--")
"""Colour and line of what a triplet pulls together and what it pushes apart."""


def _points(axes: Axes, points: np.ndarray, pids: Sequence[int]) -> None:
    for marker, pid in zip(cycle(PERSON_MARKERS), dict.fromkeys(pids), strict=False):
        own = points[[p == pid for p in pids]]
        axes.scatter(*own.T, s=110, marker=marker, zorder=3, edgecolors="black", label=f"person {pid}")
    for number, point in enumerate(points):
        axes.annotate(str(number), point, xytext=(7, 6), textcoords="offset points", fontsize=10, zorder=4)
    axes.set_aspect("equal")
    axes.margins(0.15)


def _checked(points: np.ndarray, pids: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    points = np.asarray(points, float)
    if points.shape != (len(pids), 2):
        raise ValueError(f"points: got shape {points.shape} for {len(pids)} pids, expected ({len(pids)}, 2)")
    return points, [int(pid) for pid in pids]


@styled
def triplet_zones(
    points: np.ndarray, pids: Sequence[int], anchor: int, positive: int, margin: float
) -> tuple[Figure, str]:
    """Draw where a negative is hard, semi-hard or easy for one anchor and one positive, Euclidean distance.

    Args:
        points: (N, 2) features.
        pids: (N,) identities.
        anchor, positive: indices of two points of one person.
        margin: of the loss, ≥ 0.

    Raises:
        ValueError: points of another shape, or an anchor and a positive of two people.

    Example:
        >>> triplet_zones([[0, 0], [1, 0], [0, 1.2]], [7, 7, 8], 0, 1, margin=0.5)[1]
        'Figure: zones around anchor 0 with positive 1 at distance 1.00 and margin 0.5: 2 is semi-hard.'
    """
    points, pids = _checked(points, pids)
    if pids[anchor] != pids[positive] or anchor == positive:
        raise ValueError(f"anchor {anchor} and positive {positive}: expected two different images of one person")
    figure, axes = plt.subplots(figsize=(5.6, 4.4))
    reach = float(np.linalg.norm(points[anchor] - points[positive]))
    for radius, shade in ((reach + margin, "#FBE3CF"), (reach, "#F3B98C")):
        axes.add_patch(plt.Circle(points[anchor], radius, facecolor=shade, edgecolor="black", linewidth=1, zorder=0))
    _points(axes, points, pids)
    axes.plot(*points[[anchor, positive]].T, color=PULL[0], zorder=2)
    for radius, text in ((reach / 2, "hard"), (reach + margin / 2, "semi-hard"), (reach + 1.35 * margin, "easy")):
        axes.text(points[anchor][0], points[anchor][1] - radius, text, ha="center", va="center", fontsize=10, zorder=1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    zones = []
    for index, (point, pid) in enumerate(zip(points, pids, strict=True)):
        if pid != pids[anchor]:
            distance = np.linalg.norm(points[anchor] - point)
            zone = "hard" if distance <= reach else "semi-hard" if distance < reach + margin else "easy"
            zones.append(f"{index} is {zone}")
    where = f"anchor {anchor} with positive {positive} at distance {reach:.2f} and margin {margin}"
    return figure, f"Figure: zones around {where}: {', '.join(zones)}."


@styled
def chosen_triplets(
    points: np.ndarray, pids: Sequence[int], choices: Mapping[str, np.ndarray], anchor: int
) -> tuple[Figure, str]:
    """Draw which triplets of one anchor several ways of mining choose, a panel each.

    Args:
        points: (N, 2) features.
        pids: (N,) identities.
        choices: (T, 3) anchors, positives and negatives by the name of the mining.
        anchor: whose triplets to draw.

    Raises:
        ValueError: points of another shape, or no choices.

    Example:
        >>> chosen_triplets([[0, 0], [1, 0], [0, 2]], [7, 7, 8], {"hardest": np.array([[0, 1, 2]])}, 0)[1]
        'Figure: triplets of anchor 0. hardest: pulls 1, pushes 2.'
    """
    points, pids = _checked(points, pids)
    if not choices:
        raise ValueError("choices is empty: name at least one way of mining")
    width, height = 1.3 * np.ptp(points, axis=0) + 1e-6
    tall = 4.0 * min(2.0, height / width) + 0.4
    figure, grid = panels(len(choices), 2, 4.2, tall, sharex=True, sharey=True)
    texts = []
    for axes, (name, triplets) in zip(grid, choices.items(), strict=True):
        own = [tuple(map(int, t)) for t in np.asarray(triplets) if t[0] == anchor]
        pulled, pushed = sorted({p for _, p, _ in own}), sorted({n for _, _, n in own})
        for others, (colour, line) in ((pulled, PULL), (pushed, PUSH)):
            for other in others:
                axes.plot(*points[[anchor, other]].T, color=colour, linestyle=line, zorder=2)
        _points(axes, points, pids)
        axes.set_title(name)
        pushes = ", ".join(map(str, pushed)) or "nobody"
        texts.append(f"{name}: pulls {', '.join(map(str, pulled)) or 'nobody'}, pushes {pushes}")
    return figure, f"Figure: triplets of anchor {anchor}. {'; '.join(texts)}."


@styled
def margin_shapes(margins: Sequence[float | None]) -> tuple[Figure, str]:
    """Draw the loss of one triplet over its gap d_ap - d_an, for several margins.

    Args:
        margins: numbers ≥ 0, or None for the soft margin.

    Raises:
        ValueError: no margins.

    Example:
        >>> margin_shapes([0.3, None])[1]
        'Figure: loss of one triplet over d_ap - d_an; at gap 0: margin 0.3: 0.300; soft margin: 0.693.'
    """
    if not len(margins):
        raise ValueError("margins is empty: name at least one")
    gaps = np.linspace(-2, 1, 301)
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    texts = []
    for margin in margins:
        loss = np.log1p(np.exp(gaps)) if margin is None else np.maximum(0, gaps + margin)
        name = "soft margin" if margin is None else f"margin {margin}"
        axes.plot(gaps, loss, label=name)
        texts.append(f"{name}: {np.interp(0, gaps, loss):.3f}")
    axes.axvline(0, color="black", linewidth=1, linestyle=":")
    axes.set(xlabel="d(anchor, positive) − d(anchor, negative)", ylabel="loss", ylim=(0, None))
    axes.legend()
    return figure, f"Figure: loss of one triplet over d_ap - d_an; at gap 0: {'; '.join(texts)}."


@styled
def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log: bool = False
) -> tuple[Figure, str]:
    """Draw curves over a common axis, a marker and a line style each.

    Args:
        curves: x and y values by name.
        x, y: what the axes show.
        log: logarithmic axes, for growth over several powers of ten.

    Raises:
        ValueError: no curves.

    Example:
        >>> lines({"passes": ([1, 2], [3, 6])}, "triplets", "passes")[1]
        'Figure: passes over triplets. passes: 3 at 1, 6 at 2.'
    """
    if not curves:
        raise ValueError("curves is empty: there is nothing to draw")
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for marker, (name, (xs, ys)) in zip(cycle(MARKERS), curves.items(), strict=False):
        axes.plot(xs, ys, marker=marker, label=name)
    axes.set(xlabel=x, ylabel=y)
    if log:
        axes.set(xscale="log", yscale="log")
    axes.legend()
    ends = "; ".join(f"{n}: {ys[0]:.3g} at {xs[0]:g}, {ys[-1]:.3g} at {xs[-1]:g}" for n, (xs, ys) in curves.items())
    return figure, f"Figure: {y} over {x}. {ends}."


@styled
def runs(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    columns: Sequence[str],
    levels: Mapping[str, float] | None = None,
    log: Sequence[str] = (),
) -> tuple[Figure, str]:
    """Draw several training runs side by side, a panel for each column of their histories.

    Args:
        histories: rows with "iteration" and the columns, by the name of the run.
        columns: what to draw.
        levels: heights to mark in the first panel, by name.
        log: columns with a logarithmic axis, on which what is below 1e-8 is drawn at 1e-8.

    Raises:
        ValueError: no runs, or a run without rows.

    Example:
        >>> runs({"one": [{"iteration": 1, "triplet": 0.5}]}, ["triplet"], {"the margin": 0.3})[1]
        'Figure: triplet. one ends at 0.5.'
    """
    if not histories or not all(histories.values()):
        raise ValueError(f"got histories of {[len(rows) for rows in histories.values()]} rows; expected some rows each")
    figure, grid = panels(len(columns), len(columns), 4.2, 3.2)
    for axes, column in zip(grid, columns, strict=True):
        for marker, (name, rows) in zip(cycle(MARKERS), histories.items(), strict=False):
            values = [max(row[column], SMALLEST) if column in log else row[column] for row in rows]
            axes.plot([row["iteration"] for row in rows], values, marker=marker, markersize=4, label=name)
        axes.set(xlabel="iteration", title=column.replace("_", " "))
        if column in log:
            axes.set_yscale("log")
    for name, height in (levels or {}).items():
        grid[0].axhline(height, color="black", linewidth=1, linestyle=":")
        grid[0].annotate(name, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    grid[-1].legend()
    last = {name: ", ".join(f"{rows[-1][column]:.3g}" for column in columns) for name, rows in histories.items()}
    ends = (f"{name} ends at {values}" for name, values in last.items())
    return figure, f"Figure: {', '.join(c.replace('_', ' ') for c in columns)}. {'; '.join(ends)}."


@styled
def seed_spread(
    scores: Mapping[str, Sequence[float]], label: str, live: Mapping[str, float] | None = None
) -> tuple[Figure, str]:
    """Draw scores of several seeds as dots, their mean as a bar, best mean first.

    Args:
        scores: one score a seed, in [0, 1], by name.
        label: what the scores are, with all that is needed to read them.
        live: a score of today's run, drawn as a star beside those of the same name.

    Raises:
        ValueError: no scores, or a live score of a name that is not there.

    Example:
        >>> seed_spread({"a": [0.5, 0.6], "b": [0.7, 0.7]}, "rank-1")[1]
        'Figure: rank-1 in percent, mean ± standard deviation over seeds. b: 70.0 ± 0.0; a: 55.0 ± 7.1.'
    """
    live = live or {}
    if not scores or not set(live) <= set(scores):
        raise ValueError(f"got scores of {sorted(scores)} and live scores of {sorted(live)}; a star needs its row")
    names = sorted(scores, key=lambda name: -float(np.mean(scores[name])))
    figure, axes = plt.subplots(figsize=(8.0, 0.32 * len(names) + 1.0))
    texts = []
    for height, name in enumerate(names):
        values = 100 * np.asarray(scores[name], float)
        axes.plot(values, np.full(len(values), height), "o", markersize=6, color="#0072B2", alpha=0.7)
        axes.plot([values.mean()] * 2, [height - 0.35, height + 0.35], "-", color="black")
        if name in live:
            axes.plot(100 * live[name], height, "*", markersize=14, color="#D55E00")
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        texts.append(f"{name}: {values.mean():.1f} ± {spread:.1f}")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=f"{label} (%)", ylim=(len(names) - 0.5, -0.5))
    star = f" Star: today's run, {', '.join(f'{n} {100 * v:.1f}' for n, v in live.items())}." if live else ""
    return figure, f"Figure: {label} in percent, mean ± standard deviation over seeds. {'; '.join(texts)}.{star}"
