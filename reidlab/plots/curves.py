"""Matching curves and training histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reidlab.evaluation import Evaluation
from reidlab.plots.drawing import styled

NOT_LOSSES = ("iteration", "learning_rate", "active_anchors", "mean_distance")
"""Columns of a history that are no terms of the loss."""


@styled
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


@styled
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
    terms = [name for name in rows[0] if name not in NOT_LOSSES]
    iterations = [row["iteration"] for row in rows]
    figure, panels = plt.subplots(1, len(terms), figsize=(3.4 * len(terms), 2.8), squeeze=False)
    for axes, name in zip(panels.flat, terms, strict=True):
        axes.plot(iterations, [row[name] for row in rows], marker="o", markersize=3)
        axes.set(xlabel="iteration", title=name.replace("_", " "))
        if min(row[name] for row in rows) >= 0:
            axes.set_ylim(0, None)
    ends = "; ".join(f"{name.replace('_', ' ')} from {rows[0][name]:.2f} to {rows[-1][name]:.2f}" for name in terms)
    return figure, f"Figure: losses over {int(iterations[-1])} iterations: {ends}."
