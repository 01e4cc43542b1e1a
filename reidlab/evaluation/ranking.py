"""Rank-k, CMC, average precision and mINP from features or from distances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from reidlab.checks import feature_tensor, float_tensor
from reidlab.distances import l2_normalize, near_one, pairwise
from reidlab.evaluation.labels import Labels, LabelSet
from reidlab.evaluation.own_image import refuse_own_distances, refuse_own_features
from reidlab.evaluation.rules import RULES, matches_and_junk
from reidlab.evaluation.scores import Evaluation
from reidlab.evaluation.tally import Settings, score

__all__ = ["RULES", "Evaluation", "evaluate", "evaluate_distances", "matches_and_junk"]

BUFFER_BYTES = 2**26
"""Similarity of one chunk of queries to the whole gallery: 64 MB."""


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

    A right image's rank is 1 + the number of images that are nearer, so the gallery is not sorted, and the whole
    matrix never exists. All entries of a row come from one product and are compared unrounded: computed twice, in two
    ways, the same distance may differ in its last digit, and an image would count as nearer than itself. For the
    same reason a tie here is a tie of inner products, not of `1 - x`, which rounds some different ones to the
    same distance: `evaluate_distances` may count a few more ties.

    Args:
        query_features: (Q, D), on any device; the work is done there.
        gallery_features: (G, D), from the same model, on the same device.
        query_pids, gallery_pids: (Q,) and (G,) identities; gallery images with pid -1 are junk for everybody.
        query_camids, gallery_camids: (Q,) and (G,) cameras.
        metric: "cosine", "euclidean" or "squared"; the last two rank alike.
        rule: how the matching curve is taken, see `reidlab.evaluation.rules`: "market", "cuhk03_open_reid",
            "cuhk03_torchreid" or "allshots". Average precision is the same under all four.
        same_camera: "exclude": for each query, gallery images of the same identity AND the same camera are left
            out. "keep": they count, for data from one camera; then no query image may itself be in the gallery,
            which is refused (`reidlab.evaluation.own_image`).
        repeats: draws of the gallery for each query; only the two cuhk03 rules draw.
        seed: of the draws.
        chunk_size: how many queries are ranked at a time; None: as many as fit 64 MB. Bounds memory at
            chunk_size × G numbers; a product of another size may round a last digit otherwise, nothing else changes.
        max_rank: length of the CMC curve, at most G; None: G.

    Returns:
        An `Evaluation`. Equal distances are ranked in gallery order.

    Raises:
        ValueError: lengths that do not fit, NaN, an unknown rule or metric, no query with a match, or queries that
            find themselves.

    Warns:
        ChanceLevelWarning: the mean AP cannot be told from that of a random order.

    Example:
        >>> result = evaluate(
        ...     torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]),
        ...     query_pids=[1], gallery_pids=[2, 1, 1], query_camids=[1], gallery_camids=[2, 2, 1])
        >>> result.rank1, result.mean_ap, result.mean_ap_trapezoid
        (0.0, 0.5, 0.25)

    Source: Zheng et al. 2015 (rule, mAP); Zhong et al. 2017 (the same rule for CUHK03's new protocol).
    Taught in: notebooks/00_start_here.ipynb
    """
    settings = Settings(metric, rule, same_camera, repeats, seed, max_rank)
    labels = LabelSet(query_pids, gallery_pids, query_camids, gallery_camids, same_camera)
    query = feature_tensor("query_features", query_features).detach()
    gallery = feature_tensor("gallery_features", gallery_features).detach()
    labels.check(len(query), len(gallery))
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: expected at least 1, or None")
    if metric in ("euclidean", "squared"):
        query, gallery = near_one(query, gallery)
    pairwise(query[:1], gallery[:1], metric)  # refuses an unknown metric, or features of two models
    if labels.has_nobody:
        gallery = gallery[torch.from_numpy(labels.somebody).to(gallery.device)]
    refuse_own_features(query, gallery, labels, metric)
    return score(_similarity(query, gallery, metric, chunk_size), labels, settings)


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
    settings = Settings(metric, rule, same_camera, repeats, seed, max_rank)
    labels = LabelSet(query_pids, gallery_pids, query_camids, gallery_camids, same_camera)
    if isinstance(distmat, Tensor) or hasattr(distmat, "__array__"):
        distmat = float_tensor("distmat", distmat)
        if distmat.ndim != 2:
            raise ValueError(f"distmat: got shape {tuple(distmat.shape)}, expected (Q, G)")
        labels.check(*distmat.shape)
        distmat = distmat.detach().split(max(1, BUFFER_BYTES // (8 * distmat.shape[1])))
    else:
        labels.check(len(labels.query_pids), len(labels.all_gallery_pids))
    return score(_negated(distmat, labels), labels, settings)


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


def _negated(blocks: Iterable[Tensor | np.ndarray], labels: LabelSet) -> Iterator[Tensor]:
    """Check given distances and turn their sign, which turns the order around and rounds nothing."""
    start, expected = 0, (len(labels.query_pids), labels.num_gallery)
    for block in blocks:
        distances = float_tensor("distmat", block)
        stop = start + (len(distances) if distances.ndim else 0)
        if distances.ndim != 2 or distances.shape[1] != expected[1] or stop > expected[0]:
            raise ValueError(
                f"distmat: got {tuple(distances.shape)} for queries from {start} on, expected blocks (rows, "
                f"{expected[1]}) with {expected[0]} rows in all"
            )
        if distances.dtype not in (torch.float32, torch.float64):
            distances = distances.float()
        nan = torch.isnan(distances).any(1)
        if nan.any():
            raise ValueError(
                f"distmat: expected distances without NaN, got some for query {start + int(nan.int().argmax())}"
            )
        if labels.has_nobody:
            distances = distances[:, torch.from_numpy(labels.somebody).to(distances.device)]
        refuse_own_distances(distances, labels, start)
        start = stop
        yield distances.detach().neg()
    if start != expected[0]:
        raise ValueError(f"distmat: got {start} rows in all, expected {expected[0]}, one for each query")
