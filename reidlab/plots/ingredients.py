"""Figures of what a recipe is made of: what happens to a batch, and how the learning rate goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reidlab.plots.drawing import picture, styled

SHOWN = 1e-4
"""Lowest rate that has a place in the picture, as a share of the highest: a cosine ends at next to nothing."""


@styled
def augmented_rows(rows: Mapping[str, Sequence[np.ndarray]], shows: str) -> tuple[Figure, str]:
    """Draw rows of pictures of one size, the name of each row at its left.

    Args:
        rows: uint8 (H, W, 3) pictures by the name of what was done to them, the same number of them in each row.
        shows: what they show, for the description.

    Returns:
        The figure and its description.

    Raises:
        ValueError: no rows, or rows of different lengths.

    Example:
        >>> black = np.zeros((8, 4, 3), np.uint8)
        >>> augmented_rows({"as it is": [black] * 2, "mirror": [black] * 2}, "a dark picture")[1]
        'Figure: a dark picture, 2 draws a row: as it is, mirror.'

    Taught in: notebooks/06_training.ipynb
    """
    numbers = {name: len(pictures) for name, pictures in rows.items()}
    if not numbers or len(set(numbers.values())) != 1 or 0 in numbers.values():
        raise ValueError(f"got rows of {numbers or 'nothing'}; expected the same number of pictures in each")
    columns = next(iter(numbers.values()))
    figure, grid = plt.subplots(len(rows), columns, figsize=(0.72 * columns + 1.2, 1.3 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, pictures, strict=True):
            picture(axes, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    return figure, f"Figure: {shows}, {columns} draws a row: {', '.join(rows)}."


@styled
def schedules(rates: Mapping[str, Sequence[float]]) -> tuple[Figure, str]:
    """Draw learning rates over the course of runs, a panel each, on one logarithmic axis.

    Args:
        rates: by the name of the run, its rate at each iteration, all > 0; runs may differ in length, since the axis
            shows shares of a run. Rates below a ten-thousandth of the highest of all are not seen.

    Returns:
        The figure and its description: the highest rate of each run, where it is reached, and the last rate.

    Raises:
        ValueError: no runs, or a rate that is not above 0.

    Example:
        >>> schedules({"short": [0.1, 0.2, 0.2, 0.02]})[1]
        'Figure: learning rate over the run. short: 0.2 from 25%, at the end 0.02.'

    Taught in: notebooks/06_training.ipynb
    """
    if not rates or any(not len(own) or min(own) <= 0 for own in rates.values()):
        raise ValueError(f"got rates of {sorted(rates) or 'no runs'}; expected some for each, all above 0")
    size = (1.9 * len(rates) + 0.8, 2.7)
    figure, panels = plt.subplots(1, len(rates), figsize=size, squeeze=False, sharey=True)
    told, highest = [], max(map(max, rates.values()))
    for axes, (name, own) in zip(panels.flat, rates.items(), strict=True):
        own = np.asarray(own, float)
        axes.step(np.arange(len(own)) / len(own), own, where="post", color="#0072B2")
        axes.set(title=name, xlim=(0, 1), xticks=(0, 0.5, 1), yscale="log", ylim=(SHOWN * highest, 1.6 * highest))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        first = int(np.argmax(own >= own.max() * (1 - 1e-9)))
        told.append(f"{name}: {own.max():.3g} from {first / len(own):.0%}, at the end {own[-1]:.2g}")
    panels.flat[0].set_ylabel("learning rate")
    panels.flat[len(rates) // 2].set_xlabel("share of the run")
    return figure, f"Figure: learning rate over the run. {'; '.join(told)}."
