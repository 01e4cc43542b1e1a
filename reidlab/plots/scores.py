"""Figures of scores: matching curves, ranked strips, precision and recall, rules, intervals, sweeps, thresholds.

Taught in: notebooks/07_evaluation.ipynb
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidlab.evaluation import Evaluation
from reidlab.plots import drawing
from reidlab.plots.drawing import FRAMES, MARKERS, PAIRS, panels, styled

STAYS = {"right": "#C9EBDD", "wrong": "#FBE3D3", "removed": "#F2F2F2"}  # faces; frames and marks repeat the kind


@styled
def cmc(results: Mapping[str, Evaluation], max_rank: int = 20) -> tuple[Figure, str]:
    """Draw cumulative matching curves: the share of queries with a right match among the first k results.

    Args:
        results: evaluations by the name to print; all by the same rule.
        max_rank: how far to draw.

    Raises:
        ValueError: nothing to draw, or evaluations by different rules, which must not be compared.

    Taught in: notebooks/00_start_here.ipynb
    """
    rules = {result.rule for result in results.values()}
    if len(rules) != 1:
        raise ValueError(f"got rules {sorted(rules)}; one picture compares rankings under exactly one rule")
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for marker, (name, result) in zip(cycle(MARKERS), results.items(), strict=False):
        curve = result.cmc[:max_rank]
        axes.plot(np.arange(1, len(curve) + 1), curve, marker=marker, markersize=4, label=name)
    axes.set(xlabel="rank k", ylabel="share of queries", ylim=(0, 1.02), title="right match among the first k")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="best")
    text = "; ".join(
        f"{name}: {r.rank1:.1%} at rank 1, {r.rank(min(10, len(r.cmc))):.1%} at rank 10" for name, r in results.items()
    )
    return figure, f"Figure: matching curves under the {rules.pop()} rule. {text}."


@styled
def ranked_strips(lists: Mapping[str, Sequence[int]]) -> tuple[Figure, str]:
    """Draw ranked lists as strips of right and wrong results, with the precision at every right one.

    Args:
        lists: by name, 1 for a right and 0 for a wrong result, nearest first; each has at least one right.

    Raises:
        ValueError: no list, or one without a right result.

    Example:
        >>> ranked_strips({"first query": [1, 0, 1]})[1]
        'Figure: ranked lists, right results ✓ with the precision there. first query: right at 1, 3; AP 0.83.'
    """
    _check_lists(lists)
    longest = max(len(hits) for hits in lists.values())
    figure, grid = plt.subplots(len(lists), figsize=(0.72 * longest + 0.6, 1.45 * len(lists)), squeeze=False)
    told = []
    for axes, (name, hits) in zip(grid.flat, lists.items(), strict=True):
        precision, _ = _precision_recall(hits)
        for index, hit in enumerate(hits):
            _cell(axes, index, 0, "right" if hit else "wrong", FRAMES["right" if hit else "wrong"][2])
            axes.text(index + 0.5, 1.1, str(index + 1), ha="center", fontsize=9, color="0.35")
            if hit:
                axes.text(index + 0.5, -0.12, f"{precision[index]:.2f}", ha="center", va="top", fontsize=10)
        _bare(axes, longest, 1.4, bottom=-0.5)
        average = precision[np.flatnonzero(hits)].mean()
        axes.set_title(f"{name}: AP = mean of the numbers below = {average:.2f}")
        told.append(f"{name}: right at {', '.join(str(i + 1) for i in np.flatnonzero(hits))}; AP {average:.2f}")
    return figure, f"Figure: ranked lists, right results ✓ with the precision there. {'. '.join(told)}."


@styled
def precision_recall(lists: Mapping[str, Sequence[int]], columns: int = 3) -> tuple[Figure, str]:
    """Draw precision over recall, a panel a list, with the area of the step sum and that of the trapezoids.

    Args:
        lists: by name, 1 for a right and 0 for a wrong result, nearest first; each has at least one right.
        columns: panels in a row.

    Raises:
        ValueError: no list, or one without a right result.

    Example:
        >>> precision_recall({"right at 2": [0, 1]})[1]
        'Figure: precision over recall; area as steps and as trapezoids. right at 2: 0.5 and 0.25.'
    """
    _check_lists(lists)
    figure, grid = panels(len(lists), columns, 2.9, 2.5, extra=0.3, sharex=True, sharey=True)
    told = []
    for axes, (name, hits) in zip(grid, lists.items(), strict=True):
        precision, recall = _precision_recall(hits)
        at = np.flatnonzero(hits)
        steps = precision[at].mean()
        x, y = np.r_[0, recall], np.r_[1, precision]
        trapezoids = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        edges, heights = np.r_[0, recall[at]], precision[at]
        axes.stairs(heights, edges, fill=True, color="#BFD9EC")
        axes.stairs(heights, edges, color="#0072B2", linewidth=1.5, label="steps")
        axes.fill_between(x, y, facecolor="none", edgecolor="#D55E00", hatch="///", linewidth=0)
        axes.plot(x, y, color="#D55E00", linestyle="--", linewidth=1.5, label="trapezoids")
        axes.set_title(f"{name}\nsteps {steps:.4g}, trapezoids {trapezoids:.4g}", fontsize=9)
        axes.set(xlim=(-0.03, 1.03), ylim=(0, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        told.append(f"{name}: {steps:.4g} and {trapezoids:.4g}")
    for axes in grid[::columns]:
        axes.set_ylabel("precision")
    figure.supxlabel("recall", fontsize=11)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=9)
    return figure, f"Figure: precision over recall; area as steps and as trapezoids. {'; '.join(told)}."


@styled
def rule_strips(
    images: Sequence[str], right: Sequence[bool], stays: Mapping[str, Sequence[float]]
) -> tuple[Figure, str]:
    """Draw one ranked list under several rules, a row a rule: what counts, what is sampled at random, what is removed.

    Args:
        images: a short text an image, nearest first; its first line is the name in the description.
        right: whether the image shows the person looked for.
        stays: by rule, the share of random draws in which each image is in the list: 1 always, 0 never.

    Raises:
        ValueError: lists of different lengths, or shares outside [0, 1].

    Example:
        >>> rule_strips(["a", "b"], [True, False], {"market": [0, 1]})[1]
        'Figure: one ranked list of 2 images under 1 rule. market removes a.'
    """
    for rule, shares in stays.items():
        if not len(images) == len(right) == len(shares) or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"{rule}: got shares {list(shares)} for {len(images)} images; expected one in [0, 1] each")
    figure, axes = plt.subplots(figsize=(1.1 * len(images) + 2.6, 1.05 * len(stays) + 0.4))
    told = []
    for row, (rule, shares) in enumerate(stays.items()):
        bottom = len(stays) - 1 - row
        axes.text(-0.15, bottom + 0.42, rule, ha="right", va="center", fontsize=10)
        for column, (name, hit, share) in enumerate(zip(images, right, shares, strict=True)):
            kind = "removed" if share == 0 else "right" if hit else "wrong"
            mark = "–" if kind == "removed" else FRAMES[kind][2] + ("" if share == 1 else f" in {share:.0%}")
            _cell(axes, column, bottom, kind, f"{name}\n{mark}", height=0.84)
        short = [(name.split("\n")[0], share) for name, share in zip(images, shares, strict=True)]
        gone = ", ".join(name for name, share in short if share == 0) or "nothing"
        lots = ", ".join(name for name, share in short if 0 < share < 1)
        told.append(f"{rule} removes {gone}" + (f" and draws lots among {lots}" if lots else ""))
    _bare(axes, len(images), len(stays), left=-2.2)
    rules = f"{len(stays)} rule{'s' if len(stays) > 1 else ''}"
    return figure, f"Figure: one ranked list of {len(images)} images under {rules}. {'; '.join(told)}."


@styled
def intervals(scores: Mapping[str, tuple[float, float, float]], xlabel: str) -> tuple[Figure, str]:
    """Draw scores with their intervals, one below the other.

    Args:
        scores: by name the score, the lower and the upper end of its interval, all in the unit of `xlabel`.
        xlabel: what is shown, with its unit.

    Raises:
        ValueError: no score, or one outside its interval.

    Example:
        >>> intervals({"ours": (0.9, 0.8, 0.95)}, "rank-1")[1]
        'Figure: rank-1 with intervals. ours: 0.9 (0.8 to 0.95).'
    """
    wrong = [name for name, (score, low, high) in scores.items() if not low <= score <= high]
    if not scores or wrong:
        raise ValueError(f"scores outside their intervals: {wrong or 'no scores at all'}")
    figure, axes = plt.subplots(figsize=(6.8, 0.42 * len(scores) + 0.9))
    for row, (score, low, high) in enumerate(scores.values()):
        axes.plot([low, high], [-row, -row], color="#0072B2", linestyle="-", linewidth=3, solid_capstyle="butt")
        axes.plot(score, -row, marker="o", color="black", markersize=6)
    axes.set(yticks=[-row for row in range(len(scores))], yticklabels=list(scores), xlabel=xlabel)
    axes.margins(y=0.25)
    told = "; ".join(f"{name}: {score:.3g} ({low:.3g} to {high:.3g})" for name, (score, low, high) in scores.items())
    return figure, f"Figure: {xlabel} with intervals. {told}."


@styled
def score_curves(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    ylabel: str,
    marked: float | None = None,
) -> tuple[Figure, str]:
    """Draw scores over a setting, a panel a group, with one scale for all panels.

    Args:
        x: values of the setting, increasing.
        panels: by the panel's title, curves by name, each as long as `x`.
        xlabel, ylabel: of all panels.
        marked: a value of `x` to mark by a vertical line, such as a paper's setting.

    Raises:
        ValueError: nothing to draw, or a curve of another length.

    Example:
        >>> score_curves([1, 2, 4], {"rank-1": {"ours": [50, 70, 60]}}, "k", "%")[1]
        'Figure: % over k. rank-1, ours: 50 at 1, highest 70 at 2, 60 at 4.'
    """
    if not panels or any(len(y) != len(x) for curves in panels.values() for y in curves.values()):
        raise ValueError(f"expected at least one panel, and {len(x)} values in each curve, one for each x")
    figure, grid = drawing.panels(len(panels), len(panels), 3.4, 3.0, extra=1.4, sharex=True, sharey=True)
    told = []
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for marker, (name, y) in zip(cycle(MARKERS), curves.items(), strict=False):
            axes.plot(x, y, marker=marker, label=name)
            best = int(np.argmax(y))
            told.append(
                f"{title}, {name}: {y[0]:.3g} at {x[0]:g}, highest {y[best]:.3g} at {x[best]:g}, "
                f"{y[-1]:.3g} at {x[-1]:g}"
            )
        if marked is not None:
            axes.axvline(marked, color="0.5", linestyle=":", linewidth=1.5)
        axes.set(xlabel=xlabel, title=title)
    grid[0].set_ylabel(ylabel)
    names = {line.get_label(): line for axes in grid for line in axes.lines if line.get_label()[:1] != "_"}
    figure.legend(names.values(), names.keys(), loc="outside right center", fontsize=9)
    return figure, f"Figure: {ylabel} over {xlabel}. {'; '.join(told)}."


@styled
def before_after(before: Sequence[float], after: Sequence[float], names: tuple[str, str]) -> tuple[Figure, str]:
    """Draw a score of every query before and after a change: above the diagonal it won, below it lost.

    Args:
        before, after: (Q,) scores in [0, 1]; NaN marks queries that were skipped.
        names: of the two axes.

    Raises:
        ValueError: different lengths, or nothing to draw.

    Example:
        >>> before_after([0.5, 1.0, 0.2], [0.7, 0.9, 0.2], ("plain", "re-ranked"))[1]
        'Figure: 3 queries, plain against re-ranked: 1 up, 1 down, 1 unchanged; largest gain 0.20, largest loss 0.10.'
    """
    old, new = np.asarray(before, float), np.asarray(after, float)
    if old.shape != new.shape or not np.isfinite(old + new).any():
        raise ValueError(f"got {old.shape} and {new.shape} scores, expected one of each for every query")
    shown = np.isfinite(old + new)
    old, new = old[shown], new[shown]
    change = np.where(np.abs(new - old) < 1e-9, 0.0, new - old)
    figure, axes = plt.subplots(figsize=(3.9, 3.7))
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="-", linewidth=1)
    for kind, chosen, marker, colour in (
        ("up", change > 0, "^", "#009E73"),
        ("down", change < 0, "v", "#D55E00"),
        ("unchanged", change == 0, ".", "0.4"),
    ):
        label = f"{chosen.sum()} {kind}"
        axes.plot(old[chosen], new[chosen], marker, color=colour, linestyle="", label=label, alpha=0.8)
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), aspect="equal")
    axes.legend(loc="lower right", fontsize=9)
    counts = f"{(change > 0).sum()} up, {(change < 0).sum()} down, {(change == 0).sum()} unchanged"
    extremes = f"largest gain {max(change.max(), 0):.2f}, largest loss {max(-change.min(), 0):.2f}"
    return figure, f"Figure: {len(old)} queries, {names[0]} against {names[1]}: {counts}; {extremes}."


@styled
def distance_histograms(
    sites: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], threshold: float, xlabel: str
) -> tuple[Figure, str]:
    """Draw how far pairs of one person and pairs of two people are apart, a panel a site, with one threshold in all.

    Args:
        sites: by name the edges of the bins (B + 1,), the counts of pairs of the same person (B,) and of
            different people (B,).
        threshold: drawn in every panel; pairs below it are called the same person.
        xlabel: of the distance.

    Raises:
        ValueError: no site, or counts that do not fit the edges.

    Example:
        >>> distance_histograms({"here": ([0, 1, 2], [3, 1], [0, 4])}, 1.0, "distance")[1]
        'Figure: share of pairs over distance, threshold 1. here: 4 pairs of one person, 4 of two people.'
    """
    if not sites or any(len(edges) != len(c) + 1 for edges, *counts in sites.values() for c in counts):
        raise ValueError("expected at least one site, each with one more edge than counts")
    figure, grid = plt.subplots(len(sites), figsize=(6.8, 1.9 * len(sites) + 0.4), sharex=True, squeeze=False)
    told = []
    for axes, (name, (edges, same, other)) in zip(grid.flat, sites.items(), strict=True):
        for counts, (label, style) in zip((same, other), PAIRS.items(), strict=True):
            axes.stairs(np.asarray(counts, float) / max(np.sum(counts), 1), edges, label=label, **style)
        axes.axvline(threshold, color="black", linestyle=":", linewidth=2, label=f"threshold {threshold:.3g}")
        axes.set(title=name, ylabel="share of pairs")
        told.append(f"{name}: {int(np.sum(same))} pairs of one person, {int(np.sum(other))} of two people")
    grid.flat[-1].set_xlabel(xlabel)
    grid.flat[0].legend(loc="best", fontsize=9)
    return figure, f"Figure: share of pairs over {xlabel}, threshold {threshold:.3g}. {'; '.join(told)}."


@styled
def neighbour_map(
    points: np.ndarray, names: Sequence[str], nearest: Mapping[int, Sequence[int]], query: int = 0
) -> tuple[Figure, str]:
    """Draw points of the plane and arrows to their nearest ones; arrows that the query gets back are thick.

    Args:
        points: (N, 2).
        names: (N,) a short text a point.
        nearest: by point, the points that it counts among its nearest.
        query: the point whose neighbours are looked at.

    Raises:
        ValueError: names or points that do not fit.

    Example:
        >>> points = np.array([[0.0, 0.0], [1.0, 0.0], [1.2, 0.0]])
        >>> neighbour_map(points, "qab", {0: [1], 1: [2], 2: [1]})[1]
        'Figure: 3 points; q points at a; of these none points back.'
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2 or len(names) != len(points) or query not in nearest:
        raise ValueError(f"got points {points.shape} and {len(names)} names; expected (N, 2), N names, and the query's")
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    mutual = [other for other in nearest[query] if query in nearest.get(other, ())]
    for start, ends in nearest.items():
        for end in ends:
            both = {start, end} <= {query, *mutual} and query in (start, end)
            arrow = {"arrowstyle": "-|>", "shrinkA": 9, "shrinkB": 9, "connectionstyle": "arc3,rad=0.12"}
            arrow |= {"color": "#009E73", "linewidth": 2.4} if both else {"color": "0.6", "linewidth": 1.2, "ls": "--"}
            axes.annotate("", points[end], points[start], arrowprops=arrow)
    for index, (point, name) in enumerate(zip(points, names, strict=True)):
        face = "black" if index == query else "white"
        axes.plot(*point, marker="o", markersize=17, color=face, markeredgecolor="black")
        axes.text(*point, name, ha="center", va="center", fontsize=10, color="white" if index == query else "black")
    axes.set(aspect="equal")
    axes.margins(0.12)
    back = ", ".join(names[i] for i in mutual) or "none"
    verb = "point" if len(mutual) > 1 else "points"
    ends = ", ".join(names[i] for i in nearest[query])
    return figure, f"Figure: {len(points)} points; {names[query]} points at {ends}; of these {back} {verb} back."


def _check_lists(lists: Mapping[str, Sequence[int]]) -> None:
    wrong = [name for name, hits in lists.items() if not any(hits)]
    if not lists or wrong:
        raise ValueError(f"expected lists with at least one right result each; got none in {wrong or 'no list at all'}")


def _precision_recall(hits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    found = np.cumsum(np.asarray(hits, bool))
    return found / np.arange(1, len(found) + 1), found / found[-1]


def _cell(axes: Axes, x: float, y: float, kind: str, text: str, height: float = 1.0) -> None:
    colour, line, _ = FRAMES["junk" if kind == "removed" else kind]
    look = {"facecolor": STAYS[kind], "edgecolor": colour, "linestyle": line, "linewidth": 2}
    axes.add_patch(plt.Rectangle((x + 0.05, y), 0.9, height, **look))
    ink = "0.55" if kind == "removed" else "black"
    axes.text(x + 0.5, y + height / 2, text, ha="center", va="center", fontsize=9, color=ink)


def _bare(axes: Axes, width: float, height: float, left: float = 0.0, bottom: float = -0.05) -> None:
    axes.set(xlim=(left, width), ylim=(bottom, height))
    axes.axis("off")
