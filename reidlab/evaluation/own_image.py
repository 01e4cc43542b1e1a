"""Queries that would find themselves: with same_camera="keep" a score counts them as right."""

from __future__ import annotations

import torch
from torch import Tensor

from reidlab.distances import l2_normalize
from reidlab.evaluation.labels import LabelSet

ONE, MOST = 0.002, 0.02
"""Distance of an image to itself, as a share of the median distance between people: up to ONE, for a single query,
covers rounding in float32; up to MOST, for half of the queries, images that were embedded again in bfloat16. Two frames
of a video are farther apart."""
_PAIRS = 4096


def refuse_own_features(query: Tensor, gallery: Tensor, labels: LabelSet, metric: str) -> None:
    """Refuse queries that are in the gallery themselves, in whatever order and however they were embedded.

    Args:
        query, gallery: (Q, D) and (G', D) features, of `near_one` unless the metric is "cosine"; the gallery without
            identity -1.
        labels: checked. Without same_camera="keep" there is nothing to refuse.
        metric: "cosine" compares directions.

    Raises:
        ValueError: a query and a gallery image of its identity are nearly one point, whatever their cameras.
    """
    if labels.same_camera != "keep":
        return
    row, column = (torch.from_numpy(places).to(query.device) for places in labels.same_identity(0, len(query))[:2])
    if not len(row):
        return
    if metric == "cosine":
        query, gallery = l2_normalize(query), l2_normalize(gallery)
    some, others = (places.to(query.device) for places in _sample(len(query), len(gallery)))
    usual = _median(torch.cdist(query[some], gallery[others], compute_mode=_EXACT), labels, 0, some, others)
    pairs = zip(row.split(_PAIRS), column.split(_PAIRS), strict=True)
    distances = torch.cat([(query[rows] - gallery[columns]).norm(dim=1) for rows, columns in pairs])
    _refuse(distances, usual, row, column, labels)


def refuse_own_distances(distances: Tensor, labels: LabelSet, start: int) -> None:
    """The same for a block (rows, G') of distances, for the queries from `start` on.

    Below 0, as negated similarities are, the least of the block takes the place of 0, and half of the queries must be
    next to it.

    Raises:
        ValueError: as above.
    """
    if labels.same_camera != "keep":
        return
    row, column = (
        torch.from_numpy(p).to(distances.device) for p in labels.same_identity(start, start + len(distances))[:2]
    )
    if not len(row):
        return
    some, others = (places.to(distances.device) for places in _sample(*distances.shape))
    usual = _median(distances[some][:, others], labels, start, some, others)
    least = distances.min().clamp(max=0)
    _refuse(distances[row, column] - least, usual - least, row + start, column, labels, bool(least < 0))


_EXACT = "donot_use_mm_for_euclid_dist"


def _sample(rows: int, columns: int, most: int = 256) -> tuple[Tensor, Tensor]:
    return tuple(torch.linspace(0, n - 1, min(n, most)).round().long() for n in (rows, columns))


def _median(distances: Tensor, labels: LabelSet, start: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Median distance of different people, or the largest one where there are none."""
    pids = labels.query_pids[start + rows.cpu().numpy()][:, None] != labels.gallery_pids[columns.cpu().numpy()][None]
    other = distances[torch.from_numpy(pids).to(distances.device) & distances.isfinite()]
    return other.median() if len(other) else distances.max()


def _refuse(
    distances: Tensor, usual: Tensor, row: Tensor, column: Tensor, labels: LabelSet, negative: bool = False
) -> None:
    found = distances < (ONE if negative else MOST) * usual
    if len(row[found].unique()) * 2 < len(row.unique()):
        found = distances < (0 if negative else ONE * usual)
    if not found.any():
        return
    first = int(found.int().argmax())
    number = len(row[found].unique())
    there = int(labels.somebody[int(column[first])])
    raise ValueError(
        f"{number} of {len(labels.query_pids)} queries are in the gallery themselves, or as a copy: query "
        f"{int(row[first])} and gallery image {there} are of one identity and nearly the same. With "
        'same_camera="keep" each would find itself first; take these images out of the gallery'
    )
