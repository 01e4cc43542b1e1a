"""Re-ranking with k-reciprocal neighbours, by sparse arithmetic: no array over all pairs of items is ever held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from reidlab.checks import feature_tensor
from reidlab.distances import near_one, squared_lengths

BLOCK_ENTRIES = 2**22
"""Distances that a block holds unless `chunk_size` says otherwise: 16 MB in float32."""

BLOCK_ROWS = 256
"""Rows that it holds at least, since products of fewer are slow."""

NUMBERS_PER_NEIGHBOUR = 1.5
"""Averaged weights of an item for each of (k1 + 1) · k2, in memory at the peak: measured, it depends on the data."""

MINIMA_AT_ONCE = 2**19
"""Pairs of weights compared in one go: few enough to stay in the processor's cache."""


def k_reciprocal_distances(
    query_features: Tensor,
    gallery_features: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    chunk_size: int | None = None,
    report: Callable[[str], object] | None = print,
) -> Tensor:
    """Distances (Q, G) after re-ranking: two images are near if they have the same neighbours.

    Queries and gallery are taken together as N = Q + G items. Squared Euclidean distances are divided, row
    by row, by the largest of the row. Each item gets a set: those of its nearest items that have it among
    their nearest too, and the smaller such sets of these members, where more than 2/3 of one is in the set
    already. Weights exp(-distance) over the set, with sum 1, are averaged over the item's nearest, and the
    Jaccard distance compares the weights of two items. The result mixes it with the plain distance.

    The result depends on all queries: with another set of queries, the same pair gets another distance. State
    that with every score, and do not compare it with scores without re-ranking.

    Features are not normalised here. For cosine distances pass `l2_normalize(features)`: squared Euclidean
    distances of unit-norm features are 2 - 2 cos, in the same order.

    Args:
        query_features: (Q, D), finite.
        gallery_features: (G, D), from the same model, on the same device.
        k1: neighbours besides the item itself: sets are read from the k1 + 1 nearest, the smaller ones from the
            round(k1 / 2) + 1 nearest, halves rounded to the even number, as in the Python ports of the authors'
            program. Their MATLAB takes round((k1 + 1) / 2): for k1 = 3, 7, 11, … one less. 1 ≤ k1 < Q + G.
        k2: how many nearest items, the item itself included, average their weights; 1 changes nothing.
            1 ≤ k2 ≤ Q + G.
        lambda_value: share of the plain distance in [0, 1]; 1 gives the squared Euclidean distance divided
            by the largest of the query's row, 0 the Jaccard distance alone.
        chunk_size: rows of the distance matrix held at a time, chunk_size × (Q + G) numbers; None for about
            4 million numbers, and for 256 rows at least. The result does not depend on it, beyond rounding.
        report: called once, before the work, with a line on the memory it will need; None for silence.

    Returns:
        (Q, G) float32 on the features' device, in [0, 1]. An item is the first of its own neighbours; among
        items at equal distance the one with the lower index is nearer, queries before gallery. Differences below
        the error of `squared_euclidean_distance` are decided by rounding.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, k1, k2, lambda_value or chunk_size out of range,
            or features that are all the same.

    Example:
        >>> query, gallery = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [9.0], [11.0]])
        >>> k_reciprocal_distances(query, gallery, k1=1, k2=1, lambda_value=0.0, report=None).round(decimals=2)
        tensor([[0.0100, 1.0000, 1.0000],
                [1.0000, 0.0100, 1.0000]])

    Source: Zhong et al. 2017, equations 1 to 12.
    Taught in: notebooks/07_evaluation.ipynb
    """
    task = _Task.checked(query_features, gallery_features, k1, k2, lambda_value, chunk_size)
    if report is not None:
        report(task.need(whole=True))
    result = torch.empty(task.num_queries, task.num_gallery, device=task.items.device)
    for _ in _blocks(task, result):
        pass  # each block is a part of the result
    return result


def k_reciprocal_blocks(
    query_features: Tensor,
    gallery_features: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    chunk_size: int | None = None,
    report: Callable[[str], object] | None = print,
) -> Iterator[Tensor]:
    """Distances of `k_reciprocal_distances`, a few queries at a time: for sizes whose matrix would not fit.

    Arguments are checked and `report` is called at once; the work begins with the first block.

    Args:
        query_features, gallery_features, k1, k2, lambda_value, chunk_size, report: as there.

    Returns:
        An iterator over float32 blocks (rows, G), in the order of the queries; `evaluate_distances` and
        `calibrate` take it in place of a matrix.

    Raises:
        ValueError: as there.

    Example:
        >>> query, gallery = torch.tensor([[0.0], [10.0]]), torch.tensor([[1.0], [9.0], [11.0]])
        >>> blocks = k_reciprocal_blocks(query, gallery, k1=1, k2=1, lambda_value=0.0, chunk_size=1, report=None)
        >>> [block.argmin().item() for block in blocks]
        [0, 1]

    Source: Zhong et al. 2017.
    Taught in: notebooks/07_evaluation.ipynb
    """
    task = _Task.checked(query_features, gallery_features, k1, k2, lambda_value, chunk_size)
    if report is not None:
        report(task.need(whole=False))
    return _blocks(task)


@dataclass(frozen=True)
class _Task:
    """Features and settings, checked."""

    items: Tensor  # (N, D), queries first
    squares: Tensor  # (N,) squared lengths
    num_queries: int
    k1: int
    k2: int
    lambda_value: float
    chunk: int

    @classmethod
    def checked(
        cls, query: Tensor, gallery: Tensor, k1: int, k2: int, lambda_value: float, chunk_size: int | None
    ) -> _Task:
        query = feature_tensor("query_features", query).detach()
        gallery = feature_tensor("gallery_features", gallery).detach()
        if not len(query) or not len(gallery):
            raise ValueError(
                f"got {len(query)} queries and {len(gallery)} gallery images, expected at least one of each"
            )
        query, gallery = near_one(query, gallery)
        query, query_squares = squared_lengths("query_features", query)
        gallery, gallery_squares = squared_lengths("gallery_features", gallery)
        total = len(query) + len(gallery)
        if not 1 <= k1 < total:
            raise ValueError(
                f"k1={k1}: expected 1 … {total - 1}, less than the {total} items (queries and gallery together), "
                "since k1 + 1 nearest are taken, the item itself included"
            )
        if not 1 <= k2 <= total:
            raise ValueError(f"k2={k2}: expected 1 … {total}, the number of items (queries and gallery together)")
        if not 0 <= lambda_value <= 1:
            raise ValueError(f"lambda_value={lambda_value}: expected 0 (Jaccard distance) … 1 (plain distance)")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: expected at least 1 row, or None")
        chunk = max(BLOCK_ROWS, BLOCK_ENTRIES // total) if chunk_size is None else chunk_size
        squares = torch.cat([query_squares, gallery_squares])
        return cls(torch.cat([query, gallery]), squares, len(query), k1, k2, lambda_value, min(chunk, total))

    @property
    def num_gallery(self) -> int:
        return len(self.items) - self.num_queries

    def need(self, whole: bool) -> str:
        """One line on memory, at its peak, beyond the features that were passed."""
        total, dimensions = self.items.shape
        size = self.items.element_size()
        items = total * dimensions * size
        block = self.chunk * total * size
        sets = total * NUMBERS_PER_NEIGHBOUR * (self.k1 + 1) * self.k2 * 8
        result = self.num_queries * self.num_gallery * 4 if whole else 0
        mebibytes = (items + 2 * block + sets + result) / 2**20
        return (
            f"re-ranking {self.num_queries:,} queries and {self.num_gallery:,} gallery images needs about "
            f"{mebibytes:,.0f} MiB ({items / 2**20:,.0f} MiB a copy of the features)"
        )


def _blocks(task: _Task, whole: Tensor | None = None) -> Iterator[Tensor]:
    """Yield blocks (rows, G); those of `whole` (Q, G), if there is one, which saves computing distances twice."""
    neighbours, farthest = _nearest(task, whole)
    weights = _weights(task, neighbours, farthest)
    ours, theirs = weights[: task.num_queries], weights[task.num_queries :].tocsc()
    for start in range(0, task.num_queries, task.chunk):
        rows = slice(start, min(start + task.chunk, task.num_queries))
        if whole is None:
            block = _block(task, rows, slice(task.num_queries, None)).add_(task.squares[rows, None]).float()
        else:
            block = whole[rows]
        block.clamp_(min=0).mul_(task.lambda_value / farthest[rows, None])
        block.add_(torch.from_numpy(_jaccard(ours[rows], theirs)).to(block.device), alpha=1 - task.lambda_value)
        yield block.clamp_(0, 1)  # rounding can leave the range by 1e-7


@torch.no_grad()
def _block(task: _Task, rows: slice, columns: slice) -> Tensor:
    """Squared distances (rows, columns) less the squared length of the row's item: they order a row as distances do."""
    with torch.autocast(task.items.device.type, enabled=False):
        return torch.addmm(task.squares[columns], task.items[rows], task.items[columns].T, alpha=-2)


def _nearest(task: _Task, whole: Tensor | None) -> tuple[np.ndarray, Tensor]:
    """Indices (N, K) of each item's nearest, itself first, and (N,) the largest squared distance from each item.

    The squared distances of queries and gallery are kept in `whole` (Q, G), if there is one.
    """
    total, count = len(task.items), max(task.k1 + 1, task.k2)
    nearest = np.empty((total, count), dtype=np.int32)
    farthest = torch.empty_like(task.squares)
    for start in range(0, total, task.chunk):
        rows = slice(start, min(start + task.chunk, total))
        block = _block(task, rows, slice(None))
        if whole is not None and start < len(whole):
            kept = block[: len(whole) - start, len(whole) :]
            whole[rows] = kept + task.squares[start : start + len(kept), None]
        farthest[rows] = block.amax(1) + task.squares[rows]
        block[torch.arange(len(block)), torch.arange(rows.start, rows.stop)] = -torch.inf  # whatever rounding says
        values, indices = block.topk(min(count + 1, total), dim=1, largest=False)  # one more, to find ties at the end
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().flatten()
        if len(tied):
            indices[tied, :count] = _lowest_indices_first(block[tied], values[tied, count - 1], count)
        nearest[rows] = indices[:, :count].cpu().numpy()
    # where all items are one point, what is left of the distances is rounding
    if farthest.max() <= 16 * torch.finfo(farthest.dtype).eps * task.squares.max():
        raise ValueError(
            f"all {total} features are the same, or differ by rounding only; they have no neighbours to distinguish. "
            "Look at the network that made them"
        )
    return nearest, farthest


def _lowest_indices_first(block: Tensor, limit: Tensor, count: int) -> Tensor:
    """Indices (R, count) of the smallest entries of each row, equal ones in order; none is above `limit` (R,)."""
    row, column = (block <= limit[:, None]).nonzero(as_tuple=True)  # in order of rows, then columns
    by_value = block[row, column].argsort(stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    first = torch.searchsorted(row, torch.arange(len(block), device=row.device))
    return column[order][first[:, None] + torch.arange(count, device=row.device)]  # (R, count)


def _weights(task: _Task, neighbours: np.ndarray, farthest: Tensor) -> sparse.csr_matrix:
    """Weights (N, N) of the members of each item's set, of sum 1, averaged over its k2 nearest."""
    members = _reciprocal(neighbours[:, : task.k1 + 1])
    smaller = _reciprocal(neighbours[:, : round(task.k1 / 2) + 1])  # rounds halves to the even number
    shared = (members @ smaller).multiply(members).tocsr()  # `smaller` is symmetric
    shared.data = (3 * shared.data > 2 * np.diff(smaller.indptr)[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    members = members + shared @ smaller  # those of which more than 2/3 are in the set join it
    sizes = np.diff(members.indptr)
    row, column = np.repeat(np.arange(len(sizes)), sizes), members.indices
    weights = np.exp(-_pair_distances(task, row, column, farthest))
    weights /= np.repeat(np.add.reduceat(weights, members.indptr[:-1]), sizes)  # never empty: the item is a member
    weights = sparse.csr_matrix((weights, column, members.indptr), shape=members.shape)
    return weights if task.k2 == 1 else _constant(neighbours[:, : task.k2], np.float32(1 / task.k2)) @ weights


def _reciprocal(neighbours: np.ndarray) -> sparse.csr_matrix:
    """Ones (N, N) where two items are among each other's neighbours (N, K)."""
    forward = _constant(neighbours, np.int32(1))
    return forward.multiply(forward.T.tocsr()).tocsr()


def _constant(columns: np.ndarray, value: np.number) -> sparse.csr_matrix:
    """A matrix (N, N) that holds `value` in the columns (N, K) of each row."""
    total, count = columns.shape
    values, starts = np.full(columns.size, value), np.arange(0, columns.size + 1, count)
    return sparse.csr_matrix((values, columns.ravel(), starts), shape=(total, total))


@torch.no_grad()
def _pair_distances(task: _Task, row: np.ndarray, column: np.ndarray, farthest: Tensor) -> np.ndarray:
    """Normalised squared distances (P,) of P pairs."""
    device = task.items.device
    result = torch.empty(len(row))
    step = max(1, BLOCK_ENTRIES // (8 * task.items.shape[1]))
    for start in range(0, len(row), step):
        i = torch.from_numpy(row[start : start + step]).to(device)
        j = torch.from_numpy(column[start : start + step]).to(device)
        products = task.items.index_select(0, i).mul_(task.items.index_select(0, j)).sum(1)
        squares = (task.squares[i] + task.squares[j] - 2 * products).clamp_(min=0)
        result[start : start + step] = squares / farthest[i]
    return result.numpy()


def _jaccard(ours: sparse.csr_matrix, theirs: sparse.csc_matrix) -> np.ndarray:
    """Jaccard distances (R, G) of weights (R, N) and (G, N): 1 - Σ min / Σ max, where Σ max is 2 - Σ min."""
    num_rows, num_gallery = ours.shape[0], theirs.shape[0]
    result = np.empty((num_rows, num_gallery), dtype=np.float32)
    sharing = np.diff(theirs.indptr)[ours.indices]  # of each weight of ours: how many gallery images have one there
    work = np.concatenate([[0], np.cumsum(sharing)])[ours.indptr]  # (R + 1,) pairs of weights before each row
    start = 0
    while start < num_rows:
        stop = int(np.searchsorted(work, work[start] + MINIMA_AT_ONCE, side="right")) - 1
        stop = max(start + 1, min(stop, start + MINIMA_AT_ONCE // num_gallery))
        minima = _sums_of_minima(ours[start:stop], theirs)
        result[start:stop] = 1 - minima / (2 - minima)
        start = stop
    return result


def _sums_of_minima(ours: sparse.csr_matrix, theirs: sparse.csc_matrix) -> np.ndarray:
    """Σ min (R, G) over the items where both have a weight: each weight of ours with its whole column of theirs."""
    num_rows, num_gallery = ours.shape[0], theirs.shape[0]
    first = theirs.indptr[ours.indices]
    sharing = theirs.indptr[ours.indices + 1] - first
    before = np.cumsum(sharing) - sharing
    entry = np.repeat(first - before, sharing) + np.arange(sharing.sum())
    smaller = np.minimum(np.repeat(ours.data, sharing), theirs.data[entry])
    row = np.repeat(np.arange(num_rows), np.diff(ours.indptr))
    place = np.repeat(row * num_gallery, sharing) + theirs.indices[entry]
    return np.bincount(place, smaller, num_rows * num_gallery).reshape(num_rows, num_gallery)  # (R, G)
