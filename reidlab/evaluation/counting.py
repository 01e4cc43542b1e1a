"""Ranks by counting: a right image's rank is 1 + the number of images that are nearer. The gallery is not sorted.

Everything here works on similarity, where larger means nearer: similarities as they are, distances with their sign
turned, which turns the order of a row around exactly. NaN marks images that take no place in a list.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEW = 2048
"""As soon as no more candidates than this are left of a row, they are sorted and searched, which is quicker."""


def count_nearer(row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count for each value how many entries of a row exceed it, and how many reach it.

    Farthest value first: entries that do not reach it cannot matter to nearer ones, and are dropped as soon as
    that saves work. With features worth having, the first comparison leaves a few percent of the gallery.

    Args:
        row: (G,) similarity of the gallery to one query; NaN neither exceeds nor reaches anything.
        values: (n,) some of its entries, nearest first, without NaN.

    Returns:
        Two (n,) arrays: entries > value, and entries >= value. They differ by 1 where nothing is tied.

    Example:
        >>> count_nearer(np.array([0.9, 0.3, 0.5, np.nan, 0.3, 0.1]), np.array([0.5, 0.3]))
        (array([1, 2]), array([2, 4]))

    Taught in: notebooks/07_evaluation.ipynb
    """
    more, reach = np.empty((2, len(values)), np.int64)
    for k in range(len(values) - 1, -1, -1):
        candidates = row >= values[k]
        reach[k] = np.count_nonzero(candidates)
        if 4 * reach[k] < len(row) or len(row) <= FEW:
            row = row.take(np.flatnonzero(candidates))  # quicker than row[candidates]
        if len(row) <= FEW:
            row.sort()
            more[: k + 1] = len(row) - row.searchsorted(values[: k + 1], side="right")
            reach[: k + 1] = len(row) - row.searchsorted(values[: k + 1], side="left")
            break
        more[k] = np.count_nonzero(row > values[k])
    return more, reach


def count_nearer_by_rows(block: Tensor, row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`count_nearer` for a block in main memory.

    Args:
        block: (c, G) similarity, on the CPU.
        row: (n,) rows that the values belong to, ascending.
        values: (n,) similarity, nearest first within each row.

    Returns:
        Two (n,) arrays as in `count_nearer`.

    Example:
        >>> block = torch.tensor([[0.9, 0.5, 0.3], [0.1, 0.2, 0.3]])
        >>> count_nearer_by_rows(block, np.array([0, 0, 1]), np.array([0.9, 0.5, 0.2], np.float32))
        (array([0, 1, 1]), array([1, 2, 2]))

    Taught in: notebooks/07_evaluation.ipynb
    """
    more, reach = np.empty((2, len(values)), np.int64)
    bounds = np.searchsorted(row, np.arange(len(block) + 1)).tolist()
    for similarity, start, stop in zip(block.numpy(), bounds, bounds[1:], strict=False):
        if start < stop:
            more[start:stop], reach[start:stop] = count_nearer(similarity, values[start:stop])
    return more, reach


def count_nearer_at_once(block: Tensor, row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for a block on a GPU, all rows in one go; only values and counts travel.

    Arguments, result and example as in `count_nearer_by_rows`. Works on the CPU too, more slowly.

    Taught in: notebooks/07_evaluation.ipynb
    """
    place = np.arange(len(row)) - np.searchsorted(row, row)  # 0, 1, … within each row
    by_row = torch.full((int(place.max(initial=-1)) + 1, len(block)), torch.nan, dtype=block.dtype)
    by_row[torch.from_numpy(place), torch.from_numpy(row)] = torch.from_numpy(values)
    counts = np.zeros((2, *by_row.shape), np.int64)
    for k, value in enumerate(by_row.to(block.device)):
        counts[0, k] = (block > value[:, None]).sum(1).cpu().numpy()
        counts[1, k] = (block >= value[:, None]).sum(1).cpu().numpy()
    more, reach = counts[:, place, row]
    return more, reach


def look_up(block: Tensor, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Entries of a block on any device, as numpy, in the shape of `row` and `column`.

    Example:
        >>> look_up(torch.tensor([[0.9, 0.5], [0.1, 0.2]]), np.array([0, 1]), np.array([1, 1]))
        array([0.5, 0.2], dtype=float32)
    """
    if block.device.type == "cpu":
        return block.numpy()[row, column]
    return block[torch.from_numpy(row).to(block.device), torch.from_numpy(column).to(block.device)].cpu().numpy()


def rank_right_images(block: Tensor, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank the right images of some queries, each among all images that count for it.

    Args:
        block: (c, G) similarity of the gallery to the queries, NaN for junk.
        row: (n,) for each right image its query's row in the block, ascending.
        column: (n,) and its gallery index, ascending for each query.

    Returns:
        (n,) ranks from 1, ascending for each query; and (c,) whether the query has a right image tied with a
        wrong one. Images at the same similarity stand in gallery order.

    Example:
        >>> block = torch.tensor([[torch.nan, 0.5, 0.5, 0.2, 0.8]])  # the list is 4, then 1 and 2 tied, then 3
        >>> rank_right_images(block, np.array([0, 0]), np.array([2, 3]))
        (array([3, 4]), array([ True]))

    Taught in: notebooks/07_evaluation.ipynb
    """
    values = look_up(block, row, column)
    order = np.lexsort((-values, row))  # stable: equal ones stay in gallery order
    column, values = column[order], values[order]
    count = count_nearer_by_rows if block.device.type == "cpu" else count_nearer_at_once
    more, reach = count(block, row, values)
    equal = reach - more
    ranks = 1 + more
    for k in np.flatnonzero(equal > 1):  # among equals, those that come before it in the gallery stand before it
        ranks[k] += int((block[row[k], : column[k]] == float(values[k])).sum())
    starts_run = np.ones(len(row), bool)
    starts_run[1:] = (row[1:] != row[:-1]) | (values[1:] != values[:-1])
    run = np.cumsum(starts_run) - 1
    equal_and_right = np.bincount(run)[run]
    return ranks, np.bincount(row, equal > equal_and_right, minlength=len(block)) > 0
