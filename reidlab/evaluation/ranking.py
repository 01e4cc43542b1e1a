"""Ranked lists, from features or from distances: each right image gets its rank. `scores` reads the numbers off them.

A right image's rank is 1 + the number of images that are nearer, so the gallery is not sorted, and the whole matrix
never exists. Everything is ranked by similarity, where larger means nearer: similarities as they are, distances
negated, which reverses the order of a row exactly. NaN marks junk, which has no place in a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from reidlab.checks import feature_tensor, float_tensor
from reidlab.distances import l2_normalize, near_one, pairwise
from reidlab.evaluation.rules import (
    SAMPLED,
    GallerySampler,
    Labels,
    LabelSet,
    check_rule,
    refuse_own_distances,
    refuse_own_features,
)
from reidlab.evaluation.scores import Evaluation, RankedLists, score_lists

BUFFER_BYTES = 2**26
"""Similarity of one chunk of queries to the whole gallery: 64 MB."""

FEW = 2048
"""As soon as no more candidates than this are left of a row, they are sorted and searched, which is quicker."""


def evaluate(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    metric: str = "cosine",
    rule: str = "market",
    same_camera: str = "exclude",
    repeats: int = 10,
    seed: int = 0,
    chunk_size: int | None = None,
    max_rank: int | None = None,
) -> Evaluation:
    """Rank the gallery for every query and score the lists.

    All entries of a row come from one product and are compared unrounded: computed twice, in two ways, the same
    distance may differ in its last digit, and an image would count as nearer than itself. For the same reason a tie
    here is a tie of inner products, not of `1 - x`, which rounds some different ones to the same distance:
    `evaluate_distances` may count a few more ties.

    Args:
        query_features: (Q, D), on any device; the work is done there.
        gallery_features: (G, D), from the same model, on the same device.
        query_pids, gallery_pids: (Q,) and (G,) identities; gallery images with pid -1 are junk for every query.
        query_camids, gallery_camids: (Q,) and (G,) cameras.
        metric: "cosine", "euclidean" or "squared"; the last two rank alike.
        rule: how the matching curve is taken, see `reidlab.evaluation.rules`: "market", "cuhk03_open_reid",
            "cuhk03_torchreid" or "allshots". Average precision is the same under all four.
        same_camera: "exclude": for each query, gallery images of the same identity AND the same camera are left
            out. "keep": they count, for data from one camera; queries that are in the gallery themselves are refused.
        repeats: draws of the gallery for each query; only the two cuhk03 rules draw.
        seed: of the draws.
        chunk_size: how many queries are ranked at a time; None: as many as fit 64 MB. Bounds memory at
            chunk_size × G numbers; a product of another size may round a last digit otherwise, nothing else changes.
        max_rank: length of the CMC curve, at most G; None: G.

    Returns:
        An `Evaluation`. Equal distances are ranked in gallery order.

    Raises:
        ValueError: lengths that do not fit, NaN, an unknown rule or metric, no query with a match, or queries that
            are in the gallery.

    Warns:
        ChanceLevelWarning: the mean AP is not significantly above that of a random order.

    Example:
        >>> result = evaluate(
        ...     torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]),
        ...     query_pids=[1], gallery_pids=[2, 1, 1], query_camids=[1], gallery_camids=[2, 2, 1])
        >>> result.rank1, result.mean_ap, result.mean_ap_trapezoid
        (0.0, 0.5, 0.25)

    Source: Zheng et al. 2015 (rule, mAP); Zhong et al. 2017 (the same rule for CUHK03's new protocol).
    Taught in: notebooks/00_start_here.ipynb
    """
    check_rule(rule, same_camera, repeats, max_rank)
    query = feature_tensor("query_features", query_features).detach()
    gallery = feature_tensor("gallery_features", gallery_features).detach()
    shape = len(query), len(gallery)
    labels = LabelSet(query_pids, gallery_pids, query_camids, gallery_camids, same_camera, shape)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: expected at least 1, or None")
    if metric in ("euclidean", "squared"):
        query, gallery = near_one(query, gallery)
    pairwise(query[:1], gallery[:1], metric)  # refuses an unknown metric, or features of two models
    gallery = labels.without_unknown(gallery, dim=0)
    refuse_own_features(query, gallery, labels, metric)
    lists = rank_lists(_similarity(query, gallery, metric, chunk_size), labels, rule, repeats, seed)
    return score_lists(lists, labels, metric, rule, repeats, seed, max_rank)


def evaluate_distances(
    distmat: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
    *,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    metric: str = "as given",
    rule: str = "market",
    same_camera: str = "exclude",
    repeats: int = 10,
    seed: int = 0,
    max_rank: int | None = None,
) -> Evaluation:
    """Score the lists that distances imply, smaller meaning more alike.

    Args:
        distmat: (Q, G) distances without NaN; or blocks (rows, G) of it in the order of the queries, from a list
            or a generator, for a matrix that does not fit in memory. Infinity is allowed: -inf is nearest, inf
            farthest, and images at inf tie like any others.
        metric: the name to print.
        query_pids, gallery_pids, query_camids, gallery_camids, rule, same_camera, repeats, seed, max_rank: as in
            `evaluate`.

    Returns:
        As in `evaluate`.

    Raises:
        ValueError: as in `evaluate`; blocks whose rows are more or fewer than the queries.

    Example:
        >>> result = evaluate_distances(
        ...     torch.tensor([[0.3, 0.1, 0.2]]), query_pids=[1], gallery_pids=[1, 2, 1],
        ...     query_camids=[1], gallery_camids=[2, 2, 2])
        >>> round(result.mean_ap, 4)
        0.5833

    Taught in: notebooks/00_start_here.ipynb
    """
    check_rule(rule, same_camera, repeats, max_rank)
    blocks, labels = distance_blocks(distmat, query_pids, gallery_pids, query_camids, gallery_camids, same_camera)
    lists = rank_lists((block.neg() for block in blocks), labels, rule, repeats, seed)
    return score_lists(lists, labels, metric, rule, repeats, seed, max_rank)


def distance_blocks(
    distmat: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    same_camera: str,
    finite: bool = False,
) -> tuple[Iterator[Tensor], LabelSet]:
    """Check distances and labels, given as to `evaluate_distances`; `finite` refuses infinity, too.

    Returns:
        Blocks (rows, G'), float32 or float64, without the gallery's identity -1; and the labels.
    """
    shape = None
    if isinstance(distmat, Tensor) or hasattr(distmat, "__array__"):
        distmat = float_tensor("distmat", distmat)
        if distmat.ndim != 2:
            raise ValueError(f"distmat: got shape {tuple(distmat.shape)}, expected (Q, G)")
        shape = tuple(distmat.shape)
    labels = LabelSet(query_pids, gallery_pids, query_camids, gallery_camids, same_camera, shape)
    blocks = distmat if shape is None else distmat.split(max(1, BUFFER_BYTES // (8 * shape[1])))
    return _checked_blocks(blocks, labels, finite), labels


def _checked_blocks(blocks: Iterable[Tensor | np.ndarray], labels: LabelSet, finite: bool) -> Iterator[Tensor]:
    start, expected = 0, (len(labels.query_pids), labels.num_gallery)
    for block in blocks:
        distances = float_tensor("distmat", block).detach()
        if distances.ndim != 2 or distances.shape[1] != expected[1] or start + len(distances) > expected[0]:
            raise ValueError(
                f"distmat: got {tuple(distances.shape)} for queries from {start} on, expected blocks (rows, "
                f"{expected[1]}) with {expected[0]} rows in all"
            )
        if distances.dtype not in (torch.float32, torch.float64):
            distances = distances.float()
        bad = (~distances.isfinite() if finite else distances.isnan()).any(1).nonzero().flatten()
        if len(bad):
            found, wanted = ("NaN or infinity", "finite distances") if finite else ("NaN", "distances without NaN")
            raise ValueError(f"distmat: got {found} for query {start + int(bad[0])}, expected {wanted}")
        distances = labels.without_unknown(distances, dim=1)
        refuse_own_distances(distances, labels, start)
        start += len(distances)
        yield distances
    if start != expected[0]:
        raise ValueError(f"distmat: got {start} rows in all, expected {expected[0]}, one for each query")


def _similarity(query: Tensor, gallery: Tensor, metric: str, chunk_size: int | None) -> Iterator[Tensor]:
    """Yield (rows, G) numbers that are larger the nearer an image is; each block overwrites the one before."""
    if metric == "cosine":
        query, gallery = l2_normalize(query), l2_normalize(gallery)
        offset = None
    else:  # -|q - g|² / 2 less |q|² / 2, which is the same for the whole row
        for x, y in ((query[:1], gallery), (query, gallery[:1])):
            pairwise(x, y, metric)  # refuses rows that mean nothing, and names them
        offset = gallery.square().sum(1) / -2
    size = chunk_size or max(1, BUFFER_BYTES // (max(1, len(gallery)) * gallery.element_size()))
    buffer = gallery.new_empty(min(size, len(query)), len(gallery))
    for rows in query.split(size):
        block = buffer[: len(rows)]
        with torch.autocast(gallery.device.type, enabled=False):
            if offset is None:
                torch.mm(rows, gallery.T, out=block)
            else:
                torch.addmm(offset, rows, gallery.T, out=block)
        yield block


def rank_lists(blocks: Iterable[Tensor], labels: LabelSet, rule: str, repeats: int, seed: int) -> RankedLists:
    """Rank the right images of all queries, given the similarity in blocks (rows, G') without identity -1 and NaN.

    Each block is done with before the next is computed; junk in it is overwritten with NaN.
    """
    sampler = None
    if rule in SAMPLED:
        sampler = GallerySampler(rule, labels.gallery_pids, labels.gallery_camids, repeats, seed)
    queries, ranks, drawn = [], [], []
    kept = np.full(len(labels.query_pids), len(labels.gallery_pids))
    num_tied = start = 0
    for block in blocks:
        row, column, junk = labels.same_identity(start, start + len(block))
        if junk.any():
            at = (torch.from_numpy(index[junk]).to(block.device) for index in (row, column))
            block[tuple(at)] = torch.nan
        kept[start : start + len(block)] -= np.bincount(row, junk, minlength=len(block)).astype(np.int64)
        row, column = row[~junk], column[~junk]
        found, tied = rank_right_images(block, row, column)
        queries.append(start + row)
        ranks.append(found)
        num_tied += int(tied.sum())
        for i in np.unique(row) if sampler is not None else ():  # its right image's rank in each draw
            places, own = sampler.draw(int(labels.query_camids[start + i]), column[row == i])  # (R, K)
            similarity = look_up(block, np.full_like(places, i), places)
            of_right, right = similarity[:, own, None], places[:, own, None]
            before = (similarity > of_right) | ((similarity == of_right) & (places < right))
            drawn.append((start + i, 1 + before.sum(1), places.shape[1]))
        start += len(block)
    return RankedLists(np.concatenate(queries), np.concatenate(ranks), kept, num_tied, drawn)


def rank_right_images(block: Tensor, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank the right images (n,) of the queries of a block (rows, G), whose junk is NaN; ties are in gallery order.

    Args:
        block: similarity of the gallery to the queries.
        row, column: places of the right images in the block; rows ascend, and so do the columns of a row.

    Returns:
        (n,) ranks from 1, ascending for each query; and (rows,) whether a right image is tied with a wrong one.

    Example:
        >>> block = torch.tensor([[torch.nan, 0.5, 0.5, 0.2, 0.8]])  # the list is 4, then 1 and 2 tied, then 3
        >>> rank_right_images(block, np.array([0, 0]), np.array([2, 3]))
        (array([3, 4]), array([ True]))
    """
    values = look_up(block, row, column)
    order = np.lexsort((-values, row))  # stable: equal ones stay in gallery order
    column, values = column[order], values[order]
    if block.device.type == "cpu":
        counts = np.empty((2, len(values)), np.int64)
        bounds = np.searchsorted(row, np.arange(len(block) + 1)).tolist()
        for similarity, start, stop in zip(block.numpy(), bounds, bounds[1:], strict=False):
            if start < stop:
                counts[:, start:stop] = count_nearer(similarity, values[start:stop])
        more, reach = counts
    else:
        more, reach = count_nearer_at_once(block, row, values)
    equal = reach - more
    ranks = 1 + more
    for k in np.flatnonzero(equal > 1):  # among equals, those that come before it in the gallery stand before it
        ranks[k] += int((block[row[k], : column[k]] == float(values[k])).sum())
    starts_run = np.ones(len(row), bool)
    starts_run[1:] = (row[1:] != row[:-1]) | (values[1:] != values[:-1])
    run = np.cumsum(starts_run) - 1
    equal_and_right = np.bincount(run)[run]
    return ranks, np.bincount(row, equal > equal_and_right, minlength=len(block)) > 0


def count_nearer(row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count for each value how many entries of a row exceed it, and how many reach it.

    Farthest value first: entries that do not reach it cannot matter to nearer ones, and are dropped as soon as
    that saves work. With good features the first comparison leaves a few percent of the gallery.

    Args:
        row: (G,) similarity of the gallery to one query; NaN neither exceeds nor reaches anything.
        values: (n,) some of its entries, nearest first, without NaN.

    Example:
        >>> count_nearer(np.array([0.9, 0.3, 0.5, np.nan, 0.3, 0.1]), np.array([0.5, 0.3]))
        (array([1, 2]), array([2, 4]))
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


def count_nearer_at_once(block: Tensor, row: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`count_nearer` for all rows of a block on a GPU at once; only `values` (n,) and counts are transferred.

    `row` (n,) are the rows that the values belong to, ascending; the values of a row are nearest first.
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
    """Entries of a block on any device, as numpy, in the shape of `row` and `column`."""
    if block.device.type == "cpu":
        return block.numpy()[row, column]
    return block[torch.from_numpy(row).to(block.device), torch.from_numpy(column).to(block.device)].cpu().numpy()
