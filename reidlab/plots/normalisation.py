"""Figures of features and distances: who is nearest while something is varied, and the scale of distances.

Taught in: notebooks/02_feature_normalisation.ipynb
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reidlab.plots import drawing
from reidlab.plots.drawing import styled

MEASURES = {  # colour, line style, bend of the arrow: distinct without colour, and never on top of each other
    "cosine": ("#0072B2", "-", 0.25),
    "euclidean": ("#D55E00", "--", -0.25),
    "dot": ("#7A4B94", ":", 0.0),
}


@styled
def nearest_neighbours(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: Sequence[str],
    measures: Sequence[str] = ("cosine", "euclidean"),
    columns: int = 3,
) -> tuple[Figure, str]:
    """Draw a query and its nearest point by each measure, a panel for each value of what is varied.

    A panel in which some measure chooses another point than in the panel before has a thick frame and ▶.

    Args:
        panels: by title, the query (2,) and the points (N, 2) it searches in.
        names: of the N points.
        measures: "cosine", "euclidean" and "dot" (the largest dot product).
        columns: panels in a row.

    Raises:
        ValueError: no panel, an unknown measure, points that are not (N, 2) with N names, or one at the origin.

    Example:
        >>> panels = {"short": ([2, 1], [[1, 0.5], [2, 0]]), "long": ([2, 1], [[2, 1], [2, 0]])}
        >>> nearest_neighbours(panels, "ab")[1]
        'Figure: the nearest point in 2 panels (short, long). cosine: a, a; euclidean: b, a. It changes at long.'
    """
    choices = _choices(panels, names, measures)
    figure, grid = drawing.panels(len(panels), columns, 3.1, 2.8, sharex=True, sharey=True)
    before, changed = None, []
    for axes, (title, (query, points)), chosen in zip(grid, panels.items(), choices, strict=True):
        _scene(axes, np.asarray(query, float), np.asarray(points, float), names, chosen)
        turn = before is not None and chosen != before
        axes.set_title(f"▶ {title}" if turn else title, fontweight="bold" if turn else "normal")
        if turn:
            changed.append(title)
            axes.spines[:].set(visible=True, linewidth=2.5)
        before = chosen
    for measure in measures:
        colour, line, _ = MEASURES[measure]
        grid[0].plot([], [], color=colour, linestyle=line, label=measure)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(measures))
    told = "; ".join(f"{m}: {', '.join(names[chosen[m]] for chosen in choices)}" for m in measures)
    turns = f"It changes at {', '.join(changed)}." if changed else "It never changes."
    return figure, f"Figure: the nearest point in {len(panels)} panels ({', '.join(panels)}). {told}. {turns}"


@styled
def distance_scales(features: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str) -> tuple[Figure, str]:
    """Draw distances of pairs of one person and of two people, a panel a kind of feature, each at its own scale.

    Args:
        features: by name, the distances of pairs of the same person and of pairs of different people.
        xlabel: of the distance.

    Raises:
        ValueError: no panel, or one without distances of both kinds.

    Example:
        >>> text = distance_scales({"ours": ([0.1, 0.3], [0.2, 0.4])}, "distance")[1]
        >>> text[text.index("ours") :]
        'ours: middle 0.2 and 0.3, the same person nearer in 75.00 % of comparisons.'
    """
    if not features or any(not len(group) for groups in features.values() for group in groups):
        raise ValueError("expected at least one panel, each with distances of the same person and of different people")
    figure, grid = drawing.panels(len(features), len(features), 3.5, 2.9)
    told = []
    for axes, (name, groups) in zip(grid, features.items(), strict=True):
        same, other = (np.asarray(group, float) for group in groups)
        edges = np.linspace(min(same.min(), other.min(), 0), max(same.max(), other.max()), 61)
        for group, (label, style) in zip((same, other), drawing.PAIRS.items(), strict=True):
            axes.stairs(np.histogram(group, edges)[0] / len(group), edges, label=label, **style)
        axes.set(title=name, xlabel=xlabel)
        below, up_to = (np.searchsorted(np.sort(other), same, side) for side in ("left", "right"))
        share = 100 * float(1 - (below + up_to).mean() / (2 * len(other)))  # a tie counts one half
        middle = f"{np.median(same):.2g} and {np.median(other):.2g}"
        told.append(f"{name}: middle {middle}, the same person nearer in {share:.2f} % of comparisons")
    grid[0].set_ylabel("share of pairs")
    grid[0].legend(loc="upper right", fontsize=9)
    return figure, (
        f"Figure: share of pairs over {xlabel}, filled for one person, dashed for two; every panel has a scale of its "
        f"own. {'; '.join(told)}."
    )


def _choices(panels: Mapping, names: Sequence[str], measures: Sequence[str]) -> list[dict[str, int]]:
    unknown = [measure for measure in measures if measure not in MEASURES]
    if not panels or not measures or unknown:
        raise ValueError(f"got {len(panels)} panels and measures {list(measures)}; expected some of {list(MEASURES)}")
    chosen = []
    for title, (query, points) in panels.items():
        query, points = np.asarray(query, float), np.asarray(points, float)
        if query.shape != (2,) or points.shape != (len(names), 2):
            raise ValueError(f"{title}: got {query.shape} and {points.shape}, expected (2,) and ({len(names)}, 2)")
        if not (query.any() and points.any(axis=1).all()):
            raise ValueError(f"{title}: a point lies at the origin; it has no direction, so no cosine")
        dot = points @ query
        values = {
            "cosine": -dot / np.linalg.norm(points, axis=1),
            "euclidean": np.linalg.norm(points - query, axis=1),
            "dot": -dot,
        }
        chosen.append({measure: int(values[measure].argmin()) for measure in measures})
    return chosen


def _scene(axes: Axes, query: np.ndarray, points: np.ndarray, names: Sequence[str], chosen: Mapping[str, int]) -> None:
    for point in (*points, query):  # rays from the origin make angles visible
        axes.plot(*zip((0, 0), point, strict=True), color="0.75", linestyle="-", linewidth=1, zorder=1)
    axes.plot(0, 0, marker="+", color="black", markersize=9)
    for measure, index in chosen.items():
        colour, line, bend = MEASURES[measure]
        look = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 2, "shrinkA": 7, "shrinkB": 8}
        axes.annotate("", points[index], query, arrowprops={**look, "connectionstyle": f"arc3,rad={bend}"})
    for point, name in zip((query, *points), ("q", *names), strict=True):
        face, ink = ("black", "white") if name == "q" else ("white", "black")
        axes.plot(*point, marker="o", markersize=14, color=face, markeredgecolor="black", zorder=3)
        axes.text(*point, name, ha="center", va="center", fontsize=9, color=ink, zorder=4)
    axes.set_xlabel(", ".join(f"{measure} {names[index]}" for measure, index in chosen.items()), fontsize=9)
    axes.margins(0.15)
    axes.set_aspect("equal")
