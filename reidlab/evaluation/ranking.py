"""Rank-k, CMC and average precision from features or from distances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidlab.distances import pairwise

RULES = ("market",)
Labels = Tensor | np.ndarray | list[int]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one ranking, with all that is needed to read them.

    Args:
        rule: what is left out of the gallery for each query.
        metric: the distance the ranking used.
        cmc: (R,) share of valid queries with a right match among the first 1 … R results, in [0, 1].
        average_precision: (Q,) step sum per query, in [0, 1]; NaN for queries without a valid match.
        average_precision_trapezoid: (Q,) the same by the trapezoid formula, never the higher of the two.
        num_queries: Q.

    Taught in: notebooks/00_start_here.ipynb
    """

    rule: str
    metric: str
    cmc: np.ndarray = field(repr=False)
    average_precision: np.ndarray = field(repr=False)
    average_precision_trapezoid: np.ndarray = field(repr=False)
    num_queries: int

    @property
    def num_valid_queries(self) -> int:
        """Queries with at least one right match left in their gallery; the others are skipped, not counted as 0."""
        return int(np.isfinite(self.average_precision).sum())

    @property
    def rank1(self) -> float:
        """Share of valid queries whose nearest image is the right person, in [0, 1]."""
        return self.rank(1)

    def rank(self, k: int) -> float:
        """Share of valid queries with a right match among the k nearest images, in [0, 1]."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"rank {k}: the curve was computed for ranks 1 … {len(self.cmc)}")
        return float(self.cmc[k - 1])

    @property
    def mean_ap(self) -> float:
        """Mean of the step-sum average precision over the valid queries, in [0, 1]."""
        return float(np.nanmean(self.average_precision))

    @property
    def mean_ap_trapezoid(self) -> float:
        """Mean of the trapezoid average precision, in [0, 1]; compare it with MATLAB-era papers only."""
        return float(np.nanmean(self.average_precision_trapezoid))

    def scores(self) -> dict[str, Any]:
        """The numbers of a results file, under the names that every results file uses."""
        ranks = {f"rank{k}": self.rank(k) for k in (1, 5, 10) if k <= len(self.cmc)}
        return {
            "rule": self.rule,
            "metric": self.metric,
            "ap_formula": "step",
            **ranks,
            "mean_ap": self.mean_ap,
            "mean_ap_trapezoid": self.mean_ap_trapezoid,
            "num_queries": self.num_queries,
            "num_valid_queries": self.num_valid_queries,
        }

    def __str__(self) -> str:
        skipped = self.num_queries - self.num_valid_queries
        return (
            f"rank-1 {self.rank1:.1%}, mAP (step) {self.mean_ap:.1%}, mAP (trapezoid) {self.mean_ap_trapezoid:.1%}; "
            f"{self.rule} rule, {self.metric} distance, {self.num_valid_queries} queries, {skipped} without a match"
        )


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
    chunk_size: int = 256,
    max_rank: int = 50,
) -> Evaluation:
    """Rank the gallery for every query and score the lists.

    Args:
        query_features: (Q, D).
        gallery_features: (G, D), from the same model.
        query_pids, gallery_pids: (Q,) and (G,) identities; gallery images with pid -1 are junk for everybody.
        query_camids, gallery_camids: (Q,) and (G,) cameras.
        metric: "cosine" or "euclidean".
        rule: "market": for each query, gallery images of the same identity AND the same camera are left out.
        chunk_size: how many queries are ranked at a time; bounds memory at chunk_size × G distances.
        max_rank: length of the CMC curve, cut to the size of the gallery.

    Returns:
        An `Evaluation`. Equal distances are ranked in gallery order.

    Raises:
        ValueError: lengths that do not fit, NaN, an unknown rule or metric, or no query with a match.

    Example:
        >>> result = evaluate(
        ...     torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]),
        ...     query_pids=[1], gallery_pids=[2, 1, 1], query_camids=[1], gallery_camids=[2, 2, 1])
        >>> result.rank1, result.mean_ap, result.mean_ap_trapezoid
        (0.0, 0.5, 0.25)

    Source: Zheng et al. 2015 (rule, mAP); Zhong et al. 2017 (the same rule for CUHK03's new protocol).
    Taught in: notebooks/00_start_here.ipynb
    """
    labels = _Labels(query_pids, gallery_pids, query_camids, gallery_camids)
    labels.check(len(query_features), len(gallery_features))
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: expected at least 1")
    chunks = (
        pairwise(query_features[start : start + chunk_size], gallery_features, metric)
        for start in range(0, len(query_features), chunk_size)
    )
    return _score(chunks, labels, metric, rule, max_rank)


def evaluate_distances(
    distmat: Tensor | np.ndarray,
    *,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    metric: str = "as given",
    rule: str = "market",
    max_rank: int = 50,
) -> Evaluation:
    """Score the lists that a distance matrix (Q, G) implies, smaller meaning more alike.

    Arguments, result and errors as in `evaluate`.

    Example:
        >>> result = evaluate_distances(
        ...     torch.tensor([[0.3, 0.1, 0.2]]), query_pids=[1], gallery_pids=[1, 2, 1],
        ...     query_camids=[1], gallery_camids=[2, 2, 2])
        >>> round(result.mean_ap, 4)
        0.5833

    Taught in: notebooks/00_start_here.ipynb
    """
    distmat = torch.as_tensor(distmat)
    if distmat.ndim != 2 or torch.isnan(distmat).any():
        raise ValueError(f"distmat: got shape {tuple(distmat.shape)}, expected (Q, G) without NaN")
    labels = _Labels(query_pids, gallery_pids, query_camids, gallery_camids)
    labels.check(*distmat.shape)
    return _score([distmat], labels, metric, rule, max_rank)


def matches_and_junk(
    query_pids: Tensor, query_camids: Tensor, gallery_pids: Tensor, gallery_camids: Tensor
) -> tuple[Tensor, Tensor]:
    """Tell for the market rule which gallery images are right, and which do not count at all.

    Args:
        query_pids, query_camids: identities and cameras of queries, in a shape that broadcasts with the others.
        gallery_pids, gallery_camids: identities and cameras of gallery images.

    Returns:
        Two boolean tensors: right matches (same identity, other camera), and junk (same identity and same
        camera, or identity -1).

    Example:
        >>> matches, junk = matches_and_junk(
        ...     torch.tensor(4), torch.tensor(1), torch.tensor([4, 9, 4, -1]), torch.tensor([1, 1, 2, 2]))
        >>> matches.tolist(), junk.tolist()
        ([False, False, True, False], [True, False, False, True])

    Source: Zheng et al. 2015.
    Taught in: notebooks/00_start_here.ipynb
    """
    same_person = gallery_pids == query_pids
    junk = (same_person & (gallery_camids == query_camids)) | (gallery_pids == -1)
    return same_person & ~junk, junk


class _Labels:
    """The four label vectors as tensors."""

    def __init__(self, query_pids: Labels, gallery_pids: Labels, query_camids: Labels, gallery_camids: Labels):
        as_tensor = [torch.as_tensor(v).cpu() for v in (query_pids, gallery_pids, query_camids, gallery_camids)]
        if any(v.is_floating_point() and (v != v.round()).any() for v in as_tensor):
            raise ValueError("pids and camids are whole numbers; got fractions among them")
        as_tensor = [v.long() for v in as_tensor]
        self.query_pids, self.gallery_pids, self.query_camids, self.gallery_camids = as_tensor

    def check(self, num_queries: int, num_gallery: int) -> None:
        if not num_queries or not num_gallery:
            raise ValueError(
                f"got {num_queries} queries and {num_gallery} gallery images, expected at least one of each"
            )
        for name, expected in (("query", num_queries), ("gallery", num_gallery)):
            for kind in ("pids", "camids"):
                got = tuple(getattr(self, f"{name}_{kind}").shape)
                if got != (expected,):
                    raise ValueError(f"{name}_{kind}: got shape {got}, expected ({expected},), one for each feature")


def _score(chunks, labels: _Labels, metric: str, rule: str, max_rank: int) -> Evaluation:
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
    if max_rank < 1:
        raise ValueError(f"max_rank={max_rank}: expected at least 1")
    max_rank = min(max_rank, len(labels.gallery_pids))
    step, trapezoid, first_hits, start = [], [], [], 0
    for distances in chunks:
        stop = start + len(distances)
        matches, kept = _ranked_matches(distances.cpu(), labels, slice(start, stop))
        for values, result in zip((step, trapezoid, first_hits), _average_precision(matches, kept), strict=True):
            values.append(result)
        start = stop
    first_hit = torch.cat(first_hits)
    valid = first_hit > 0
    if not valid.any():
        raise ValueError(_no_match_message(labels))
    counts = torch.bincount(first_hit[valid].clamp(max=max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return Evaluation(
        rule=rule,
        metric=metric,
        cmc=(counts.cumsum(0).double() / valid.sum()).numpy(),
        average_precision=torch.cat(step).numpy(),
        average_precision_trapezoid=torch.cat(trapezoid).numpy(),
        num_queries=len(first_hit),
    )


def _ranked_matches(distances: Tensor, labels: _Labels, rows: slice) -> tuple[Tensor, Tensor]:
    """Sort each row; return which results are right and which count at all, both (q, G), nearest first."""
    order = distances.argsort(dim=1, stable=True)
    gallery = labels.gallery_pids[order], labels.gallery_camids[order]
    matches, junk = matches_and_junk(labels.query_pids[rows, None], labels.query_camids[rows, None], *gallery)
    return matches, ~junk


def _average_precision(matches: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step and trapezoid average precision (NaN without a match) and the rank of the first hit (0 without one)."""
    rank = kept.cumsum(1)  # (q, G) rank among what is kept, from 1
    hits = matches.cumsum(1)  # (q, G) right results so far
    total = hits[:, -1].double()
    precision = torch.where(matches, hits / rank.double(), 0.0)
    # the precision just before each hit; before rank 1 the trapezoid formula takes it to be 1
    before = torch.where(matches, torch.where(rank > 1, (hits - 1) / (rank - 1).clamp(min=1).double(), 1.0), 0.0)
    step = precision.sum(1) / total  # 0 / 0 is NaN: no valid match
    trapezoid = (precision + before).sum(1) / (2 * total)
    first_hit = torch.where(matches & (hits == 1), rank, 0).amax(1)
    return step, trapezoid, first_hit


def _no_match_message(labels: _Labels) -> str:
    cameras = sorted(set(labels.query_camids.tolist()) | set(labels.gallery_camids.tolist()))
    shared = set(labels.query_pids.tolist()) & set(labels.gallery_pids.tolist())
    why = (
        "no identity is in both query and gallery"
        if not shared
        else f"{len(shared)} identities are in both, but never in another camera (cameras: {cameras})"
    )
    return (
        f"none of the {len(labels.query_pids)} queries has a match to find: {why}. "
        "Under the market rule a match is the same identity in another camera; check pids and camids"
    )
